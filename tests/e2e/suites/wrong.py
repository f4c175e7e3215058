# SPDX-License-Identifier: GPL-2.0-only
"""A suite that every right kernel fails, in the same way each time."""

from __future__ import annotations

from sched_ext.dsq import Dsqs, dsq_context
from sched_ext.model.trace import FaultAt

from harness.core.records import Fault
from harness.faults import knobs
from harness.faults.sweep import Faults
from harness.guest.guest import Guest
from harness.oracles.registry import CANARY


def test_wants_a_duplicate(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    answer = dsq.api.run("create", dsq_context(7))[0]
    assert answer == 0, f"creating DSQ 7 twice answered {answer}"


def test_reads_a_warning_itself(guest: Guest) -> None:
    guest.write(CANARY, "warn")
    assert guest.log(), "reading takes the records out of the guest"


def fill(guest: Guest, *sizes: int) -> None:
    """Takes percpu memory until none is left in the chunks that there are."""
    for size in sizes:
        guest.agent.call("fill", check=False, nr=8000, size=size)


def test_percpu_memory_is_out_when_no_fault_is_armed(dsq: Dsqs, faults: Faults, guest: Guest) -> None:
    """A create fails while a fault is armed behind the harness's back, and another while it knows of that."""
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    fault = Fault(what="failslab", within=("pcpu_create_chunk",), probability=100, task="all")
    for path, value in knobs.arm(fault, faults.ranges(fault.within)):
        guest.write(path, value)
    fill(guest, 32768, 4096, 512, 8)
    assert dsq.create_range(1, 1, fault=FaultAt.ANY) == 1, "there was room in the chunks"
    with faults.armed(fault):
        fill(guest, 512, 8)  # a worker makes chunks ahead of need, and may have between two faults
        assert dsq.create_range(2, 1, fault=FaultAt.ANY) == 1, "somebody made a chunk"
    guest.agent.call("drain")
