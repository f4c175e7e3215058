# SPDX-License-Identifier: GPL-2.0-only
"""Entries of the user's fault plan (--faults): each fault fires, its operation says so or is unharmed, and works again."""

from __future__ import annotations

import pytest

from harness.core.errors import Inconclusive
from harness.core.plan import FaultPlan
from harness.faults import plans
from harness.faults.endings import words
from harness.faults.policy import Policy
from harness.faults.sweep import Faults
from harness.guest.guest import Guest
from harness.session.context import TestContext
from sched_ext.dsq import STATE, Dsqs
from sched_ext.operations import action

pytestmark = pytest.mark.sequential

REPORTED = (r"failed \(-12\)", r"error -12", r"ops\.init\(\) failed \(-22\)")
"""What the kernel says when enabling fails, for want of memory or because ops.init did."""


def test_plan(
    context: TestContext, guest: Guest, dsq: Dsqs, faults: Faults, policy: Policy, fault_plan: FaultPlan
) -> None:
    context.expect(*REPORTED)
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
