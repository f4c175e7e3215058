# SPDX-License-Identifier: GPL-2.0-only
"""scx_bpf_dsq_reenq() by the per-CPU data of every CPU: also at once, of a DSQ that goes, and while a CPU does."""

from __future__ import annotations

import errno
import itertools

import pytest

from harness.core.errors import GuestError, Inconclusive
from harness.core.wire import Binary
from harness.guest.guest import BpfObject
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from harness.session.hotplug import Cpu
from harness.session.poison import PercpuPoison
from harness.suite.needs import need
from sched_ext.dsq import Dsqs
from sched_ext.model.event import NO_DSQ
from sched_ext.model.state import Features
from sched_ext.traced import CUSTODY, NR_DSQS, TracedTasks

WHAT = "scx_bpf_dsq_reenq()"
TIMES = 40

FREE = 8
"""Tasks that are not pinned."""

SLEEP_US = 100_000
"""How long they sleep. They are to lie on DSQs: each turn of theirs before and after is only an event more in the trace."""

PATIENCE_NS = 100_000_000
"""How long a CPU waits for another to destroy the DSQ, with interrupts off and its runqueue locked; nominal."""

TRIES = 20
FIRST_ID = 1000
PROGRAM = "dsq_reenq"


pytestmark = pytest.mark.solo
"""What is waited for between the operations is no part of what a leak batch does again."""


@pytest.fixture
def traced(dsq: Dsqs, context: TestContext, features: Features) -> TracedTasks:
    """Tasks that wait on DSQs, none of which leaves."""
    need(features.custody, CUSTODY)
    need(features.reenq, WHAT)
    tasks = TracedTasks(context, dsq)
    cpus = context.target.machine.spec.online_cpus
    tasks.work("sleep", FREE, us=SLEEP_US)
    for cpu in range(cpus):
        tasks.work("sleep", 1, us=SLEEP_US, cpu=cpu)
    tasks.hold()  # only now: the kernel lets nothing be held for long, and a slow host needs some time to start so many
    tasks.gather(FREE + cpus)
    return tasks


@pytest.mark.machines("default", "cpu1", "cpu8")
def test_from_each_cpu(traced: TracedTasks, context: TestContext) -> None:
    """Each task on the DSQ is re-enqueued once, whichever CPU asks; it may come to another DSQ."""
    asked = 0
    before = traced.number("nr_reenqueued")
    for cpu in range(context.target.machine.spec.online_cpus):
        with context.guest.pinned(cpu):
            for number in range(NR_DSQS):
                asked += traced.count(number)
                traced.reenqueue(number)
                traced.wait_for_reenqueues(before + asked)
    traced.settled()
    traced.let_go()
    traced.end()


@pytest.mark.machines("default", "cpu8")
def test_from_all_cpus_at_once(traced: TracedTasks, context: TestContext) -> None:
    """What several CPUs ask for at once may be done in fewer turns, but nobody who lay there is left out."""
    cpus = context.target.machine.spec.online_cpus
    traced.reenqueue_beside(TIMES, range(cpus))
    traced.reap()
    traced.settled()
    traced.let_go()
    traced.end()


@pytest.mark.machines("default", full=("cpu8",))
def test_while_a_cpu_goes_and_comes_back(traced: TracedTasks, context: TestContext) -> None:
    """Its tasks move on, what it had been asked for is not forgotten, and it can be asked again."""
    last = context.target.machine.spec.online_cpus - 1
    if not last:
        pytest.skip("this machine has one CPU, which stays")
    cpu = Cpu(context.guest, last, traced.scheduler)
    traced.let_go()
    for load in tuple(traced.loads[1:]):  # the kernel would force those that are pinned off it
        traced.end_load(load)
    traced.work("spin", 2)
    traced.work("nudge", 1)
    for switch in cpu.offline, cpu.online:
        traced.reenqueue_beside(TIMES, {0, last - 1})
        switch()
        traced.reap()
        traced.run(traced.number("nr_events") + 500)
    with context.guest.pinned(last):
        traced.reenqueue(NO_DSQ, TIMES)
    traced.run(traced.number("nr_events") + 500)
    traced.end()


@pytest.mark.machines("default", "cpu1", "cpu8")
def test_of_a_dsq_that_is_destroyed(
    dsq: Dsqs, context: TestContext, features: Features, percpu_poison: PercpuPoison
) -> None:
    """Reenqueues wait in the per-CPU data of every other CPU when the DSQ goes: they must not outlive it."""
    need(features.percpu_data, "percpu data in its DSQs")
    need(features.reenq, WHAT)
    cpus = context.target.machine.spec.online_cpus
    with percpu_poison.armed(dsq.callers):
        scheduler = dsq.attach(PROGRAM, nr_cpus=cpus, patience_ns=int(PATIENCE_NS * dsq.scale))
        ids = itertools.count(FIRST_ID)
        for cpu in sorted({0, cpus - 1}):  # on each other one reenqueues then wait
            destroyed_there(dsq, context, scheduler, next(ids), cpu)
            others = (1 << cpus) - 1 & ~(1 << cpu)
            with context.guest.pinned(cpu):
                if others and not any(destroyed_under(dsq, scheduler, next(ids), others) for _ in range(TRIES)):
                    raise Inconclusive(f"the other CPUs never waited for CPU {cpu} in {TRIES} tries")
        made = next(ids) - FIRST_ID
        dsq.check_live()
        seen = percpu_poison.look()
        assert seen.gone >= made, f"{made} DSQs were destroyed: {seen}"
        dsq.detach(scheduler)


def destroyed_there(dsq: Dsqs, context: TestContext, scheduler: BpfObject, dsq_id: int, cpu: int) -> None:
    """One CPU asks for a reenqueue and destroys the DSQ in one ops.dispatch, before the reenqueue can be done."""
    dsq.create(dsq_id)
    scheduler.run("destroy_there", Binary("QQ", dsq_id, 1 << cpu))
    deadline = Deadline(10 * dsq.scale, f"CPU {cpu} to dispatch")
    while not scheduler.get("destroyed")["destroyed"]:
        if deadline.expired:
            raise GuestError(str(deadline))
    dsq.destroyed(dsq_id)


def destroyed_under(dsq: Dsqs, scheduler: BpfObject, dsq_id: int, cpus: int) -> bool:
    """This CPU destroys the DSQ while reenqueues wait on these; False where one of them did not come to wait."""
    dsq.create(dsq_id)
    (answer,) = scheduler.run("destroy_under", Binary("QQ", dsq_id, cpus))
    if answer == -errno.EBUSY:  # it let the DSQ be
        dsq.destroy(dsq_id)
    else:
        dsq.destroyed(dsq_id)
    return answer == 0
