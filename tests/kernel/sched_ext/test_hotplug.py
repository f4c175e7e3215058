# SPDX-License-Identifier: GPL-2.0-only
"""CPUs go offline and come back under a scheduler that stays: tasks get away, and each DSQ has data for each CPU.

A reenqueue that a CPU asks for in its last ops.dispatch waits on that CPU's list: queue_balance_callback() queues nothing
once balance_push is active (sched_cpu_deactivate(), kernel/sched/core.c).
"""

from __future__ import annotations

import errno

import pytest

from harness.core.errors import Disagreed, GuestError, Inconclusive
from harness.core.wire import Binary
from harness.guest.guest import BpfObject, Guest
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from harness.session.hotplug import Cpu
from harness.session.load import wait_for_progress
from harness.session.poison import PercpuPoison
from harness.suite.needs import need
from sched_ext.dsq import SCHED_EXT, STATE, Dsqs, dsq_context
from sched_ext.model.state import Features

CPU = 1
TASKS = 3
ARRIVE_SECONDS = 10.0
TIMES = 2
TRIES = 5
DOOMED = 1000
"""A DSQ that no task is on."""

REENQ = "scx_bpf_dsq_reenq()"


def scheduler_of(dsq: Dsqs, cpus: int, closed: int) -> BpfObject:
    """One user DSQ a CPU, with that CPU's number as its id; from that of `closed` nothing is taken."""
    return dsq.attach("dsq_per_cpu", [(cpu, -1) for cpu in range(cpus)], nr_cpus=cpus, closed_cpu=closed)


def lie_on_the_dsq(dsq: Dsqs, cpu: int, tasks: int) -> None:
    """Wait until so many tasks are on the DSQ of a CPU."""
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{tasks} tasks to lie on the DSQ of CPU {cpu}")
    while (there := dsq.api.run("nr_queued", dsq_context(cpu), record=False)[0]) != tasks:
        if deadline.expired:
            raise GuestError(f"{deadline}: {there} do")


def wait_for_reenqueue(dsq: Dsqs, scheduler: BpfObject, asked_by: int, *, before: int = 0) -> None:
    """Wait until all tasks were re-enqueued, after `before` re-enqueues in all."""
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{TASKS} tasks to be re-enqueued, asked by CPU {asked_by}")
    while (reenqueued := scheduler.get("reenqueued")["reenqueued"] - before) < TASKS:
        if deadline.expired:
            scheduler.set("closed_cpu", -1)  # or their stall would be reported as well
            raise Disagreed(f"{deadline}: {reenqueued} were", "scx_bpf_dsq_reenq")


def reenqueue_from(guest: Guest, scheduler: BpfObject, cpu: int) -> None:
    """Let a CPU re-enqueue its own DSQ, which also does what waits there (process_deferred_reenq_users())."""
    with guest.pinned(cpu):
        scheduler.run("reenqueue", Binary("Q", cpu))


def asks_as_it_goes(cpu: Cpu, scheduler: BpfObject, dsq_id: int) -> int:
    """Take a CPU offline so that it leaves a re-enqueue of a DSQ on its list; returns how often it requested one.

    Repeats that if it did not reach ops.dispatch on its way: usually the wait there leaves it idle.
    """
    scheduler.set("asked_dsq", dsq_id)
    for attempt in range(TRIES):
        if attempt:
            cpu.online()
        scheduler.set("asking_cpu", cpu.number)
        cpu.offline()
        scheduler.set("asking_cpu", -1)
        if asked := int(scheduler.get("asked")["asked"]):
            return asked
    raise Inconclusive(f"CPU {cpu.number} did not come to ops.dispatch on its way offline in {TRIES} tries")


def still_there(guest: Guest, scheduler: BpfObject) -> None:
    """Fail if the kernel has ejected the scheduler."""
    seen = scheduler.get("exited", "exit_msg")
    assert not seen["exited"], f"the kernel ejected the scheduler: {seen['exit_msg']}"
    assert guest.read(STATE).strip() == "enabled"


def test_tasks_on_a_dsq_do_not_keep_their_cpu_from_going_offline(guest: Guest, context: TestContext, dsq: Dsqs) -> None:
    """Nobody but the kernel can move them: its scheduler takes nothing from the DSQ (rq_offline_scx())."""
    scheduler = scheduler_of(dsq, context.target.machine.spec.online_cpus, CPU)
    cpu = Cpu(guest, CPU, scheduler)
    for time in range(1, TIMES + 1):
        load = guest.work("spin", TASKS, cpu=CPU, policy=SCHED_EXT)
        lie_on_the_dsq(dsq, CPU, TASKS)
        cpu.offline()
        wait_for_progress(context, load)
        cpu.online()
        wait_for_progress(context, load)
        load.kill()
        assert scheduler.get("offline", "online") == {"offline": time, "online": time}
    still_there(guest, scheduler)
    dsq.detach(scheduler)


