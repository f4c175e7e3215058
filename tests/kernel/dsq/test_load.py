# SPDX-License-Identifier: GPL-2.0-only
"""Schedulers that really schedule through user DSQs, under load: every worker gets on, none is thrown out."""

from __future__ import annotations

import pytest

from harness.guest.guest import Guest
from harness.suite.bench import Bench
from harness.suite.dsq import STATE
from harness.suite.load import every_worker_gets_on, mixed


@pytest.mark.parametrize("program", ["dsq_fifo", "dsq_vtime"])
def test_schedules_through_dsqs(guest: Guest, bench: Bench, program: str) -> None:
    scheduler = guest.load(program)
    scheduler.attach()
    loads = mixed(guest)
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
    loads = (*mixed(guest), guest.work("fork", 2))
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
