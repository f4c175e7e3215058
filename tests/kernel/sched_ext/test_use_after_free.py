# SPDX-License-Identifier: GPL-2.0-only
"""Percpu data of DSQs is not used after it was freed, and nothing of a DSQ is freed while a reader may still use it."""

from __future__ import annotations

import pytest

from harness.guest.guest import Guest
from harness.session.context import TestContext
from harness.session.load import mixed, wait_for_progress
from harness.session.poison import PercpuPoison
from harness.suite.needs import need
from sched_ext.dsq import STATE, Dsqs
from sched_ext.model.state import Features
from sched_ext.reader import HeldReader

ROUNDS = 3
MANY = 500


@pytest.fixture(autouse=True)
def _has_percpu_data(features: Features) -> None:
    need(features.percpu_data, "percpu data in its DSQs")


def test_create_and_destroy_many(dsq: Dsqs, percpu_poison: PercpuPoison) -> None:
    """Ids are used again and again, so that stale pointers would meet what was freed."""
    with percpu_poison.armed(dsq.callers):
        dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
        for _ in range(ROUNDS):
            dsq.create_range(1, MANY)
            dsq.destroy_range(1, MANY)
        seen = percpu_poison.look()
        assert seen.gone >= ROUNDS * MANY, f"{ROUNDS * MANY} DSQs were destroyed: {seen}"


def test_duplicates(dsq: Dsqs, percpu_poison: PercpuPoison) -> None:
    """What is refused is freed at once, and by another way."""
    with percpu_poison.armed(dsq.callers):
        dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
        for _ in range(10):
            dsq.create(0)
        assert percpu_poison.look().gone >= 10


def test_schedulers_come_and_go(dsq: Dsqs, context: TestContext, percpu_poison: PercpuPoison) -> None:
    """Global and bypass DSQs are freed with their scheduler, and user DSQs by the walk over its table."""
    with percpu_poison.armed(dsq.callers):
        for _ in range(ROUNDS):
            dsq.detach(dsq.attach("dsq_many", [(i, -1) for i in range(100)], nr_dsqs=100))
        others = context.target.machine.spec.nodes + context.target.machine.spec.possible_cpus
        seen = percpu_poison.look()
        assert seen.gone >= ROUNDS * (100 + others), f"every DSQ was to be freed: {seen}"


def test_destroyed_under_load(dsq: Dsqs, guest: Guest, context: TestContext, percpu_poison: PercpuPoison) -> None:
    """A DSQ for each task, destroyed when it ends, while others are being scheduled through theirs."""
    with percpu_poison.armed(dsq.callers):
        scheduler = dsq.load("dsq_per_task")
        scheduler.attach()
        loads = (*mixed(guest), guest.work("fork", 2))
        wait_for_progress(context, *loads)
        for load in loads:
            load.kill()
        ended = scheduler.get("exited", "exit_msg")
        assert ended["exited"] == 0, f"the kernel ejected the scheduler: {ended['exit_msg']}"
        scheduler.detach()
        guest.wait_for(STATE, "disabled")
        seen, made = percpu_poison.look(), scheduler.get("created", "destroyed")
        assert seen.gone >= made["destroyed"] > 0, f"{made['destroyed']} DSQs were destroyed: {seen}"


@pytest.mark.solo
def test_destroyed_under_a_reader(dsq: Dsqs, context: TestContext, held_reader: HeldReader) -> None:
    """A reader inside its RCU section keeps the DSQ and its percpu data alive; when it has left both are freed."""
    if context.target.machine.spec.online_cpus < 2:
        pytest.skip("this machine has one CPU: no task could destroy a DSQ while the reader is held")
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    dsq.create(7)
    with held_reader.holding(7):
        dsq.destroy(7)
    dsq.nr_queued(7)
    dsq.check_live()
