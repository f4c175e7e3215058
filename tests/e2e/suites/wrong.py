# SPDX-License-Identifier: GPL-2.0-only
"""Owns a suite that every right kernel fails, in the same way each time."""

from __future__ import annotations

from harness.faults import knobs
from harness.guest.guest import Guest, dsq_context
from harness.model.trace import FaultAt
from harness.records import Fault
from harness.suite.dsq import Dsqs
from harness.suite.extra import CANARY
from harness.suite.sweep import Faults


def test_wants_a_duplicate(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    answer = dsq.api.run("create", dsq_context(7))[0]
    assert answer == 0, f"creating DSQ 7 twice answered {answer}"


def test_reads_a_warning_itself(guest: Guest) -> None:
    guest.write(CANARY, "warn")
    assert guest.log(), "reading takes the records out of the guest"


def test_percpu_memory_is_out_when_no_fault_is_armed(dsq: Dsqs, faults: Faults, guest: Guest) -> None:
    """A create fails while a fault is armed behind the harness's back, and another while it knows of that."""
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    fault = Fault(what="failslab", within=("pcpu_create_chunk",), probability=100, task="all")
    for path, value in knobs.arm(fault, faults.ranges(fault.within)):
        guest.write(path, value)
    for size in (32768, 4096, 512, 8):
        guest.agent.call("fill", check=False, nr=8000, size=size)
    assert dsq.create_range(1, 1, fault=FaultAt.ANY) == 1, "there was room in the chunks"
    with faults.armed(fault):  # at once: a worker makes chunks ahead of need
        assert dsq.create_range(2, 1, fault=FaultAt.ANY) == 1, "somebody made a chunk"
    guest.agent.call("drain")
