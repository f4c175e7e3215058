# SPDX-License-Identifier: GPL-2.0-only
"""alloc_percpu and the slab fail while DSQs are created: each create returns -ENOMEM or is unharmed, nothing leaks."""

from __future__ import annotations

import contextlib
import itertools

import pytest

from harness.guest.guest import dsq_context
from harness.model.state import Features
from harness.model.trace import FaultAt
from harness.records import Fault
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.features import need
from harness.suite.sweep import Faults

CREATE = ("scx_bpf_create_dsq",)
PERCPU = ("pcpu_alloc_noprof",)
FIRST = 1 << 20
NO_DATA = "percpu data in its DSQs"


def test_every_allocation_of_create_fails_once(
    dsq: Dsqs, faults: Faults, bench: Bench, features: Features
) -> None:
    """fail-nth over many creates: the more DSQs, the more often percpu memory must grow, and fails to."""
    bench.must_inject = (*CREATE, *PERCPU) if features.percpu_data else CREATE
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    count = 3000
    swept = faults.sweep_create(dsq.api, dsq_context(FIRST), ids=count, under=CREATE)
    assert swept.injected > count, "each create has at least one allocation to fail"
    inside = [site for site in swept.summary.sites if PERCPU[0] in site.stack and site.injected]
    assert inside or not features.percpu_data, "no fault reached an allocation inside alloc_percpu"
    for dsq_id in range(FIRST, FIRST + count):
        dsq.model.observe(dsq.model.create(dsq_id, -1), 0)
    dsq.check_live()


@pytest.mark.machines("default", "cpu1", "cpu8", "node2", full=("cpu64",))
def test_each_alloc_percpu_of_attach_fails(dsq: Dsqs, faults: Faults, bench: Bench, features: Features) -> None:
    """By a BPF kprobe, on machines of several shapes: there is a global DSQ a node and a bypass DSQ a possible CPU."""
    need(features.percpu_data, NO_DATA)
    fail_each_alloc_percpu(dsq, faults, bench, features, "override")


def test_each_alloc_percpu_of_attach_fails_by_fail_function(
    dsq: Dsqs, faults: Faults, bench: Bench, features: Features
) -> None:
    """The same by fail_function with a stack filter."""
    need(features.percpu_data, NO_DATA)
    need(bench.ready.kernel.arch == "x86_64", "stack at a function's entry that shows its caller")
    fail_each_alloc_percpu(dsq, faults, bench, features, "fail_function")


def fail_each_alloc_percpu(dsq: Dsqs, faults: Faults, bench: Bench, features: Features, how: str) -> None:
    """The k-th alloc_percpu() of init_dsq() fails: global DSQs, bypass DSQs, then those of ops.init.

    Before ops.init attach itself answers -ENOMEM; from there on it succeeds and the exit info carries the error.
    """
    init = (features.init,)
    bench.must_inject = init
    bench.expect(r"ops\.init\(\) failed \(-12\)")
    spec = bench.ready.machine.spec
    creates = [(FIRST, -1), (FIRST + 1, -1)]
    for nth in range(1, spec.nodes + spec.possible_cpus + len(creates) + 1):
        with contextlib.ExitStack() as stack:
            if how == "override":
                shim = stack.enter_context(faults.failing_percpu(*init, nth))
            else:
                stack.enter_context(faults.armed(Fault(what="function", within=init, nth=nth, task="all")))
            scheduler = dsq.attach(
                "dsq_many", creates, fault=FaultAt.PERCPU, nth=nth, nr_dsqs=len(creates), first_id=FIRST
            )
            fired = shim.get("fired")["fired"] if how == "override" else faults.fired_functions()
            assert fired == 1, f"the {nth}-th alloc_percpu() of an attach was never made"
        bench.count_faults(faults.function_summary(f"attach, alloc_percpu {nth}", init))
        if dsq.attached(scheduler):
            dsq.detach(scheduler)
        scheduler.unload()  # with 64 CPUs there are more of them than the agent holds
    scheduler = dsq.attach("dsq_many", creates, nr_dsqs=len(creates), first_id=FIRST)
    dsq.check_live()


ENABLER = "scx_enable_helper"
"""The kthread that enables schedulers: made by the first one, and kept (kernel/sched/ext/ext.c, scx_enable())."""
OWN_KTHREAD = "enabling in a kthread of its own"


