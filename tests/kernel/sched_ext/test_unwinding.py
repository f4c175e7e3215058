# SPDX-License-Identifier: GPL-2.0-only
"""Enabling fails in each of its parts, before and after its DSQs were made; a task dies waiting for percpu memory."""

from __future__ import annotations

import pytest

from harness.core.records import Fault
from harness.faults.cause import Cause
from harness.faults.endings import ENOMEM, ended_with
from harness.faults.percpu import ALLOC
from harness.faults.sweep import Faults
from harness.faults.trials import Trials
from harness.guest.guest import BpfObject
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import CREATE, Dsqs, dsq_context
from sched_ext.model.state import Features
from sched_ext.model.trace import FaultAt
from sched_ext.operations import ENABLE, ENABLER, FIRST

pytestmark = pytest.mark.sequential

OWN_KTHREAD = "enabling in a kthread of its own"
CREATES = [(FIRST, -1)]

PARTS = {
    "exit-info": ("alloc_exit_info",),
    "global-dsq": ("alloc_pnode",),
    "helper": ("kthread_create_worker_on_node", "kthread_create_worker"),
    "kobject": ("kobject_init_and_add", "kobject_add"),
    "kick-syncs": ("alloc_kick_syncs",),
    "cpu-ids": ("scx_cid_init",),
}
"""What enabling allocates (scx_root_enable_workfn(), scx_alloc_and_add_sched()), by functions of any release. The
cpumasks are part of struct scx_sched here (no CPUMASK_OFFSTACK), and its percpu data is test_percpu_faults.py's."""

HASH = ("__rhashtable_init_noprof", "rhashtable_init_noprof")


@pytest.mark.parametrize("part", list(PARTS))
def test_part_of_enabling(dsq: Dsqs, faults: Faults, trials: Trials, context: TestContext, part: str) -> None:
    """Every slab allocation of the part fails, then every page, also those that it falls back to."""
    tid = enabling_thread(dsq, context)
    faults.watch(tid=tid)
    gone(dsq, dsq.attach("dsq_many", CREATES, nr_dsqs=1, first_id=FIRST))
    function = next((name for name in PARTS[part] if faults.met(name) and faults.span(name)), "")
    need(bool(function), f"allocations of its own for this part: {' or '.join(PARTS[part])}")
    context.must_inject = (function,)
    operation = f"attach, no {part}"
    for what in ("failslab", "page"):
        plan = f"{{operation: attach, what: {what}, within: [{function}], task: {ENABLER}, probability: 100}}"
        with trials.of(Cause(operation, what, (function,), plan), ENABLE, ENABLER):
            with faults.armed(Fault(what=what, within=(function,), probability=100, task=str(tid))):
                scheduler = dsq.attach("dsq_many", CREATES, fault=FaultAt.ANY, nr_dsqs=1, first_id=FIRST)
        failed = dsq.last in (ENOMEM, ended_with(ENOMEM))
        gone(dsq, scheduler)
        faults.seen(operation, (function,), handled=int(failed))
        assert failed or what == "page", f"enabling does not need what {function}() allocates: {dsq.last}"
    faults.stop_watching()
    trials.settle()
    dsq.attach("dsq_many", CREATES, nr_dsqs=1, first_id=FIRST)
    dsq.check_live()


def enabling_thread(dsq: Dsqs, context: TestContext) -> int:
    """The id of the kthread that enables schedulers, which the first attach makes."""
    context.expect(r"failed \(-12\)")
    dsq.detach(dsq.attach("dsq_many", CREATES, nr_dsqs=1, first_id=FIRST))
    tid = context.guest.thread(ENABLER)
    need(tid > 0, OWN_KTHREAD)
    return tid


def gone(dsq: Dsqs, scheduler: BpfObject) -> None:
    if dsq.attached(scheduler):
        dsq.detach(scheduler)
    scheduler.unload()


def test_hash_table_of_enabling(dsq: Dsqs, faults: Faults, trials: Trials, context: TestContext) -> None:
    """rhashtable_init() itself says -ENOMEM: its last allocation may not fail, so no fault below would do."""
    enabling_thread(dsq, context)
    function = next((name for name in HASH if faults.ranges([name])), "")
    with trials.of(Cause("attach, no hash-table", "function", (function,)), ENABLE, ENABLER):
        with faults.armed(Fault(what="function", nth=1, task="all"), target=function, retval=ENOMEM):
            scheduler = dsq.attach("dsq_many", CREATES, fault=FaultAt.ANY, nr_dsqs=1, first_id=FIRST)
            assert faults.fired_functions() == 1, f"{function}() was not called"
    assert dsq.last == ENOMEM
    gone(dsq, scheduler)
    trials.settle()
    dsq.attach("dsq_many", CREATES, nr_dsqs=1, first_id=FIRST)
    dsq.check_live()


def test_killed_while_waiting_for_percpu_memory(
    dsq: Dsqs, trials: Trials, context: TestContext, features: Features
) -> None:
    """SIGKILL ends the wait for pcpu_alloc_mutex: the create fails, frees its DSQ, and the task dies at once."""
    need(features.percpu_data, "percpu data in its DSQs")
    mutex = context.target.symbols.data("pcpu_alloc_mutex")
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    for dsq_id in (FIRST, FIRST + 1):
        with trials.of(Cause("create, killed", "function", (ALLOC, *CREATE)), CREATE, ENABLER):
            answer = dsq.api.run_killed("create", dsq_context(dsq_id), mutex, ALLOC)
        assert answer, "the task did not die while it waited for pcpu_alloc_mutex"
        dsq.nr_queued(dsq_id)
        dsq.create(dsq_id)
    trials.settle()
    dsq.check_live()
