# SPDX-License-Identifier: GPL-2.0-only
"""The percpu suite's operations are what the guest's agent can do, each under a name of its own."""

from __future__ import annotations

import re

import pytest
from percpu.operations import CALLERS, OPERATIONS, Caller

from harness.core.checkout import CHECKOUT
from harness.core.plan import FaultPlan
from harness.core.records import Fault
from harness.faults.plans import line
from harness.guest.agent import encode_steps

VERBS = {
    name
    for path in (CHECKOUT / "vm/agent").glob("*.c")
    for name in re.findall(r'^VERB\("([\w-]+)"', path.read_text(), re.MULTILINE)
}
MAX_STEPS = 12
"""As in vm/agent/sweep.c."""


def test_each_operation_has_a_name_of_its_own() -> None:
    assert len(OPERATIONS) == len(CALLERS)


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.action.name)
def test_an_operation_is_the_agent_s_and_says_who_allocates(caller: Caller) -> None:
    action = caller.action
    for steps in (action.before, action.during, action.after):
        assert len(steps) + 2 <= MAX_STEPS, "a fault's window takes two more"
        assert {one.verb for one in steps} <= VERBS
        assert encode_steps(steps).count("\n") <= len(steps)
    assert caller.functions and action.under and action.during


def test_an_operation_is_found_by_the_line_of_its_fault() -> None:
    shown = line(FaultPlan("map LRU hash, a list a CPU", Fault(what="function", nth=3)))
    assert shown == "{operation: 'map LRU hash, a list a CPU', what: function, nth: 3}"
