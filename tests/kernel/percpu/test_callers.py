# SPDX-License-Identifier: GPL-2.0-only
"""Each alloc_percpu() of each operation fails once: it says -ENOMEM, leaves nothing behind, and works at the next try."""

from __future__ import annotations

import itertools

import pytest

from harness.core.plan import FaultPlan
from harness.core.records import Fault
from harness.faults.endings import words
from harness.faults.policy import Policy
from harness.faults.sweep import Faults
from harness.session.context import TestContext
from percpu.operations import OPERATIONS

pytestmark = pytest.mark.sequential


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_fails_once(context: TestContext, faults: Faults, policy: Policy, name: str) -> None:
    """The k-th call of the task that asks fails, for k = 1, 2, ... until there is none."""
    caller = OPERATIONS[name]
    context.must_inject = caller.functions
    for nth in itertools.count(1):
        shot = policy.carry_out(FaultPlan(name, Fault(what="function", nth=nth)), caller.action)
        answer = faults.once(caller.action)
        assert answer == 0, f"{name} answers {words(answer)} without a fault, after its {nth}-th alloc_percpu() failed"
        if not shot.fired:
            break
    assert nth > 1, f"{name} makes no percpu allocation"
