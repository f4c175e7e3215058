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
from percpu.operations import OPERATIONS

pytestmark = pytest.mark.sequential


def test_plan(faults: Faults, policy: Policy, fault_plan: FaultPlan) -> None:
    action = OPERATIONS[fault_plan.operation].action
    shot = policy.carry_out(fault_plan, action)
    answer = faults.once(action)
    assert answer == 0, f"{action.name} answers {words(answer)} after its faults"
    if not shot.fired:
        what = f"{plans.line(fault_plan)}: never fired, {shot.calls} allocations could have failed"
        raise Inconclusive(what, step="see the sites in the report, and change nth, within or task")
