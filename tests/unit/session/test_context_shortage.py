# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what memory that runs out has the kernel say: expected while a fault is armed, and only then."""

from __future__ import annotations

import pytest

from harness.core.errors import Ended, GuestError, How, MachineEnded
from harness.core.records import Outcome, TestResult
from harness.session.context import TestContext
from tests.unit.session.test_context import WARN, FakeGuest, conclude, made
from tests.unit.session.test_context_faults import CAUSE, SITE, counted


def shortage(first: int, who: str = "dsq_many") -> tuple[str, ...]:
    """A page allocation failure of that number on."""
    lines = (
        f"{who}: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
        "CPU: 1 UID: 0 PID: 91 Comm: dsq_many Not tainted 7.2.13 #1",
        "Call Trace:",
        " <TASK>",
        " warn_alloc+0x15d/0x1a0",
        " __alloc_pages_slowpath+0xd40/0xdf0",
        " kernel_caller+0x9a/0xc0",
        " </TASK>",
    )
    return tuple(f"4,{first + number},1,-,caller=T91;{line}" for number, line in enumerate(lines))


def others(first: int, count: int) -> tuple[str, ...]:
    return tuple(f"6,{first + number},1,-,caller=T1;quiet" for number in range(count))


def counting(result: TestResult) -> list[tuple[str, bool, int]]:
    return [(found.kind, found.expected, found.count) for found in result.findings]


def test_a_page_allocation_failure_is_expected_while_a_fault_is_armed() -> None:
    def armed(context: TestContext, guest: FakeGuest) -> None:
        with context.arming():
            guest.kmsg = shortage(500)

    result = conclude(armed)
    assert (result.outcome, counting(result)) == (Outcome.PASS, [("allocation failure", True, 1)])


@pytest.mark.parametrize("before", [True, False])
def test_before_and_after_it_the_same_line_fails_the_test(before: bool) -> None:
    def armed(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = shortage(500) if before else ()
        with context.arming():
            pass
        guest.kmsg = () if before else shortage(500)

    result = conclude(armed)
    assert (result.outcome, counting(result)) == (Outcome.FAIL, [("allocation failure", False, 1)])


def test_one_that_was_provoked_does_not_hide_another_that_was_not() -> None:
    def armed(context: TestContext, guest: FakeGuest) -> None:
        counted(context, handled=4)
        with context.under(CAUSE), context.arming():
            guest.kmsg = shortage(500)
        guest.kmsg = shortage(508)

    result = conclude(armed)
    assert (result.outcome, counting(result)) == (
        Outcome.FAIL,
        [("allocation failure", True, 1), ("allocation failure", False, 1)],
    )
    provoked, other = result.findings
    assert (provoked.site, other.site) == (" < ".join(SITE), None), "it came under no fault"
    assert result.faults.sites[0].outcomes == {"handled": 4}, "what is expected spoils no site"


def test_of_a_sweep_only_runs_in_which_something_failed_are_expected_to_say_so() -> None:
    def sweep(context: TestContext, guest: FakeGuest) -> None:
        with context.arming(whole=False):
            guest.kmsg = (*shortage(500, "one"), *shortage(508, "two"), *others(516, 3))
        context.armed.append((500, 507))

    result = conclude(sweep)
    assert [(found.title[:3], found.expected) for found in result.findings] == [("one", True), ("two", False)]


def test_of_a_sweep_that_broke_off_nobody_knows_when_it_was() -> None:
    def sweep(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg = shortage(500, "one")
        with pytest.raises(GuestError), context.arming(whole=False):
            guest.kmsg = shortage(508, "two")
            raise GuestError("the guest would not")

    found = conclude(sweep, GuestError("the guest would not")).findings
    assert [(one.title[:3], one.expected) for one in found] == [("one", False), ("two", True)]


@pytest.mark.parametrize(
    "line",
    [
        "percpu: allocation failed, size=8 align=8 atomic=0, failed to allocate new chunk",
        "SLUB: Unable to allocate memory on CPU 0 (of node 0) on node -1, gfp=0xcc0(GFP_KERNEL)",
        "WARNING: mm/vmalloc.c:1234 at va_alloc+0x1/0x20, CPU#1: dsq_many/91",
    ],
)
@pytest.mark.parametrize("armed", [True, False])
def test_whatever_else_is_said_of_it(line: str, armed: bool) -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        with context.arming():
            guest.kmsg = (f"4,500,1,-,caller=T91;{line}",) if armed else ()
        guest.kmsg = () if armed else (f"4,500,1,-,caller=T91;{line}",)

    result = conclude(loud)
    assert result.outcome is (Outcome.PASS if armed else Outcome.FAIL)
    assert [found.expected for found in result.findings] == [armed]


def test_what_was_not_provoked_by_memory_counts_also_while_a_fault_is_armed() -> None:
    def loud(context: TestContext, guest: FakeGuest) -> None:
        with context.arming():
            guest.kmsg = WARN

    assert conclude(loud).outcome is Outcome.FAIL


def test_a_dying_guest_s_console_says_nothing_expected() -> None:
    """Its lines have no sequence numbers: which came when is not known."""
    context, _ = made()
    with context.arming():
        pass
    lines = [record.partition(";")[2] for record in shortage(500)]
    panic = [f"[    9.000000][   T91] {line}" for line in (*lines, "Kernel panic - not syncing: Out of memory")]
    result = context.conclude(MachineEnded("no answer", Ended(How.EXITED, status=0), panic, False))
    assert (result.outcome, [found.expected for found in result.findings]) == (Outcome.FAIL, [False])
