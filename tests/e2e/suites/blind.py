# SPDX-License-Identifier: GPL-2.0-only
"""Owns a suite that puts kmemleak out of action: its pool runs out, it is turned off, and so in the leak batch only."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.guest.kmemleak import KNOB
from harness.records import Fault, Operation, OpResult
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.sweep import Faults

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


def test_turned_off_when_done_again(guest: Guest, bench: Bench) -> None:
    """The leak batch finds among what this test did what it has not done."""
    guest.read("/proc/version")
    bench.guest.agent.history.append(OpResult(Operation("write", {"path": KNOB, "data": "off"}), {"ok": True}))
