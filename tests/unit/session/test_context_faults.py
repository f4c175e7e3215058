# SPDX-License-Identifier: GPL-2.0-only
"""Tests of one test's end where faults were injected: which fault a finding came under, and what it does to the site."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.core.records import FaultSite, FaultSummary, Finding, Frame, Outcome
from harness.faults.cause import LAST_WORDS, LAST_WORDS_BYTES, Cause, Window
from harness.session.context import TestContext
from tests.unit.session.test_context import WARN, FakeGuest, conclude, made

SITE = ("pcpu_alloc_noprof", "init_dsq")
CAUSE = Cause("create", "failslab", SITE, "{operation: create, nth: 3}")


def counted(context: TestContext, **outcomes: int) -> None:
    """Faults of that site on the context's account, and they ended so."""
    injected = sum(outcomes.values())
    site = FaultSite("create", "failslab", SITE, 0, 0, injected, injected, next(iter(outcomes)), (), outcomes)
    context.count_faults(FaultSummary(injected, injected, outcomes.get("handled", 0), (site,)))


def test_a_splat_during_a_run_is_told_with_its_fault_and_spoils_the_site() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = ("4,500,1,-;before", *(line.replace(",50", ",51", 1) for line in WARN))
        guest.kmsg = (*(f"6,{number},1,-;quiet" for number in range(500, 510)), *guest.kmsg[1:])
        counted(context, handled=4)
        context.windows.append(Window(505, 507, Cause("create", "page", ("other",))))
        context.windows.append(Window(510, 513, CAUSE))

    result = conclude(loud)
    (found,) = result.findings
    assert (found.kind, found.operation, found.site, found.fault) == ("warn", "create", " < ".join(SITE), CAUSE.fault)
    (site,) = result.faults.sites
    assert (site.outcome, site.outcomes, site.findings) == ("splat", {"handled": 3, "splat": 1}, (found.signature,))


def test_a_splat_outside_of_every_run_has_no_fault() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = WARN
        counted(context, handled=4)
        context.windows.append(Window(504, 600, CAUSE))

    result = conclude(loud)
    assert [(found.operation, found.site, found.fault) for found in result.findings] == [(None, None, None)]
    assert result.faults.sites[0].outcomes == {"handled": 4}


def test_what_a_fault_was_to_provoke_spoils_no_site() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = WARN
        context.expect(r"WARNING .* in init_dsq")
        counted(context, handled=4)
        context.windows.append(Window(500, 503, CAUSE))

    result = conclude(loud)
    assert (result.outcome, result.faults.sites[0].outcome) == (Outcome.PASS, "handled")
    assert [found.site for found in result.findings] == [" < ".join(SITE)], "it came under the fault all the same"


def test_what_is_raised_in_a_block_came_under_its_fault() -> None:
    context, _ = made()
    error = AssertionError("seen was 3")
    with pytest.raises(AssertionError), context.under(CAUSE):
        raise error
    (found,) = context.conclude(error).findings
    assert (found.operation, found.site, found.fault) == ("create", " < ".join(SITE), CAUSE.fault)


def test_what_is_learned_of_a_fault_after_its_block_failed_is_in_the_finding_and_of_its_log() -> None:
    context, _ = made()
    before, error = Cause("create", "slab", SITE[:1], CAUSE.fault), AssertionError("seen was 3")
    with pytest.raises(AssertionError), context.under(before):
        raise error
    context.learn(before, CAUSE)
    assert [window.cause for window in context.windows] == [CAUSE]
    (found,) = context.conclude(error).findings
    assert found.site == " < ".join(SITE)


def test_what_is_raised_after_it_did_not() -> None:
    context, _ = made()
    with context.under(CAUSE):
        pass
    (found,) = context.conclude(AssertionError("seen was 3")).findings
    assert (found.operation, found.site, found.fault) == (None, None, None)


def test_the_log_of_a_block_came_under_its_fault_and_what_came_before_and_after_did_not() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        counted(context, handled=2)
        guest.kmsg = numbered(WARN, 500, "before_it")
        with context.under(CAUSE):
            guest.kmsg = numbered(WARN, 504)
        guest.kmsg = numbered(WARN, 508, "after_it")
        assert context.windows == [Window(504, 507, CAUSE)]

    result = conclude(loud)
    shown = {found.function: (found.operation, found.site, found.fault) for found in result.findings}
    nothing = (None, None, None)
    assert shown == {"before_it": nothing, "init_dsq": ("create", " < ".join(SITE), CAUSE.fault), "after_it": nothing}
    assert result.faults.sites[0].outcomes == {"handled": 1, "splat": 1}