@pytest.mark.machines("default", "node2")
def test_a_dsq_has_data_for_a_cpu_that_was_offline_when_it_was_made(
    guest: Guest, context: TestContext, dsq: Dsqs
) -> None:
    """The last possible CPU comes online under the scheduler, and asks by its own data for tasks to be re-enqueued.

    init_dsq() makes data for each possible CPU, not for those that are online (kernel/sched/ext/ext.c).
    """
    spec = context.target.machine.spec
    last = spec.possible_cpus - 1
    idle = guest.load("dsq_per_cpu")  # only for who takes the CPU offline
    cpu = Cpu(guest, last, idle)
    all_online = spec.online_cpus == spec.possible_cpus
    if all_online:
        cpu.offline()
    scheduler = scheduler_of(dsq, spec.possible_cpus, last)
    cpu.online()
    load = guest.work("sleep", TASKS, us=1000, cpu=last, policy=SCHED_EXT)
    lie_on_the_dsq(dsq, last, TASKS)
    with guest.pinned(last):
        (answer,) = scheduler.run("reenqueue", Binary("Q", last))
    need(answer != -errno.EOPNOTSUPP, REENQ)
    wait_for_reenqueue(dsq, scheduler, last)
    lie_on_the_dsq(dsq, last, TASKS)
    assert scheduler.get("reenqueued")["reenqueued"] == TASKS, "a task was re-enqueued more than once"
    still_there(guest, scheduler)
    scheduler.set("closed_cpu", -1)
    wait_for_progress(context, load)
    load.kill()
    if not all_online:  # what the kernel allocated to bring it online must go again
        cpu.offline()
    dsq.detach(scheduler)


@pytest.mark.solo
@pytest.mark.machines("default", "cpu8")
def test_a_dsq_is_destroyed_while_its_reenqueue_waits_on_a_cpu_that_is_offline(
    guest: Guest, context: TestContext, dsq: Dsqs, features: Features, percpu_poison: PercpuPoison
) -> None:
    """The reenqueue may not outlive the DSQ (free_dsq_irq_workfn()), nor be done when the CPU is back."""
    need(features.percpu_data, "percpu data in its DSQs")
    need(features.reenq, REENQ)
    cpus = context.target.machine.spec.online_cpus
    with percpu_poison.armed(dsq.callers):
        scheduler = scheduler_of(dsq, cpus, -1)
        cpu = Cpu(guest, cpus - 1, scheduler)
        dsq.create(DOOMED)
        asks_as_it_goes(cpu, scheduler, DOOMED)
        dsq.destroy(DOOMED)
        seen = percpu_poison.look()
        cpu.online()
        assert seen.gone, f"the DSQ was destroyed: {seen}"
        reenqueue_from(guest, scheduler, cpu.number)
        still_there(guest, scheduler)
        dsq.check_live()
        dsq.detach(scheduler)


@pytest.mark.solo
@pytest.mark.machines("default", "cpu8")
def test_a_reenqueue_that_waits_on_a_cpu_is_done_when_it_comes_back(
    guest: Guest, context: TestContext, dsq: Dsqs, features: Features
) -> None:
    """At the latest with the next that the CPU asks for; the tasks lie on the DSQ of another CPU, which stays.

    Meanwhile that one can ask for the same by its own per-CPU data, and need not wait.
    """
    need(features.reenq, REENQ)
    cpus = context.target.machine.spec.online_cpus
    scheduler = scheduler_of(dsq, cpus, 0)
    cpu = Cpu(guest, cpus - 1, scheduler)
    load = guest.work("sleep", TASKS, us=1000, cpu=0, policy=SCHED_EXT)
    lie_on_the_dsq(dsq, 0, TASKS)
    asked = asks_as_it_goes(cpu, scheduler, 0)
    before = scheduler.get("reenqueued")["reenqueued"]
    reenqueue_from(guest, scheduler, 0)
    wait_for_reenqueue(dsq, scheduler, 0, before=before)
    lie_on_the_dsq(dsq, 0, TASKS)
    cpu.online()
    reenqueue_from(guest, scheduler, cpu.number)
    wait_for_reenqueue(dsq, scheduler, cpu.number, before=TASKS)
    lie_on_the_dsq(dsq, 0, TASKS)
    reenqueued = scheduler.get("reenqueued")["reenqueued"]
    assert reenqueued <= TASKS * (asked + 1), f"{reenqueued} re-enqueues of {TASKS} tasks, asked {asked + 1} times"
    still_there(guest, scheduler)
    scheduler.set("closed_cpu", -1)
    wait_for_progress(context, load)
    load.kill()
    dsq.detach(scheduler)
