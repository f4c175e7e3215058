# SPDX-License-Identifier: GPL-2.0-only
"""Each alloc_percpu() by which a DSQ gets its percpu data fails, on demand and exactly once, wherever it is made."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from harness.core.records import Fault
from harness.faults.endings import ENOMEM, Allowed, ended_with
from harness.faults.percpu import ALLOC, Callers, PercpuFaults, Trial
from harness.faults.sweep import Faults
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import CREATE, Dsqs
from sched_ext.model.state import Features
from sched_ext.model.trace import FaultAt
from sched_ext.operations import ENABLE, ENABLER, FIRST
from sched_ext.sub import CGROUP_ROOT

pytestmark = pytest.mark.sequential

NO_DATA = "percpu data in its DSQs"
OWN_KTHREAD = "enabling in a kthread of its own"
CREATES = [(FIRST, -1), (FIRST + 1, -1)]
AT_ATTACH = Allowed(0, frozenset({ENOMEM}))
AFTER_ATTACH = Allowed(0, frozenset({ended_with(ENOMEM)}))


@pytest.mark.machines("default", "cpu1", "cpu8", "node2", full=("cpu64",))
def test_attach(dsq: Dsqs, percpu_faults: PercpuFaults, context: TestContext, features: Features) -> None:
    """A global DSQ a node, a bypass DSQ a possible CPU, two of ops.init's: in this order.

    Before ops.init attach itself answers -ENOMEM; from there on it succeeds and the exit info carries the error.
    """
    need(features.percpu_data, NO_DATA)
    context.expect(r"ops\.init\(\) failed \(-12\)")
    callers = dsq.callers(percpu_faults)
    context.must_inject = (callers.function,)
    spec = context.target.machine.spec
    own = spec.nodes + spec.possible_cpus
    above: set[str] = set()
    for nth in range(1, own + len(CREATES) + 1):
        trial = attach(dsq, percpu_faults, callers, nth, AT_ATTACH if nth <= own else AFTER_ATTACH)
        assert trial.fired, f"the {nth}-th alloc_percpu() of an attach was never made"
        above.add(caller_of(trial, callers.function))
    assert len(above) == 3, f"three functions initialise DSQs of an attach, it failed under {', '.join(sorted(above))}"
    percpu_faults.settle()
    dsq.attach("dsq_many", CREATES, nr_dsqs=len(CREATES), first_id=FIRST)
    dsq.check_live()


def attach(dsq: Dsqs, percpu_faults: PercpuFaults, callers: Callers, nth: int, allowed: Allowed) -> Trial:
    """One attach with the nth call failing; the scheduler is gone again afterwards, and the next attach succeeds."""
    with percpu_faults.failing("attach", callers, nth, under=ENABLE, helper=ENABLER) as trials:
        scheduler = dsq.attach("dsq_many", CREATES, fault=FaultAt.PERCPU, nth=nth, nr_dsqs=len(CREATES), first_id=FIRST)
    answer = dsq.last
    percpu_faults.book(trials[0], answer, allowed, ENABLE)
    if dsq.attached(scheduler):
        dsq.detach(scheduler)
    scheduler.unload()  # with 64 CPUs there are more of them than the agent holds
    return trials[0]


def caller_of(trial: Trial, function: str) -> str:
    """Which function called the one that allocates."""
    stack = trial.cause.stack
    return stack[stack.index(function) + 1]


def test_user_create(dsq: Dsqs, percpu_faults: PercpuFaults, context: TestContext, features: Features) -> None:
    """A create of a program's: -ENOMEM, nothing is left, and the id is free."""
    need(features.percpu_data, NO_DATA)
    callers = dsq.callers(percpu_faults)
    context.must_inject = (callers.function, *CREATE)
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    for dsq_id in (FIRST, FIRST + 1):
        with percpu_faults.failing("create", callers, 1, thread="self", under=CREATE, helper=ENABLER) as trials:
            answer = dsq.create(dsq_id, fault=FaultAt.PERCPU)
        assert trials[0].fired
        percpu_faults.book(trials[0], answer, AT_ATTACH, CREATE)
        dsq.nr_queued(dsq_id)
        dsq.create(dsq_id)
    percpu_faults.settle()
    dsq.check_live()


@pytest.mark.parametrize("program", ["dsq_per_task", "dsq_per_cgroup"])
def test_dsqs_of_callbacks(
    dsq: Dsqs, percpu_faults: PercpuFaults, context: TestContext, features: Features, program: str
) -> None:
    """Enabling calls ops.init_task for every task, ops.cgroup_init for every cgroup; the first that fails ends it."""
    need(features.percpu_data, NO_DATA)
    context.expect(r"failed \(-12\)")
    callers = dsq.callers(percpu_faults)
    context.must_inject = (callers.function, *CREATE)
    if program == "dsq_per_cgroup":
        context.guest.agent.call("mkdir", path=f"{CGROUP_ROOT}/one")
        context.guest.write(f"{CGROUP_ROOT}/cgroup.subtree_control", "+cpu")
    spec = context.target.machine.spec
    scheduler = dsq.load(program)
    for nth in itertools.count(spec.nodes + spec.possible_cpus + 1):
        scheduler.set("exited", 0)
        with percpu_faults.failing("attach", callers, nth, under=ENABLE, helper=ENABLER) as trials:
            got = scheduler.attach(check=False)
            ended = dsq.exit_error(scheduler) if got == 0 else None
        scheduler.detach()
        if not trials[0].fired:
            break
        percpu_faults.book(trials[0], got if ended is None else ended_with(ended), AFTER_ATTACH, ENABLE)
    made = nth - spec.nodes - spec.possible_cpus - 1
    assert made > 1, f"only {made} DSQs were made by {program}"
    percpu_faults.settle()
    scheduler.set("exited", 0)
    assert scheduler.attach() == 0
    assert dsq.exit_error(scheduler) is None
    scheduler.detach()
    if program == "dsq_per_cgroup":
        context.guest.agent.call("rmdir", path=f"{CGROUP_ROOT}/one")


