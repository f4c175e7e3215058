# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the ledger's word on a quiescent guest: what is counted, what counts, and when it is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.records import Finding, Frame
from harness.oracles import live_objects
from harness.oracles.live_objects import Books, Place
from harness.oracles.percpu import Totals

INIT = (
    Frame("init_dsq", file="kernel/sched/ext/ext.c", line=40, inlined=True),
    Frame("scx_bpf_create_dsq", file="kernel/sched/ext/ext.c", line=90),
)
GROUP = (Frame("alloc_rt_sched_group", file="kernel/sched/rt.c", line=262),)
BEFORE = Totals(900, 800, 100, 400, 2, 262144)
PAIR = {"slab_object_made": 3, "slab_object_made_again": 5}


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "places": [[1, 0x10, 8, 3, 0], [2, 0x20, 320, 1, 0]],
        "percpu_allocated": 10,
        "percpu_freed": 7,
        "percpu_older": 1,
        "slab_allocated": 6,
        "replaced": [],
        "lost": 0,
        "programs": 3,
        "attached": 3,
        "missed": {"percpu_object_made": 4, **PAIR},
    } | changes


def books(**changes: Any) -> Books:
    return live_objects.parse(answer(**changes), {"percpu_object_made": 4})


def after(more: int) -> Totals:
    return replace(BEFORE, nr_cur_alloc=BEFORE.nr_cur_alloc + more)


def test_what_the_agent_says() -> None:
    got = books()
    assert got == Books(10, 7, 1, 6, 0, 3, 3, (Place("percpu leak", 0x10, 8, 3), Place("slab leak", 0x20, 320, 1)))
    assert (got.more, got.percpu) == (2, 3), "of three that live one takes the place of an older one"


@pytest.mark.parametrize(
    ("missed", "lost"),
    [
        ({"percpu_object_made": 4}, 0),
        ({"percpu_object_made": 6}, 2),
        ({"percpu_object_gone": 1}, 1),
        (PAIR, 0),
        ({"slab_object_made": 3}, 3),
    ],
)
def test_what_a_program_without_a_twin_missed_since_is_lost(missed: dict[str, int], lost: int) -> None:
    assert books(missed=missed).lost == lost
    assert books(missed=missed, lost=5).lost == lost + 5


def test_it_is_believed_where_percpu_stats_says_the_same() -> None:
    seen = live_objects.watched(books(), BEFORE, after(2))
    assert (seen.oracle, seen.watched, seen.lost, seen.why) == ("ledger", True, 0, "")
    assert seen.payload == {"allocated": 10, "freed": 7, "older": 1, "slab": 6}


@pytest.mark.parametrize(
    ("changes", "more", "why"),
    [
        ({}, 3, "it has 2 percpu objects more than before, percpu_stats has 3"),
        ({}, 1, "it has 2 percpu objects more than before, percpu_stats has 1"),
        ({"percpu_older": 0}, 2, "it has 3 percpu objects more than before, percpu_stats has 2"),
        ({"places": [[1, 0x10, 8, 2, 0]]}, 2, "it holds 2 percpu objects, and counted 3"),
        ({"attached": 1}, 2, "2 of its 3 programs are no longer attached"),
        ({"lost": 2}, 2, "2 allocations or frees were lost"),
    ],
)
def test_it_is_not_believed_otherwise(changes: dict[str, Any], more: int, why: str) -> None:
    seen = live_objects.watched(books(**changes), BEFORE, after(more))
    assert (seen.watched, seen.why) == (False, why)


