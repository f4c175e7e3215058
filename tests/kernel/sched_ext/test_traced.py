# SPDX-License-Identifier: GPL-2.0-only
"""Tasks of every kind on FIFOs and on DSQs ordered by virtual time, on several CPUs: what is seen of them is legal."""

from __future__ import annotations

import pytest

from harness.faults.endings import ENOMEM, Allowed
from harness.faults.percpu import PercpuFaults
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import CREATE, Dsqs
from sched_ext.model.state import Features
from sched_ext.model.trace import FaultAt
from sched_ext.operations import ENABLER
from sched_ext.sub import CGROUP_ROOT
from sched_ext.traced import CUSTODY, TracedTasks

ENOUGH = 6000
"""Events of a trace: some seconds of a busy guest, well below what the program has room for."""

pytestmark = pytest.mark.solo
"""What is waited for between the operations is no part of what a leak batch does again."""

ROUNDS = 3
OTHER = 7
"""A DSQ that no task is on."""


@pytest.mark.machines("default", "cpu1", "cpu8")
def test_every_order_is_legal(dsq: Dsqs, context: TestContext, features: Features) -> None:
    """Spinning, sleeping, forking, exiting, pinned tasks, and some whose properties change while they wait."""
    need(features.custody, CUSTODY)
    traced = TracedTasks(context, dsq)
    busy(traced, context.target.machine.spec.online_cpus)
    for part in range(1, 5):
        traced.run(part * ENOUGH // 4)
        for number in range(4):
            traced.count(number)
    traced.end()


def busy(traced: TracedTasks, cpus: int) -> None:
    """More tasks than two CPUs can serve, of every kind. With more spinning ones a guest of 8 CPUs took 17 s to end."""
    traced.work("sleep", 3)
    traced.work("fork", 1)
    for cpu in range(cpus):
        traced.work("sleep", 1, cpu=cpu)
    traced.work("nudge", 2, us=3000)
    traced.work("spin", min(cpus, 3) + 1)


@pytest.mark.machines("default", "cpu8")
def test_operations_and_faults_beside(
    dsq: Dsqs, context: TestContext, features: Features, percpu_faults: PercpuFaults
) -> None:
    """DSQs are created, destroyed and fail to be created, cgroups come and go with tasks in them, while tasks run."""
    need(features.custody, CUSTODY)
    guest = context.guest
    callers = dsq.callers(percpu_faults)
    context.must_inject = (callers.function, *CREATE)
    guest.write(f"{CGROUP_ROOT}/cgroup.subtree_control", "+cpu")
    traced = TracedTasks(context, dsq)
    traced.work("sleep", 2, us=5000)
    traced.work("spin", 2)
    traced.work("nudge", 1, us=10_000)
    for number in range(ROUNDS):
        group = f"{CGROUP_ROOT}/group{number}"
        guest.agent.call("mkdir", path=group)
        guest.write(f"{group}/cgroup.procs", "0")
        load = traced.work("sleep", 2, us=5000)
        guest.write(f"{CGROUP_ROOT}/cgroup.procs", "0")
        with percpu_faults.failing("create", callers, 1, thread="self", under=CREATE, helper=ENABLER) as trials:
            answer = dsq.create(OTHER, fault=FaultAt.PERCPU)
        assert trials[0].fired
        percpu_faults.book(trials[0], answer, Allowed(0, frozenset({ENOMEM})), CREATE)
        dsq.create(OTHER)
        dsq.check_live()
        traced.end_load(load)
        guest.wait_for(f"{group}/cgroup.events", "populated 0")
        guest.agent.call("rmdir", path=group)
        dsq.destroy(OTHER)
    traced.end()
    percpu_faults.settle()
