# SPDX-License-Identifier: GPL-2.0-only
"""CPUs go offline and come back under a scheduler that stays: tasks get away, and each DSQ has data for each CPU."""

from __future__ import annotations

import errno
import struct

import pytest

from harness.guest.guest import BpfObject, Guest, dsq_context
from harness.machine.deadline import Deadline
from harness.records import GuestError
from harness.suite.bench import Bench
from harness.suite.dsq import STATE, Dsqs
from harness.suite.features import need
from harness.suite.hotplug import Cpu
from harness.suite.load import every_worker_gets_on
from harness.suite.outcome import Disagreed

CPU = 1
TASKS = 3
ARRIVE_SECONDS = 10.0
TIMES = 2


def scheduler_of(dsq: Dsqs, cpus: int, closed: int) -> BpfObject:
    """One user DSQ a CPU, with that CPU's number as its id; from that of `closed` nothing is taken."""
    return dsq.attach("dsq_per_cpu", [(cpu, -1) for cpu in range(cpus)], nr_cpus=cpus, closed_cpu=closed)


def lie_on_the_dsq(dsq: Dsqs, cpu: int, tasks: int) -> None:
    """Waits until so many tasks lie on the DSQ of a CPU."""
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{tasks} tasks to lie on the DSQ of CPU {cpu}")
    while (there := dsq.api.run("nr_queued", dsq_context(cpu), record=False)[0]) != tasks:
        if deadline.expired:
            raise GuestError(f"{deadline}: {there} do")


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
    guest.agent.call("pin", cpu=last)
    (answer,) = scheduler.run("reenqueue", struct.pack("<Q", last))
    guest.agent.call("pin", cpu=-1)
    need(answer != -errno.EOPNOTSUPP, "scx_bpf_dsq_reenq()")
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{TASKS} tasks to be enqueued anew, asked by CPU {last}")
    while (anew := scheduler.get("anew")["anew"]) < TASKS:
        if deadline.expired:
            raise Disagreed(f"{deadline}: {anew} were", "scx_bpf_dsq_reenq")
    lie_on_the_dsq(dsq, last, TASKS)
    assert scheduler.get("anew")["anew"] == TASKS, "a task was enqueued anew more than once"
    still_there(guest, scheduler)
    scheduler.set("closed_cpu", -1)
    every_worker_gets_on(bench, load)
    load.kill()
    if not all_online:  # what the kernel allocated to bring it online must go again
        cpu.offline()
    dsq.detach(scheduler)