def test_one_finding_a_function_with_all_its_objects() -> None:
    places = [
        Place("percpu leak", 1, 8, 3, INIT),
        Place("percpu leak", 2, 8, 2, INIT),
        Place("slab leak", 3, 320, 1, INIT[1:]),
        Place("slab leak", 4, 64, 4, GROUP),
        Place("slab leak", 5, 16, 1, GROUP),
    ]
    found = live_objects.findings(places)
    assert [(one.kind, one.function, one.line, one.count) for one in found] == [
        ("percpu leak", "init_dsq", 40, 5),
        ("slab leak", "scx_bpf_create_dsq", 90, 1),
        ("slab leak", "alloc_rt_sched_group", 262, 5),
    ]
    assert found[0].signature == "ledger:percpu leak:init_dsq<scx_bpf_create_dsq"
    assert found[1].title == (
        "slab leak: an object of 320 bytes allocated in scx_bpf_create_dsq (kernel/sched/ext/ext.c:90), alive at the end"
    )
    assert "5 objects of 16 and 64 bytes" in found[2].title
    assert all(one.counts and one.frames for one in found)


def test_a_call_of_no_known_function_counts_all_the_same() -> None:
    (found,) = live_objects.findings([Place("percpu leak", 0x99, 8, 2, (Frame("0x99", reliable=False),))])
    assert (found.function, found.count, found.signature) == (None, 2, "ledger:percpu leak::size #")
    assert "allocated at an unknown place" in found.title


@pytest.mark.parametrize(("count", "shown"), [(1, 0), (2, 1), (5, 4)])
def test_of_what_is_made_once_and_kept_one_of_each_call_is_left(count: int, shown: int) -> None:
    clone = (Frame("scx_cid_arrays_alloc.isra.0"), Frame("scx_cid_init"))
    places = [Place("slab leak", site, 8, count, clone) for site in (1, 2)]
    once = {"scx_cid_arrays_alloc": "kept"}
    assert sum(found.count for found in live_objects.findings(places, once)) == 2 * shown
    assert sum(found.count for found in live_objects.findings(places)) == 2 * count


def test_what_took_the_place_of_an_older_one_of_the_same_call_is_no_leak() -> None:
    got = books(places=[[1, 0x10, 8, 3, 0], [2, 0x10, 8, 1, 0], [1, 0x30, 8, 1, 0]], replaced=[[0x10, 2], [0x40, 1]])
    assert [place.replaced for place in got.places] == [2, 0, 0], "of percpu objects only"
    assert sorted((found.kind, found.count) for found in live_objects.findings(got.places)) == [
        ("percpu leak", 2),
        ("slab leak", 1),
    ]
    gone = books(places=[[1, 0x10, 8, 1, 0]], replaced=[[0x10, 2]])
    assert live_objects.findings(gone.places) == []


def leak(function: str, kind: str = "percpu leak", oracle: str = "kmemleak") -> Finding:
    log = (f"unreferenced object of {function}",)
    return Finding(
        oracle, kind, "", f"{oracle}:{kind}:{function}", function, frames=(Frame("outer"),), log=log, count=2
    )


def test_kmemleak_supports_what_the_ledger_found_and_keeps_what_it_did_not() -> None:
    found = live_objects.findings([Place("percpu leak", 1, 8, 3, INIT)])
    other = leak("init_dsq", "slab leak"), leak("elsewhere")
    warn = leak("init_dsq", "percpu leak", "dmesg")
    shown, rest = live_objects.supported([*found, warn], [leak("init_dsq"), *other])
    assert rest == list(other)
    assert shown[1] == warn, "another oracle's finding is its own"
    assert (shown[0].signature, shown[0].count) == (found[0].signature, 3)
    assert shown[0].log == ("kmemleak reports 2 of them:", "unreferenced object of init_dsq")
    assert shown[0].frames == (Frame("outer"),)


places = st.builds(
    Place,
    st.sampled_from(["percpu leak", "slab leak"]),
    st.integers(1, 9),
    st.integers(1, 64),
    st.integers(1, 9),
    st.sampled_from([(), INIT, GROUP]),
)


@given(st.lists(places, max_size=8))
def test_each_object_is_in_one_finding(held: list[Place]) -> None:
    found = live_objects.findings(held)
    assert sum(one.count for one in found) == sum(place.count for place in held)
    assert len({one.signature for one in found}) == len(found)
