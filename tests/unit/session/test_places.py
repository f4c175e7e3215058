# SPDX-License-Identifier: GPL-2.0-only
"""Tests of where a test runs: its marker, the command line's machines, and who runs what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UsageError
from harness.session.places import BATCH, Place, places, shares


@pytest.mark.parametrize(
    ("names", "options", "wanted"),
    [
        ((), {}, [Place("default")]),
        (("cpu1", "cpu8"), {}, [Place("cpu1"), Place("cpu8")]),
        (("cpu1",), {"full": ("cpu64",)}, [Place("cpu1"), Place("cpu64", full=True)]),
        ((), {"full": "cpu64"}, [Place("cpu64", full=True)]),
        (("cpu1", "cpu1"), {"full": ("cpu1",)}, [Place("cpu1")]),
        (("cpu1",), {"only": True}, [Place("cpu1")]),
    ],
)
def test_a_test_chooses(names: tuple[str, ...], options: dict[str, Any], wanted: list[Place]) -> None:
    assert list(places(names, options, ())) == wanted


def test_the_command_line_overrides() -> None:
    """And --full is no longer asked for: who names a machine means it."""
    assert places(("cpu8",), {"full": ("cpu64",)}, ("cpu64", "cpu1", "cpu1")) == (Place("cpu64"), Place("cpu1"))
    assert places((), {}, ("node2",)) == (Place("node2"),)


def test_a_test_may_refuse_machines() -> None:
    wanted = (Place("cpu64"), Place("node2"), Place("cpu1", refused="runs only on node2, cpu64"))
    assert places(("node2",), {"full": ("cpu64",), "only": True}, ("cpu64", "node2", "cpu1")) == wanted


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("cpu1",), {"ful": ()}, "no option 'ful'"),
        ((8,), {}, "named by a string"),
        (("cpu1",), {"full": 8}, "named by a string"),
        ((), {"only": True}, "no machine is named"),
        ((), {"full": ()}, "no machine is named"),
    ],
)
def test_a_marker_that_nobody_can_obey(names: tuple[object, ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        places(names, options, ())
    assert raised.value.step


@given(st.lists(st.sampled_from("abcd")), st.integers(1, 4))
def test_every_item_has_one_part_and_a_key_stays_together(keys: list[str], parts: int) -> None:
    out = shares(keys, "bc", parts)
    assert len(out) == len(keys) and all(0 <= part < parts for part in out)
    for name in "abcd":
        assert len({part for key, part in zip(keys, out, strict=True) if key == name}) <= 1


def test_parts_are_even_as_far_as_groups_allow() -> None:
    assert shares("abcd", "", 2) == [0, 1, 0, 1]
    tests = [f"test {number}" for number in range(BATCH + 6)]
    out = shares([*tests, "cpu8", "cpu8"], ["cpu8"], 2)
    assert out[-2:] == [0, 0]
    assert (out.count(0), out.count(1)) == (4, BATCH + 4)


def test_two_kernels_of_two_machines_are_shared_out_alike() -> None:
    """Each part then has the same leak batches for both kernels, and they compare."""
    keys = ["a", "b", "c", "cpu8"]
    out = shares([*keys, *keys], ["cpu8"], 2)
    assert out[:4] == out[4:]
    assert set(out) == {0, 1}
