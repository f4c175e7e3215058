# SPDX-License-Identifier: GPL-2.0-only
"""Schedulers that really schedule through user DSQs, under load: every worker gets on, none is thrown out."""

from __future__ import annotations

import pytest

from harness.guest.guest import Guest, Workload
from harness.machine.deadline import Deadline
from harness.suite.bench import Bench
from harness.suite.dsq import STATE

TURNS = 5
"""Turns that each worker must do after all have started."""

PATIENCE_SECONDS = 10.0


def every_worker_gets_on(bench: Bench, *loads: Workload) -> None:
    """Waits until each worker of each load did TURNS more turns; fails naming the one that did not."""
    start = {load.name: load.progress() for load in loads}
    deadline = Deadline(PATIENCE_SECONDS * bench.ready.pristine.scale, f"every worker to do {TURNS} turns")
    while True:
        stuck = [
            f"{load.name}[{i}]"
            for load in loads
            for i, (now, then) in enumerate(zip(load.progress(), start[load.name], strict=True))
            if now < then + TURNS
        ]
        if not stuck:
            return
        assert not deadline.expired, f"{deadline}; not {', '.join(stuck)}"


def mixed_load(guest: Guest) -> tuple[Workload, ...]:
    return (
        guest.work("spin", 3),
        guest.work("sleep", 3, us=2000),
        guest.work("yield", 2),
        guest.work("fork", 1),
    )


@pytest.mark.parametrize("program", ["dsq_fifo", "dsq_vtime"])
def test_schedules_through_dsqs(guest: Guest, bench: Bench, program: str) -> None:
    scheduler = guest.load(program)
    scheduler.attach()
    loads = mixed_load(guest)
    every_worker_gets_on(bench, *loads)
    for load in loads:
        load.kill()
    seen = scheduler.get("dispatched", "exited", "exit_msg")
    assert seen["exited"] == 0, f"the kernel threw the scheduler out: {seen['exit_msg']}"
    assert guest.read(STATE).strip() == "enabled"
    assert seen["dispatched"] > 0, "no task ever came out of a user DSQ"
    scheduler.detach()
    guest.wait_for(STATE, "disabled")


def test_one_dsq_per_task(guest: Guest, bench: Bench) -> None:
    """init_task creates a DSQ and exit_task destroys it, while tasks come and go."""
    scheduler = guest.load("dsq_per_task")
    scheduler.attach()
    loads = (*mixed_load(guest), guest.work("fork", 2))
    every_worker_gets_on(bench, *loads)
    for load in loads:
        load.kill()
    seen = scheduler.get("created", "create_failed", "destroyed", "dispatched", "exited", "exit_msg")
    assert seen["exited"] == 0, f"the kernel threw the scheduler out: {seen['exit_msg']}"
    assert seen["create_failed"] == 0
    assert seen["created"] > seen["destroyed"] > 0
    assert seen["dispatched"] > 0
    scheduler.detach()
    seen = scheduler.get("created", "destroyed")
    assert seen["created"] == seen["destroyed"], "init_task and exit_task do not balance"
