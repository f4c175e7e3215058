# SPDX-License-Identifier: GPL-2.0-only
"""A suite that puts kmemleak out of action: its pool runs out, it is turned off, and so in the leak batch only."""

from __future__ import annotations

from sched_ext.dsq import Dsqs

from harness.core.records import Fault, Operation, OpResult
from harness.faults.sweep import Faults
from harness.guest.guest import Guest
from harness.guest.kmemleak import KNOB
from harness.session.context import TestContext

OWN = "__alloc_object"
"""Below it kmemleak gets the object that it keeps of each allocation, or takes one from its pool (mm/kmemleak.c)."""

POOL = 40_000
"""CONFIG_DEBUG_KMEMLEAK_MEM_POOL_SIZE of kconfigs/leaks.config. Boot takes some, and each DSQ is two allocations."""


def test_pool_runs_out(dsq: Dsqs, faults: Faults) -> None:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    with faults.armed(Fault(what="failslab", within=(OWN,), probability=100), "create"):
        dsq.create_range(1, POOL)


def test_turned_off(guest: Guest) -> None:
    guest.write(KNOB, "off")


def test_turned_off_when_done_again(guest: Guest, context: TestContext) -> None:
    """The leak batch finds among what this test did what it has not done."""
    guest.read("/proc/version")
    context.guest.agent.history.append(OpResult(Operation("write", {"path": KNOB, "data": "off"}), {"ok": True}))