@pytest.mark.parametrize("thread", [ENABLER, ""], ids=["enabling", "loader"])
def test_every_allocation_of_attach_fails_once(dsq: Dsqs, faults: Faults, bench: Bench, thread: str) -> None:
    """fail-nth over attaches, in the kthread that enables a scheduler, and in the task that asks for it."""
    bench.expect(r"ops\.init\(\) failed \(-12\)", r"error -12|failed \(-12\)")
    scheduler = dsq.attach("dsq_many", [(FIRST, -1)], nr_dsqs=1, first_id=FIRST)  # the kthread is made by the first
    dsq.detach(scheduler)
    bench.must_inject = ("scx_alloc_and_add_sched",) if thread else ()
    under = ("scx_root_enable_workfn", "scx_enable") if thread else ("bpf_scx_reg", "link_create", "map_update_elem")
    need(faults.sweep_attach(scheduler, thread=thread, under=under) is not None, OWN_KTHREAD)
    dsq.attach("dsq_many", [(FIRST, -1)], nr_dsqs=1, first_id=FIRST)
    dsq.check_live()


@pytest.mark.machines("default", full=("cpu8", "node2"))
def test_each_percpu_allocation_of_enabling_fails(dsq: Dsqs, faults: Faults, bench: Bench) -> None:
    """Whoever in the enabling kthread makes it: init_dsq() is not the only one."""
    bench.must_inject = PERCPU
    bench.expect(r"failed \(-12\)")
    creates = [(FIRST, -1)]
    scheduler = dsq.attach("dsq_many", creates, nr_dsqs=1, first_id=FIRST)
    dsq.detach(scheduler)
    tid = bench.guest.thread(ENABLER)
    need(tid > 0, OWN_KTHREAD)
    for nth in itertools.count(1):
        with faults.failing_percpu("", nth, tid) as shim:
            scheduler = dsq.attach("dsq_many", creates, fault=FaultAt.ANY, nr_dsqs=1, first_id=FIRST)
            fired = shim.get("fired")["fired"]
        if dsq.attached(scheduler):
            dsq.detach(scheduler)
        scheduler.unload()
        if not fired:
            break
        bench.count_faults(faults.function_summary(f"attach, alloc_percpu {nth} of anybody", ()))
    assert nth > 1, "enabling a scheduler makes no percpu allocation"
    dsq.attach("dsq_many", creates, nr_dsqs=1, first_id=FIRST)
    dsq.check_live()


def test_create_while_percpu_memory_is_out(
    dsq: Dsqs, faults: Faults, bench: Bench, features: Features
) -> None:
    """Create after create fails in alloc_percpu(): each must free the DSQ that it had already allocated."""
    need(features.percpu_data, NO_DATA)
    bench.must_inject = PERCPU
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    faults.watch()
    with faults.armed(Fault(what="page", within=PERCPU, probability=100)):
        refused = dsq.create_range(FIRST, 3000, fault=FaultAt.ANY, fifo=True)
    faults.stop_watching()
    assert refused, "alloc_percpu never failed: the fault was not where it should be"
    bench.count_faults(faults.collect("create without percpu memory", CREATE, failed=1))
    dsq.check_live()
    dsq.create(1)


@pytest.mark.parametrize("what", ["failslab", "page"])
def test_percpu_memory_runs_out(
    dsq: Dsqs, faults: Faults, bench: Bench, features: Features, what: str
) -> None:
    """All allocations inside pcpu_alloc_noprof() fail while ops.init creates DSQs, until alloc_percpu() gives up.

    ops.init runs in a real-time kthread, so the worker that would populate percpu pages ahead of need does
    not come between, and the fault is inevitable.
    """
    need(features.percpu_data, NO_DATA)
    bench.must_inject = PERCPU
    bench.expect(r"ops\.init\(\) failed \(-12\)")
    count = 8000
    creates = [(FIRST + i, -1) for i in range(count)]
    faults.watch(everybody=True)
    with faults.armed(Fault(what=what, within=PERCPU, probability=100, task="all")):
        scheduler = dsq.attach("dsq_many", creates, fault=FaultAt.ANY, nr_dsqs=count, first_id=FIRST)
    faults.stop_watching()
    seen = scheduler.get("created", "first_error")
    summary = faults.collect(f"ops.init under {what}", (features.init,), failed=1)
    bench.count_faults(summary)
    assert seen["first_error"] == -12, f"alloc_percpu never failed: {seen['created']} DSQs were created"
    assert 0 < seen["created"] < count
    dsq.detach(scheduler)
    dsq.attach("dsq_many", creates[:100], nr_dsqs=100, first_id=FIRST)
    dsq.check_live()
