# SPDX-License-Identifier: GPL-2.0-only
"""BPF schedulers of the user's (--bpf): tasks of every kind make progress under it, it stays, and it leaves nothing behind.

What is looked for at the end of every test, splats, percpu objects and leaks, is looked for here too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.core.plan import Scheduler
from harness.guest.guest import Guest, Workload
from harness.session.context import TestContext
from harness.session.load import wait_for_progress
from sched_ext.dsq import SCHED_EXT, STATE, dsq_context
from sched_ext.model.state import Features

WATCHDOG_SECONDS = 45
"""After so long the kernel has ended a scheduler that let a task wait: SCX_WATCHDOG_MAX_TIMEOUT of kernel/sched/ext is
30 s, and it looks every half of that."""

PATIENCE_SECONDS = WATCHDOG_SECONDS + 15
TURNS = 100


@pytest.fixture
def patient(guest: Guest) -> Iterator[Guest]:
    """A guest whose agent may be kept from running by the scheduler until the watchdog acts."""
    guest.agent.patience = PATIENCE_SECONDS
    yield guest


def still_there(guest: Guest, name: str) -> None:
    """Fail with the kernel's message if the scheduler has exited."""
    if guest.read(STATE).strip() == "enabled":
        return
    guest.wait_for(STATE, "disabled")
    guest.log()
    said = [text.partition(";")[2].strip() for text in guest.agent.kmsg if ";sched_ext: " in text]
    ended = [line.removeprefix("sched_ext: ") for line in said if " enabled" not in line]
    assert not ended, f"{name} was ejected: {': '.join(ended)}"
    raise AssertionError(f"{name} is not enabled, and the kernel does not say why")


def tasks(guest: Guest, cpus: int) -> tuple[Workload, ...]:
    """CPU-bound, sleeping, yielding and forking tasks, and one that may run on the last CPU alone."""
    return (
        guest.work("spin", 2 * cpus, policy=SCHED_EXT),
        guest.work("sleep", 3, us=2000, policy=SCHED_EXT),
        guest.work("yield", 2, policy=SCHED_EXT),
        guest.work("fork", 2, policy=SCHED_EXT),
        guest.work("spin", cpu=cpus - 1, policy=SCHED_EXT),
    )


def no_dsq_left(guest: Guest, features: Features) -> None:
    """Fail for DSQs in the table that all schedulers share; elsewhere they are freed with their scheduler's table."""
    if features.global_hash:
        api = guest.load("dsq_api")
        assert api.run("live", dsq_context(0), record=False)[0] == 0, "the DSQ table cannot be walked"
        left = api.get("live_count")["live_count"]
        assert left == 0, f"{left} DSQs are left in the table"


def test_schedules(patient: Guest, context: TestContext, user_scheduler: Scheduler, features: Features) -> None:
    guest, name = patient, user_scheduler.name
    scheduler = guest.load_user(user_scheduler)
    scheduler.attach(user_scheduler.ops)
    still_there(guest, name)
    loads = tasks(guest, context.target.machine.spec.online_cpus)
    try:
        wait_for_progress(context, *loads, turns=TURNS, seconds=PATIENCE_SECONDS)
    finally:
        still_there(guest, name)  # of the two, what the kernel said tells more
    for load in loads:
        load.kill()
    still_there(guest, name)
    scheduler.detach()
    guest.wait_for(STATE, "disabled")
    no_dsq_left(guest, features)


def test_comes_and_goes(patient: Guest, user_scheduler: Scheduler, features: Features) -> None:
    """Attached and detached again and again, with tasks that run meanwhile."""
    guest = patient
    scheduler = guest.load_user(user_scheduler)
    loads = (guest.work("spin", 2), guest.work("fork", 1))
    for _ in range(3):
        scheduler.attach(user_scheduler.ops)
        still_there(guest, user_scheduler.name)
        scheduler.detach(user_scheduler.ops)
        guest.wait_for(STATE, "disabled")
    for load in loads:
        load.kill()
    no_dsq_left(guest, features)