def test_fork_and_cgroup(dsq: Dsqs, percpu_faults: PercpuFaults, context: TestContext, features: Features) -> None:
    """A fork fails with its ops.init_task, a mkdir with its ops.cgroup_init."""
    need(features.percpu_data, NO_DATA)
    callers = dsq.callers(percpu_faults)
    context.must_inject = (callers.function, *CREATE)
    context.guest.write(f"{CGROUP_ROOT}/cgroup.subtree_control", "+cpu")
    cases: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("fork", "dsq_per_task", "fork", {}),
        ("cgroup-create", "dsq_per_cgroup", "mkdir", {"path": f"{CGROUP_ROOT}/one"}),
    )
    for name, program, verb, args in cases:
        scheduler = dsq.attach(program)
        with percpu_faults.failing(name, callers, 1, thread="self", under=CREATE, helper=ENABLER) as trials:
            answer = context.guest.agent.call(verb, check=False, **args)
        assert trials[0].fired, f"{verb} made no DSQ"
        percpu_faults.book(trials[0], -answer.get("errno", 0), AT_ATTACH, CREATE)
        context.guest.agent.call(verb, **args)
        dsq.detach(scheduler)
    context.guest.agent.call("rmdir", path=f"{CGROUP_ROOT}/one")
    percpu_faults.settle()


def test_attach_by_fail_function(
    dsq: Dsqs, faults: Faults, percpu_faults: PercpuFaults, context: TestContext, features: Features
) -> None:
    """The kernel's own fail_function with a stack filter does the same, where stacks show a function's caller."""
    need(features.percpu_data, NO_DATA)
    need(context.target.kernel.arch == "x86_64", "stack at a function's entry that shows its caller")
    context.expect(r"ops\.init\(\) failed \(-12\)")
    callers = dsq.callers(percpu_faults)
    percpu_faults.unload()  # fail_function wants the entry of pcpu_alloc_noprof() for itself
    need(len(faults.ranges([callers.function])) == 1, "function of its own that initialises DSQs")
    spec = context.target.machine.spec
    for nth in range(1, spec.nodes + spec.possible_cpus + len(CREATES) + 1):
        with faults.armed(Fault(what="function", within=(callers.function,), nth=nth, task="all"), "attach"):
            scheduler = dsq.attach(
                "dsq_many", CREATES, fault=FaultAt.PERCPU, nth=nth, nr_dsqs=len(CREATES), first_id=FIRST
            )
            fired = faults.fired_functions()
        assert fired == 1, f"the {nth}-th alloc_percpu() of an attach was never made"
        if dsq.attached(scheduler):
            dsq.detach(scheduler)
        scheduler.unload()
    dsq.attach("dsq_many", CREATES, nr_dsqs=len(CREATES), first_id=FIRST)
    dsq.check_live()


@pytest.mark.machines("default", full=("cpu8", "node2"))
def test_each_of_the_enabling_thread(dsq: Dsqs, percpu_faults: PercpuFaults, context: TestContext) -> None:
    """Whoever in the enabling kthread makes it: DSQs are not the only ones."""
    context.must_inject = (ALLOC,)
    context.expect(r"failed \(-12\)")
    scheduler = dsq.attach("dsq_many", CREATES, nr_dsqs=len(CREATES), first_id=FIRST)
    dsq.detach(scheduler)
    need(context.guest.thread(ENABLER) > 0, OWN_KTHREAD)
    either = Allowed(0, AT_ATTACH.errors | AFTER_ATTACH.errors)
    for nth in itertools.count(1):
        with percpu_faults.failing("attach", Callers(), nth, thread=ENABLER, under=ENABLE, helper=ENABLER) as trials:
            scheduler = dsq.attach("dsq_many", CREATES, fault=FaultAt.ANY, nr_dsqs=len(CREATES), first_id=FIRST)
        answer = dsq.last
        if dsq.attached(scheduler):
            dsq.detach(scheduler)
        scheduler.unload()
        if not trials[0].fired:
            break
        percpu_faults.book(trials[0], answer, either, ENABLE)
    assert nth > 1, "enabling a scheduler makes no percpu allocation"
    percpu_faults.settle()
    dsq.attach("dsq_many", CREATES, nr_dsqs=len(CREATES), first_id=FIRST)
    dsq.check_live()
