# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what a test left alive: who tells it, once, and when the ledger is not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.core.records import Finding, Outcome
from harness.oracles import kmemleak as kmemleak_oracle
from harness.session.context import TestContext
from tests.unit.session.test_context import INIT, LEAK, ONCE, PLANTED, FakeGuest, conclude, percpu_stats, symbols


def leaky(context: TestContext, guest: FakeGuest) -> None:
    guest.percpu, guest.places = 102, [[1, INIT, 8, 2]]


def test_a_leak_is_told_once_by_the_ledger_with_kmemleak_s_stack() -> None:
    def leak(context: TestContext, guest: FakeGuest) -> None:
        leaky(context, guest)
        guest.kmemleak = LEAK

    result = conclude(leak)
    assert result.outcome is Outcome.FAIL
    (found,) = result.findings
    assert (found.oracle, found.kind, found.function, found.line, found.count) == (
        "ledger",
        "percpu leak",
        "init_dsq",
        40,
        2,
    )
    assert found.title == (
        "percpu leak: 2 objects of 8 bytes allocated in init_dsq (kernel/sched/ext/ext.c:40), alive at the end"
    )
    assert [frame.function for frame in found.frames] == ["pcpu_alloc_noprof", "init_dsq", "scx_bpf_create_dsq"]
    assert "kmemleak reports 1 of them:" in found.log and LEAK.splitlines()[0] in found.log


def test_the_ledger_needs_no_kmemleak_to_name_a_leak() -> None:
    result = conclude(leaky)
    assert result.outcome is Outcome.FAIL
    assert [(found.oracle, found.function, found.count) for found in result.findings] == [("ledger", "init_dsq", 2)]
    assert next(seen for seen in result.evidence if seen.oracle == "percpu").payload == 102


def test_a_leak_that_the_count_does_not_show_is_one() -> None:
    """As many older objects were freed meanwhile."""
    result = conclude(lambda context, guest: setattr(guest, "places", [[1, INIT, 8, 2]]))
    assert [(found.kind, found.count) for found in result.findings] == [("percpu leak", 2)]


def test_a_slab_leak_of_the_code_under_test_is_one() -> None:
    result = conclude(lambda context, guest: setattr(guest, "places", [[2, INIT, 320, 1]]))
    assert result.outcome is Outcome.FAIL
    assert [(found.kind, found.function) for found in result.findings] == [("slab leak", "init_dsq")]


def test_what_was_only_late_is_none() -> None:
    def late(context: TestContext, guest: FakeGuest) -> None:
        leaky(context, guest)
        settled = iter((102, 100))

        def settle() -> str:
            guest.percpu = next(settled)
            guest.places = guest.places if guest.percpu > 100 else []
            return percpu_stats(guest.percpu)

        guest.settle = settle  # type: ignore[method-assign]

    result = conclude(late)
    assert (result.outcome, result.findings) == (Outcome.PASS, ())


def test_what_was_told_with_its_fault_is_not_told_again() -> None:
    swept = Finding(
        "ledger", "percpu leak", "after create under a fault", "ledger:percpu leak:init_dsq:create", "init_dsq"
    )

    def leak(context: TestContext, guest: FakeGuest) -> None:
        leaky(context, guest)
        guest.kmemleak = LEAK
        context.findings.append(swept)

    (found,) = conclude(leak).findings
    assert (found.signature, found.title) == (swept.signature, swept.title)
    assert LEAK.splitlines()[0] in found.log


def test_what_kmemleak_saw_before_joins_what_the_ledger_has() -> None:
    def leak(context: TestContext, guest: FakeGuest) -> None:
        leaky(context, guest)
        context.blame(kmemleak_oracle.findings(LEAK, symbols))

    result = conclude(leak)
    assert [(found.oracle, found.function) for found in result.findings] == [("ledger", "init_dsq")]
    assert "kmemleak reports 1 of them:" in result.findings[0].log


def test_what_was_planted_is_no_leak_and_one_more_is() -> None:
    def plant(left: int) -> Callable[[TestContext, FakeGuest], None]:
        def change(context: TestContext, guest: FakeGuest) -> None:
            context.planted, guest.percpu, guest.places = 16, 100 + left, [[1, PLANTED, 24, left]]

        return change

    assert conclude(plant(16)).findings == ()
    assert [(found.function, found.count) for found in conclude(plant(17)).findings] == [("kharness_leak_percpu", 17)]


def test_what_is_made_once_and_kept_is_no_leak_and_made_twice_is() -> None:
    assert conclude(lambda context, guest: setattr(guest, "places", [[2, ONCE, 8, 1]])).outcome is Outcome.PASS
    result = conclude(lambda context, guest: setattr(guest, "places", [[2, ONCE, 8, 3]]))
    assert [(found.function, found.count) for found in result.findings] == [("scx_cid_arrays_alloc", 2)]


def test_the_count_speaks_where_the_ledger_and_kmemleak_are_silent() -> None:
    def blind(context: TestContext, guest: FakeGuest) -> None:
        guest.percpu, guest.books = 102, {"attached": 2}

    result = conclude(blind)
    assert result.outcome is Outcome.FAIL
    assert [(found.kind, found.count) for found in result.findings] == [("percpu count", 2)]


def test_kmemleak_speaks_for_the_count_where_the_ledger_is_blind() -> None:
    def blind(context: TestContext, guest: FakeGuest) -> None:
        guest.percpu, guest.kmemleak = 102, LEAK
        context.target.pristine.blind = "this kernel lacks a tracepoint"  # type: ignore[misc]

    result = conclude(blind)
    assert [(found.oracle, found.function) for found in result.findings] == [("kmemleak", "init_dsq")]
    assert result.why == result.findings[0].title


@pytest.mark.parametrize(
    ("books", "why"),
    [
        ({"attached": 2}, "1 of its 3 programs are no longer attached"),
        ({"lost": 3}, "3 allocations or frees were lost"),
        ({"missed": {"percpu_object_made": 2}}, "2 allocations or frees were lost"),
        ({"percpu_allocated": 6}, "it has 1 percpu objects more than before, percpu_stats has 0"),
        ({"percpu_allocated": 6, "percpu_older": 1}, "it holds 0 percpu objects, and counted 1"),
        ({"omitted": 1}, "objects of too many places: raise MAX_PLACES"),
    ],
)
def test_a_ledger_that_lost_something_is_no_clean_one(books: dict[str, Any], why: str) -> None:
    result = conclude(lambda context, guest: setattr(guest, "books", books))
    assert (result.outcome, result.why) == (Outcome.INCONCLUSIVE, f"ledger did not watch: {why}")
