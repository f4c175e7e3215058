# SPDX-License-Identifier: GPL-2.0-only
"""Percpu memory really runs out: chunks are full, making or populating another fails, alloc_percpu() says so itself."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from harness.core.errors import Inconclusive
from harness.core.records import Fault
from harness.faults.endings import ENOMEM, ended_with
from harness.faults.percpu import ALLOC
from harness.faults.sweep import Faults
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import CREATE, Dsqs
from sched_ext.model.state import Features
from sched_ext.model.trace import FaultAt
from sched_ext.operations import FIRST

NO_DATA = "percpu data in its DSQs"

MAPS = 8000
"""More of each size than fit into the chunks that there are."""

MAKE = "pcpu_create_chunk"
POPULATE = "pcpu_populate_chunk"
"""Make a chunk, and give it pages (mm/percpu-vm.c)."""


def test_create_while_percpu_memory_is_out(dsq: Dsqs, faults: Faults, context: TestContext, features: Features) -> None:
    """Create after create fails in alloc_percpu(): each must free the DSQ that it had already allocated.

    The worker that populates pages ahead of need (pcpu_balance_workfn()) fails as well, if the kernel's stacks show it.
    The creates are of real-time priority, but a CPU keeps a share for others: the slower the host, the more often the
    worker comes between, and the fewer fail.
    """
    need(features.percpu_data, NO_DATA)
    context.must_inject = (ALLOC,)
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    faults.watch()
    ledger = faults.ledger(CREATE, deep=False)
    pages = Fault(what="page", within=(ALLOC,), probability=100)
    if POPULATE in faults.ranges([POPULATE]):
        pages = replace(pages, within=(POPULATE,), task="all")
    with faults.armed(pages, "create"):
        refused = dsq.create_range(FIRST, 3000, fault=FaultAt.ANY, fifo=True)
    faults.stop_watching()
    failed = ledger.get("percpu_failed")["percpu_failed"]
    if not refused and not failed:
        raise Inconclusive("percpu memory did not run out: the fault was not where it should be")
    assert failed == refused, f"{refused} creates failed, {failed} alloc_percpu() came back empty-handed"
    faults.seen("create", CREATE, handled=1)
    dsq.check_live()
    dsq.create(1)


@pytest.mark.parametrize(("what", "within"), [("failslab", MAKE), ("page", POPULATE)], ids=["failslab", "page"])
def test_percpu_memory_runs_out(
    dsq: Dsqs, faults: Faults, context: TestContext, features: Features, what: str, within: str
) -> None:
    """No chunk can be made or populated while ops.init creates DSQs, until alloc_percpu() gives up.

    The worker that does either ahead of need (pcpu_balance_workfn()) fails as well. ops.init runs in a real-time
    kthread, but one that takes its time is throttled, and the worker comes between.
    """
    need(features.percpu_data, NO_DATA)
    need(within in faults.ranges([within]), f"function {within}() of its own")
    context.must_inject = (ALLOC,)
    context.expect(r"ops\.init\(\) failed \(-12\)")
    count = 40_000  # a chunk that was made ahead of need holds 32,768 of 32 bytes (1 MiB, x86_64 with few CPUs)
    creates = [(FIRST + i, -1) for i in range(count)]
    ledger = faults.ledger(CREATE, deep=False)
    faults.watch(everybody=True)
    with faults.armed(Fault(what=what, within=(within,), probability=100, task="all"), "attach"):
        scheduler = dsq.attach("dsq_many", creates, fault=FaultAt.ANY, nr_dsqs=count, first_id=FIRST)
    faults.stop_watching()
    seen = scheduler.get("created", "first_error")
    failed = ledger.get("percpu_failed")["percpu_failed"]
    if not failed and dsq.last == 0:
        raise Inconclusive(f"percpu memory did not run out: {seen['created']} DSQs were created")
    assert dsq.last == ended_with(ENOMEM), f"alloc_percpu() came back empty {failed} times, and the attach succeeded"
    assert failed, "ops.init failed, but no alloc_percpu() came back empty"
    faults.seen("attach", CREATE, handled=1)
    assert seen["first_error"] == ENOMEM
    assert 0 < seen["created"] < count
    dsq.detach(scheduler)
    dsq.attach("dsq_many", creates[:100], nr_dsqs=100, first_id=FIRST)
    dsq.check_live()


def test_chunks_are_full(dsq: Dsqs, faults: Faults, context: TestContext, features: Features) -> None:
    """PERCPU maps fill the chunks, none can be made: the next DSQs fail, and succeed once the maps are gone.

    No task can make a chunk, also not the worker that does so ahead of need (pcpu_balance_workfn()).
    """
    need(features.percpu_data, NO_DATA)
    need(MAKE in faults.ranges([MAKE]), f"function {MAKE}() of its own")
    context.must_inject = (ALLOC,)
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    ledger = faults.ledger(CREATE, deep=False)
    faults.watch()
    with faults.armed(Fault(what="failslab", within=(MAKE,), probability=100, task="all"), "create"):
        for size in (32768, 4096, 512):
            filled = context.guest.agent.call("fill", check=False, nr=MAPS, size=size)
            assert filled.get("errno") == errno.ENOMEM, f"{MAPS} PERCPU maps of {size} bytes did not fill the chunks"
        before = ledger.get("percpu_failed")["percpu_failed"]
        refused = dsq.create_range(FIRST, 1000, fault=FaultAt.ANY)
        failed = ledger.get("percpu_failed")["percpu_failed"] - before
    faults.stop_watching()
    if not refused and not failed:
        raise Inconclusive("percpu memory did not run out: there was room in the chunks")
    assert failed == refused, f"{refused} creates failed, {failed} alloc_percpu() came back empty-handed"
    faults.seen("create", CREATE, handled=1)
    context.guest.agent.call("drain")
    dsq.check_live()
    dsq.create_range(1, 100)
