# SPDX-License-Identifier: GPL-2.0-only
"""Faults that are drawn from a seed or counted are the same ones each time: what a fault plan (--faults) stands on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from harness.core.errors import Inconclusive
from harness.core.plan import FaultPlan
from harness.core.records import Fault
from harness.faults.policy import Policy, Shot
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import Dsqs
from sched_ext.operations import ENABLER, action

pytestmark = pytest.mark.sequential

TRIES = 6

Sites = dict[tuple[str, ...], int]


def test_the_same_seed_fails_the_same_allocations(dsq: Dsqs, context: TestContext, policy: Policy) -> None:
    """Slab allocations only: pages are asked for when a slab happens to be full."""
    context.expect(r"failed \(-12\)", r"error -12")
    attach = action("attach", dsq)
    need(context.guest.thread(ENABLER) > 0, "enabling in a kthread of its own")

    def under(**fault: Any) -> tuple[Shot, Sites]:
        known = len(context.summaries)
        shot = policy.carry_out(FaultPlan("attach", Fault("failslab", task=ENABLER, **fault)), attach)
        sites = itertools.chain.from_iterable(part.sites for part in context.summaries[known:])
        return shot, {site.stack: site.injected for site in sites if site.injected}

    def twice(**fault: Any) -> tuple[Shot, Sites]:
        """The same again is the same, if the kernel asks for as many allocations: pools are filled when they are empty."""
        for _ in range(TRIES):
            first, second = under(**fault), under(**fault)
            if first[0].calls == second[0].calls:
                assert first == second
                return first
        raise Inconclusive(f"an attach made another number of allocations each time, {TRIES} times", step="run again")

    first = twice(probability=10, seed=7)
    assert first[0].fired
    assert under(probability=10, seed=8) != first
    counted = twice(every=2)
    assert counted[0].fired == counted[0].calls // 2 > 0
    assert under(nth=1) == (Shot(1, 1), under(nth=1)[1]), "the first is there, and nothing comes after it"
