# SPDX-License-Identifier: GPL-2.0-only
"""CPUs go offline and come back under a scheduler that stays: who lies on a DSQ of theirs gets away, and gets on."""

from __future__ import annotations

import pytest

from harness.guest.guest import Guest, dsq_context
from harness.machine.deadline import Deadline
from harness.records import GuestError
from harness.suite.bench import Bench
from harness.suite.dsq import STATE, Dsqs
from harness.suite.hotplug import Cpu
from harness.suite.load import every_worker_gets_on

CPU = 1
TASKS = 3
ARRIVE_SECONDS = 10.0
TIMES = 2


def lie_on_its_dsq(dsq: Dsqs, tasks: int) -> None:
    """Waits until so many tasks lie on the DSQ of the CPU."""
    deadline = Deadline(ARRIVE_SECONDS * dsq.scale, f"{tasks} tasks to lie on the DSQ of CPU {CPU}")
    while (there := dsq.api.run("nr_queued", dsq_context(CPU), record=False)[0]) != tasks:
        if deadline.expired:
            raise GuestError(f"{deadline}: {there} do")


def test_tasks_on_a_dsq_do_not_keep_their_cpu_from_going_offline(guest: Guest, bench: Bench, dsq: Dsqs) -> None:
    """Nobody but the kernel can move them: its scheduler takes nothing from the DSQ (rq_offline_scx())."""
    cpus = bench.ready.machine.spec.online_cpus
    if cpus <= CPU:
        pytest.skip("the machine has one CPU")
    scheduler = dsq.attach("dsq_per_cpu", [(cpu, -1) for cpu in range(cpus)], nr_cpus=cpus, closed_cpu=CPU)
    cpu = Cpu(guest, CPU, scheduler)
    for time in range(1, TIMES + 1):
        load = guest.work("spin", TASKS, cpu=CPU, ext=True)
        lie_on_its_dsq(dsq, TASKS)
        cpu.offline()
        every_worker_gets_on(bench, load)
        cpu.online()
        every_worker_gets_on(bench, load)
        load.kill()
        assert scheduler.get("offline", "online") == {"offline": time, "online": time}
    seen = scheduler.get("exited", "exit_msg")
    assert not seen["exited"], f"the kernel threw the scheduler out: {seen['exit_msg']}"
    assert guest.read(STATE).strip() == "enabled"
    dsq.detach(scheduler)
