# SPDX-License-Identifier: GPL-2.0-only
"""Tasks under a scheduler: workloads of every kind, and the wait until each task has made progress."""

from __future__ import annotations

from harness.guest.guest import Guest, Workload
from harness.machine.deadline import Deadline
from harness.session.context import TestContext

TURNS = 5
"""Turns that each task must do after all have started."""

PATIENCE_SECONDS = 10.0


def mixed(guest: Guest) -> tuple[Workload, ...]:
    """Start tasks that use up their slice, that sleep, that yield and that fork."""
    return (guest.work("spin", 3), guest.work("sleep", 3, us=2000), guest.work("yield", 2), guest.work("fork", 1))


def whereabouts(guest: Guest, pid: int) -> str:
    """A task's state from /proc (fs/proc/array.c, do_task_stat()): state, wait channel, CPU, ticks it ran."""
    stat = guest.agent.call("read", check=False, record=False, path=f"/proc/{pid}/stat")
    if not stat["ok"]:
        return f"task {pid} is gone"
    state, *fields = stat["data"].rpartition(")")[2].split()
    cpu, ran = fields[35], int(fields[10]) + int(fields[11])
    waits = guest.agent.call("read", check=False, record=False, path=f"/proc/{pid}/wchan")
    where = waits["data"].strip("0\n") if waits["ok"] else ""
    return f"task {pid} is {state}{f' in {where}' if where else ''}, on CPU {cpu}, ran {ran} ticks"


def wait_for_progress(
    context: TestContext, *loads: Workload, turns: int = TURNS, seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until each task of each load did `turns` more turns; fails naming the ones that did not in time.

    `seconds` are nominal.
    """
    start = {load.name: load.progress() for load in loads}
    deadline = Deadline(seconds * context.target.pristine.scale, f"every worker to do {turns} turns")
    while True:
        stuck = [
            f"{load.name}[{i}]"
            for load in loads
            for i, (now, then) in enumerate(zip(load.progress(), start[load.name], strict=True))
            if now < then + turns
        ]
        if not stuck:
            return
        if deadline.expired:
            raise AssertionError(f"{deadline}; not {', '.join(stuck)}")