def numbered(records: Sequence[str], first: int, function: str = "init_dsq") -> tuple[str, ...]:
    """Records of WARN under other sequence numbers, and of another function."""
    parts = [record.replace("init_dsq", function).split(",", 2) for record in records]
    return tuple(f"{parts[0]},{first + number},{parts[2]}" for number, parts in enumerate(parts))


def test_a_block_in_which_the_log_stayed_empty_covers_nothing_of_it() -> None:
    context, guest = made()
    with context.under(CAUSE):
        pass
    guest.kmsg = WARN
    assert [(found.kind, found.site) for found in context.conclude(None).findings] == [("warn", None)]


def test_after_a_block_within_a_block_the_outer_fault_holds_again() -> None:
    outer, error = Cause("attach", fault="{operation: attach, nth: 1}"), AssertionError("seen was 3")
    context, _ = made()
    with pytest.raises(AssertionError), context.under(outer):
        with context.under(CAUSE):
            pass
        raise error
    (found,) = context.conclude(error).findings
    assert (found.operation, found.fault) == ("attach", outer.fault)


def test_what_is_said_in_a_block_within_a_block_came_under_the_inner_fault() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        with context.under(Cause("attach", fault="{operation: attach, nth: 1}")):
            guest.kmsg = numbered(WARN, 500, "outer")
            with context.under(CAUSE):
                guest.kmsg = numbered(WARN, 504)

    shown = {found.function: (found.operation, found.fault) for found in conclude(loud).findings}
    assert shown == {"outer": ("attach", "{operation: attach, nth: 1}"), "init_dsq": ("create", CAUSE.fault)}


def test_a_guest_that_does_not_answer_at_a_block_s_end_died_of_its_fault() -> None:
    context, guest = made()
    error = MachineEnded("no answer", Ended(How.EXITED, status=0), ["Kernel panic - not syncing: x"], False)

    def receive(deadline: object, *hurry: object) -> bytes:
        raise error

    with pytest.raises(MachineEnded), context.under(CAUSE):
        guest.receive = receive  # type: ignore[method-assign, assignment]
    (found,) = context.conclude(error).findings
    assert (found.kind, found.operation, found.site) == ("panic", "create", " < ".join(SITE))


def test_a_dying_guest_tells_which_fault_it_died_of() -> None:
    panic = [
        "kharness: died during: attach [scx_enable_helper], allocation 7",
        "kharness: fault type 1",
        "kharness: fault at pcpu_alloc_noprof+0x1/0x2",
        "kharness: fault at init_dsq+0x1/0x2",
        "Kernel panic - not syncing: Fatal exception",
    ]
    lines = [f"[    9.00000{number}][  T123] {line}" for number, line in enumerate(panic)]
    context, _ = made()
    result = context.conclude(MachineEnded("no answer", Ended(How.EXITED, status=0), lines, False))
    (found,) = result.findings
    assert (found.kind, found.operation, found.site) == ("panic", "attach", " < ".join(SITE))
    assert found.fault == "{operation: attach, task: scx_enable_helper, nth: 7}"
    (site,) = result.faults.sites
    assert (site.operation, site.type, site.stack, site.outcome, site.injected) == (
        "attach",
        "failslab",
        SITE,
        "crash",
        1,
    )


def test_a_guest_that_dies_under_a_plan_tells_the_plan() -> None:
    lines = [
        "kharness: died during: create, allocation 1",
        "kharness: fault type 1",
        "kharness: fault at init_dsq+0x1/0x2",
    ]
    error = MachineEnded("no answer", Ended(How.EXITED, status=0), [*lines, "Kernel panic - not syncing: x"], False)
    context, _ = made()
    with pytest.raises(MachineEnded), context.under(Cause("create", fault="{operation: create, every: 2}")):
        raise error
    (found,) = context.conclude(error).findings
    assert (found.operation, found.site, found.fault) == ("create", "init_dsq", "{operation: create, every: 2}")


@pytest.mark.parametrize(("shown", "operation"), [(0x1000, "attach"), (0, None)])
def test_a_hanging_guest_s_memory_is_asked_what_it_was_at(shown: int, operation: str | None) -> None:
    context, guest = made()
    memory = struct.pack("<" + LAST_WORDS, b"attach", 7, 1, 1, 2, 0x11, 0x21, *[0] * 14)
    names = {0x10: SITE[0], 0x20: SITE[1]}
    asked: list[tuple[int, int]] = []

    def read(address: int, size: int) -> bytes:
        asked.append((address, size))
        return memory

    guest.agent.last_words = shown

    def refused(command: str) -> None:
        raise MachineLost(f"QMP {command}: refused")

    guest.vm = SimpleNamespace(memory=read, qmp=refused)
    context.target.symbols = cast(Any, Named(names))
    result = context.conclude(
        MachineEnded("no answer", Ended(How.RUNNING), (), True, "the guest to answer 'sweep-ops'")
    )
    assert [(found.kind, found.operation) for found in result.findings] == [("hang", operation)]
    assert asked == ([(shown, LAST_WORDS_BYTES)] if shown else [])
    assert [(site.stack, site.outcome) for site in result.faults.sites] == ([(SITE, "hang")] if shown else [])


