# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the resident ledger: what is attached, what is forgotten, and when a guest is good to be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from harness.core.errors import HarnessError
from harness.guest import resident
from harness.guest.agent import Agent, AgentError

OWN = """ffffffffc0001000 40 kharness_leak_percpu
ffffffffc0000f00 7c kharness_leak_slab
ffffffffc0002000 10 kharness_warn
"""


class Calls:
    """An agent that keeps what it was asked, and refuses one verb."""

    def __init__(self, refuses: str = "", **missed: int) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refuses = refuses
        self.missed = missed

    def call(
        self, verb: str, /, *, record: bool, check: bool = True, seconds: float = 0.0, **args: Any
    ) -> dict[str, Any]:
        assert not record, "it is no part of what a test did"
        self.asked.append((verb, args))
        if verb == self.refuses and check:
            raise AgentError(verb, {"error": "no such tracepoint", "errno": 2})
        return {"missed": self.missed}


def stats(allocated: int, freed: int) -> str:
    return f"  nr_alloc            : {allocated:12}\n  nr_dealloc          : {freed:12}\n  nr_cur_alloc        : 9\n"


def test_the_code_under_test_and_what_leaks_on_purpose_are_watched() -> None:
    calls = Calls()
    ranges = ((0x100, 0x900), *resident.planting(OWN))
    assert resident.attach(cast(Agent, calls), "/bpf", ranges) == ""
    (verb, loaded), *rest = calls.asked
    assert (verb, loaded) == ("load", {"name": "alive", "path": "/bpf/alive.bpf.o", "resident": True})
    variables = [(args["var"], args.get("index"), args["value"]) for verb, args in rest if verb == "set"]
    assert variables == [
        ("starts", 0, 0x100),
        ("ends", 0, 0x900),
        ("starts", 1, 0xFFFFFFFFC0000F00),
        ("ends", 1, 0xFFFFFFFFC0000F7C),
        ("starts", 2, 0xFFFFFFFFC0001000),
        ("ends", 2, 0xFFFFFFFFC0001040),
        ("nr_ranges", None, 3),
    ]
    attached = [args["what"] for verb, args in rest if verb == "attach"]
    assert attached == list(resident.PROGRAMS), "and only once they know what to look at"
    assert rest[-len(attached) :] == [("attach", {"name": "alive", "what": what}) for what in attached]


@pytest.mark.parametrize("verb", ["load", "attach"])
def test_a_kernel_that_cannot_have_it_is_told_why(verb: str) -> None:
    calls = Calls(refuses=verb)
    assert "no such tracepoint" in resident.attach(cast(Agent, calls), "/bpf", ())
    assert calls.asked[-1][0] == "unload", "half a ledger is none"


def test_more_places_than_there_is_room_for_are_ours() -> None:
    with pytest.raises(HarnessError, match="has 17 text ranges"):
        resident.attach(cast(Agent, Calls()), "/bpf", [(n, n + 1) for n in range(17)])


def begin(calls: Calls, *texts: str) -> tuple[str, dict[str, int]]:
    answers: Iterator[str] = iter(texts)
    return resident.begin(cast(Agent, calls), lambda: next(answers))


def test_it_begins_when_nothing_came_or_went_while_it_forgot() -> None:
    calls = Calls(percpu_object_made=2)
    last = stats(12, 3)
    assert begin(calls, stats(11, 2), stats(12, 2), stats(12, 3), last) == (last, {"percpu_object_made": 2})
    assert [args["forget"] for _, args in calls.asked] == [True, True, True]


def test_as_many_that_came_as_went_are_not_nothing() -> None:
    assert begin(Calls(), stats(1, 1), stats(2, 2), stats(2, 2))[0] == stats(2, 2)


def test_a_guest_that_never_rests_is_not_saved() -> None:
    with pytest.raises(HarnessError, match="come and go"):
        begin(Calls(), *(stats(n, 0) for n in range(resident.TRIES + 1)))


def test_reading_forgets_nothing() -> None:
    calls = Calls()
    resident.read(cast(Agent, calls))
    assert calls.asked == [("alive", {"name": "alive", "forget": False})]
