# SPDX-License-Identifier: GPL-2.0-only
"""Entries of the user's fault plan (--faults): each fault fires, its operation says so or is unharmed, and works again."""

from __future__ import annotations

from harness.faults import plans
from harness.faults.endings import words
from harness.guest.guest import Guest
from harness.plan import FaultPlan
from harness.suite.bench import Bench
from harness.suite.dsq import STATE, Dsqs
from harness.suite.operations import action
from harness.suite.outcome import Inconclusive
from harness.suite.policy import Policy
from harness.suite.sweep import Faults

REPORTED = (r"failed \(-12\)", r"error -12", r"ops\.init\(\) failed \(-22\)")
"""What the kernel says when enabling fails, for want of memory or because ops.init did."""


def test_plan(
    bench: Bench, guest: Guest, dsq: Dsqs, faults: Faults, policy: Policy, fault_plan: FaultPlan
) -> None:
    bench.expect(*REPORTED)
    what = action(fault_plan.operation, dsq)
    before = guest.read(STATE)
    shot = policy.carry_out(fault_plan, what)
    assert guest.read(STATE) == before, f"sched_ext was {before.strip()} before {what.name} and is not now"
    answer = faults.once(what)
    assert answer == what.allowed.fine, f"{what.name} answers {words(answer)} after its faults"
    if not shot.fired:
        where = f" below {what.within}" if what.within and not fault_plan.fault.within else ""
        raise Inconclusive(
            f"{plans.line(fault_plan)}: armed and never fired, {shot.calls} allocations{where} could have failed",
            step="see the sites in the report, and change nth, within or task",
        )