class Named:
    """Symbols that know the code at these addresses: a return address is one past its call, the first of a stack is none."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names

    def __call__(self, frame: Frame) -> Sequence[Frame]:
        return (frame,)

    def chain(self, addresses: Sequence[int]) -> Sequence[Frame]:
        return [Frame(self.names.get(at - bool(number), "?")) for number, at in enumerate(addresses)]


def test_qemu_killed_tells_of_no_fault() -> None:
    lines = [
        "kharness: died during: attach, allocation 7",
        "kharness: fault type 1",
        "kharness: fault at init_dsq+0x1/0x2",
    ]
    context, _ = made()
    result = context.conclude(MachineEnded("no answer", Ended(How.KILLED, signal=9), lines, False))
    assert (result.outcome, result.faults) == (Outcome.INCONCLUSIVE, FaultSummary())


@pytest.mark.parametrize(
    ("outcomes", "optional", "outcome"),
    [
        ({"handled": 3}, "", Outcome.PASS),
        ({"absorbed": 3}, "it tries again", Outcome.PASS),
        ({"absorbed": 1, "handled": 2}, "", Outcome.INCONCLUSIVE),
    ],
)
def test_a_fault_that_is_absorbed_passes_only_where_it_is_declared(
    outcomes: dict[str, int], optional: str, outcome: Outcome
) -> None:
    def inject(context: TestContext, guest: FakeGuest) -> None:
        counted(context, **outcomes)
        context.summaries = [
            replace(part, sites=tuple(replace(site, optional=optional) for site in part.sites))
            for part in context.summaries
        ]

    result = conclude(inject)
    assert result.outcome is outcome
    assert ("is not declared optional" in result.why) is (outcome is Outcome.INCONCLUSIVE)


def test_what_trials_have_left_spoils_their_sites() -> None:
    context, _ = made()
    counted(context, handled=2)
    leak = CAUSE.of(Finding("ledger", "slab leak", "a leak", "ledger:slab leak:init_dsq"))
    context.blame_sites("leaked", [leak], [CAUSE, CAUSE, Cause("create", "failslab", ("other",), "{nth: 1}")])
    assert context.summaries[0].sites[0].outcomes == {"handled": 1, "leaked": 1}


def test_a_finding_under_a_site_that_several_rounds_met_is_booked_once() -> None:
    context, _ = made()
    counted(context, handled=2)
    counted(context, handled=3)
    leak = CAUSE.of(Finding("ledger", "slab leak", "a leak", "ledger:slab leak:init_dsq"))
    context.blame_sites("leaked", [leak], [CAUSE])
    faults = context.conclude(None).faults
    (site,) = faults.sites
    assert (site.injected, site.outcomes, site.findings) == (5, {"handled": 4, "leaked": 1}, (leak.signature,))
    assert (faults.injected, faults.handled) == (5, 4)


def test_what_is_left_under_a_fault_that_no_plan_tells_spoils_its_site_too() -> None:
    context, _ = made()
    counted(context, handled=2)
    cause = replace(CAUSE, fault="")
    context.blame_sites("leaked", [cause.of(Finding("ledger", "slab leak", "a leak", "a leak"))], [cause])
    assert context.summaries[0].sites[0].outcomes == {"handled": 1, "leaked": 1}


def test_what_is_said_before_a_block_ends_by_an_exception_came_under_its_fault() -> None:
    context, guest = made()
    error = AssertionError("and then")
    with pytest.raises(AssertionError), context.under(CAUSE):
        guest.kmsg = numbered(WARN, 504)
        raise error
    shown = {found.function: found.site for found in context.conclude(error).findings if found.oracle == "dmesg"}
    assert shown == {"init_dsq": " < ".join(SITE)}


def test_what_is_learned_of_a_fault_is_told_of_what_was_said_under_it() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        counted(context, handled=1)
        begun = Cause(CAUSE.operation, CAUSE.type, SITE[:1], CAUSE.fault)
        with context.under(begun):
            guest.kmsg = numbered(WARN, 504)
        context.learn(begun, CAUSE)

    result = conclude(loud)
    assert [found.site for found in result.findings] == [" < ".join(SITE)]
    assert result.faults.sites[0].outcomes == {"splat": 1}
