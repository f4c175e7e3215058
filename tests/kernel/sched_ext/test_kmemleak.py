# SPDX-License-Identifier: GPL-2.0-only
"""kmemleak outlives that its own allocations fail: it has a pool, and only where that runs out is it blind."""

from __future__ import annotations

import pytest

from harness.faults.sweep import Faults
from harness.guest import kmemleak
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import Dsqs
from sched_ext.operations import FIRST

pytestmark = pytest.mark.sequential

OWN = "mem_pool_alloc"
"""From where kmemleak asks for the object that it keeps of each allocation (mm/kmemleak.c)."""


def test_its_own_objects_fail(dsq: Dsqs, faults: Faults, context: TestContext) -> None:
    """Every allocation of some creates fails once, kmemleak's among them: these creates succeed, and it still scans."""
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    count = 100
    summary = dsq.sweep_create(faults, FIRST, ids=count)
    own = [site for site in summary.sites if OWN in site.stack]
    need(bool(own), f"sites below {OWN}()")
    assert sum(site.injected for site in own) >= count, "of each create kmemleak keeps an object at least"
    assert {outcome for site in own for outcome in site.outcomes} == {"absorbed"}
    assert not kmemleak.refusal(context.guest.agent), "kmemleak has disabled itself, though its pool is not used up"
    kmemleak.scan(context.guest.agent)
