# SPDX-License-Identifier: GPL-2.0-only
"""Schedulers that really schedule through user DSQs, under load: every task makes progress, none is ejected."""

from __future__ import annotations

import pytest

from harness.guest.agent import AgentError
from harness.guest.guest import BpfObject, Guest
from harness.session.context import TestContext
from harness.session.load import mixed, wait_for_progress
from harness.suite.needs import need
from sched_ext.dsq import STATE
from sched_ext.features import NO_PRIVATE_STACK


def loaded(guest: Guest, program: str) -> BpfObject:
    """A scheduler with an ops.dispatch; the test is skipped where this kernel can load none (riscv64, 7.2)."""
    try:
        return guest.load(program)
    except AgentError as error:
        need(NO_PRIVATE_STACK not in str(error), "private stack in its BPF JIT, which ops.dispatch needs")
        raise


@pytest.mark.parametrize("program", ["dsq_fifo", "dsq_vtime"])
def test_schedules_through_dsqs(guest: Guest, context: TestContext, program: str) -> None:
    scheduler = loaded(guest, program)
    scheduler.attach()
    loads = mixed(guest)
    wait_for_progress(context, *loads)
    for load in loads:
        load.kill()
    seen = scheduler.get("dispatched", "exited", "exit_msg")
    assert seen["exited"] == 0, f"the kernel ejected the scheduler: {seen['exit_msg']}"
    assert guest.read(STATE).strip() == "enabled"
    assert seen["dispatched"] > 0, "no task ever came out of a user DSQ"
    scheduler.detach()
    guest.wait_for(STATE, "disabled")


@pytest.mark.solo
@pytest.mark.parametrize("program", ["dsq_fifo", "dsq_vtime", "dsq_per_cgroup"])
def test_cgroups_come_and_go(guest: Guest, context: TestContext, program: str) -> None:
    """Tasks make cgroups, move there and back, and remove them, while others run."""
    scheduler = loaded(guest, program)
    scheduler.attach()
    loads = (*mixed(guest), guest.work("cgroup", 2))
    wait_for_progress(context, *loads, turns=1)  # each waits for several grace periods
    for load in loads:
        load.kill()
    seen = scheduler.get("exited", "exit_msg")
    assert seen["exited"] == 0, f"the kernel ejected the scheduler: {seen['exit_msg']}"
    scheduler.detach()
    guest.wait_for(STATE, "disabled")
    if program == "dsq_per_cgroup":
        seen = scheduler.get("created", "create_failed", "destroyed")
        assert seen["created"] == seen["destroyed"] >= 2, "ops.cgroup_init and ops.cgroup_exit do not balance"
        assert seen["create_failed"] == 0


def test_one_dsq_per_task(guest: Guest, context: TestContext) -> None:
    """init_task creates a DSQ and exit_task destroys it, while tasks come and go."""
    scheduler = loaded(guest, "dsq_per_task")
    scheduler.attach()
    loads = (*mixed(guest), guest.work("fork", 2))
    wait_for_progress(context, *loads)
    for load in loads:
        load.kill()
    seen = scheduler.get("created", "create_failed", "destroyed", "dispatched", "exited", "exit_msg")
    assert seen["exited"] == 0, f"the kernel ejected the scheduler: {seen['exit_msg']}"
    assert seen["create_failed"] == 0
    assert seen["created"] > seen["destroyed"] > 0
    assert seen["dispatched"] > 0
    scheduler.detach()
    seen = scheduler.get("created", "destroyed")
    assert seen["created"] == seen["destroyed"], "init_task and exit_task do not balance"
