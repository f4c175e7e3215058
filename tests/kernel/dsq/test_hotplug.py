# SPDX-License-Identifier: GPL-2.0-only
"""CPUs go offline and come back under a scheduler that stays: tasks get away, and each DSQ has data for each CPU.

A reenqueue that a CPU asks for in its last ops.dispatch waits on that CPU's list: queue_balance_callback() queues nothing
once balance_push is active (sched_cpu_deactivate(), kernel/sched/core.c).
"""

from __future__ import annotations

import errno
import struct

import pytest

from harness.errors import GuestError
from harness.guest.guest import BpfObject, Guest, dsq_context
from harness.machine.deadline import Deadline
from harness.model.state import Features
from harness.suite.bench import Bench
from harness.suite.dsq import STATE, Dsqs
from harness.suite.features import need
from harness.suite.hotplug import Cpu
from harness.suite.load import every_worker_gets_on
from harness.suite.outcome import Disagreed, Inconclusive
from harness.suite.poison import PercpuPoison

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
    """Waits until so many tasks lie on the DSQ of a CPU."""
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{tasks} tasks to lie on the DSQ of CPU {cpu}")
    while (there := dsq.api.run("nr_queued", dsq_context(cpu), record=False)[0]) != tasks:
        if deadline.expired:
            raise GuestError(f"{deadline}: {there} do")


def enqueued_anew(dsq: Dsqs, scheduler: BpfObject, asked_by: int, *, before: int = 0) -> None:
    """Waits until the tasks were enqueued anew, who had been so often `before` in all."""
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{TASKS} tasks to be enqueued anew, asked by CPU {asked_by}")
    while (anew := scheduler.get("anew")["anew"] - before) < TASKS:
        if deadline.expired:
            scheduler.set("closed_cpu", -1)  # or their stall would be told of as well
            raise Disagreed(f"{deadline}: {anew} were", "scx_bpf_dsq_reenq")


def reenqueue_from(guest: Guest, scheduler: BpfObject, cpu: int) -> None:
    """A CPU asks for a reenqueue of its own DSQ; what waits there is done with it (process_deferred_reenq_users())."""
    with guest.pinned(cpu):
        scheduler.run("reenqueue", struct.pack("<Q", cpu))


def asks_as_it_goes(cpu: Cpu, scheduler: BpfObject, dsq_id: int) -> int:
    """A CPU goes offline and leaves a reenqueue of a DSQ on its list; how often it has asked for it.

    It goes again where it did not come to ops.dispatch on its way: nearly always the wait there leaves it idle.
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
    """The kernel may not have thrown the scheduler out."""
    seen = scheduler.get("exited", "exit_msg")
    assert not seen["exited"], f"the kernel threw the scheduler out: {seen['exit_msg']}"
    assert guest.read(STATE).strip() == "enabled"


def test_tasks_on_a_dsq_do_not_keep_their_cpu_from_going_offline(guest: Guest, bench: Bench, dsq: Dsqs) -> None:
    """Nobody but the kernel can move them: its scheduler takes nothing from the DSQ (rq_offline_scx())."""
    scheduler = scheduler_of(dsq, bench.ready.machine.spec.online_cpus, CPU)
    cpu = Cpu(guest, CPU, scheduler)
    for time in range(1, TIMES + 1):
        load = guest.work("spin", TASKS, cpu=CPU, ext=True)
        lie_on_the_dsq(dsq, CPU, TASKS)
        cpu.offline()
        every_worker_gets_on(bench, load)
        cpu.online()
        every_worker_gets_on(bench, load)
        load.kill()
        assert scheduler.get("offline", "online") == {"offline": time, "online": time}
    still_there(guest, scheduler)
    dsq.detach(scheduler)


@pytest.mark.machines("default", "node2")
def test_a_dsq_has_data_for_a_cpu_that_was_offline_when_it_was_made(guest: Guest, bench: Bench, dsq: Dsqs) -> None:
    """The last possible CPU comes online under the scheduler, and asks by its own data for tasks to be enqueued anew.

    init_dsq() makes data for each possible CPU, not for those that are online (kernel/sched/ext/ext.c).
    """
    spec = bench.ready.machine.spec
    last = spec.possible_cpus - 1
    idle = guest.load("dsq_per_cpu")  # only for who takes the CPU offline
    cpu = Cpu(guest, last, idle)
    all_online = spec.online_cpus == spec.possible_cpus
    if all_online:
        cpu.offline()
    scheduler = scheduler_of(dsq, spec.possible_cpus, last)
    cpu.online()
    load = guest.work("sleep", TASKS, us=1000, cpu=last, ext=True)
    lie_on_the_dsq(dsq, last, TASKS)
    with guest.pinned(last):
        (answer,) = scheduler.run("reenqueue", struct.pack("<Q", last))
    need(answer != -errno.EOPNOTSUPP, REENQ)
    enqueued_anew(dsq, scheduler, last)
    lie_on_the_dsq(dsq, last, TASKS)
    assert scheduler.get("anew")["anew"] == TASKS, "a task was enqueued anew more than once"
    still_there(guest, scheduler)
    scheduler.set("closed_cpu", -1)
    every_worker_gets_on(bench, load)
    load.kill()
    if not all_online:  # what the kernel allocated to bring it online must go again
        cpu.offline()
    dsq.detach(scheduler)


@pytest.mark.solo
@pytest.mark.machines("default", "cpu8")
def test_a_dsq_is_destroyed_while_its_reenqueue_waits_on_a_cpu_that_is_offline(
    guest: Guest, bench: Bench, dsq: Dsqs, features: Features, percpu_poison: PercpuPoison
) -> None:
    """The reenqueue may not outlive the DSQ (free_dsq_irq_workfn()), nor be done when the CPU is back."""
    need(features.percpu_data, "percpu data in its DSQs")
    need(features.reenq, REENQ)
    cpus = bench.ready.machine.spec.online_cpus
    with percpu_poison.armed(dsq):
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
    guest: Guest, bench: Bench, dsq: Dsqs, features: Features
) -> None:
    """At the latest with the next that the CPU asks for; the tasks lie on the DSQ of another CPU, which stays.

    Meanwhile that one can ask for the same by its own per-CPU data, and need not wait.
    """
    need(features.reenq, REENQ)
    cpus = bench.ready.machine.spec.online_cpus
    scheduler = scheduler_of(dsq, cpus, 0)
    cpu = Cpu(guest, cpus - 1, scheduler)
    load = guest.work("sleep", TASKS, us=1000, cpu=0, ext=True)
    lie_on_the_dsq(dsq, 0, TASKS)
    asked = asks_as_it_goes(cpu, scheduler, 0)
    before = scheduler.get("anew")["anew"]
    reenqueue_from(guest, scheduler, 0)
    enqueued_anew(dsq, scheduler, 0, before=before)
    lie_on_the_dsq(dsq, 0, TASKS)
    cpu.online()
    reenqueue_from(guest, scheduler, cpu.number)
    enqueued_anew(dsq, scheduler, cpu.number, before=TASKS)
    lie_on_the_dsq(dsq, 0, TASKS)
    anew = scheduler.get("anew")["anew"]
    assert anew <= TASKS * (asked + 1), f"{TASKS} tasks were enqueued anew {anew} times, asked {asked + 1} times"
    still_there(guest, scheduler)
    scheduler.set("closed_cpu", -1)
    every_worker_gets_on(bench, load)
    load.kill()
    dsq.detach(scheduler)
