# SPDX-License-Identifier: GPL-2.0-only
"""What lies on a DSQ lies there in the right order, is counted, leaves in that order, and can be asked for again."""

from __future__ import annotations

import random

import pytest

from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import Dsqs, dsq_context
from sched_ext.model.ids import U64
from sched_ext.order import DSQ, HeldTasks

TASKS = 6
TURNS = 4

NEAR_ITS_END = U64 - 500
"""Virtual times wrap: they are drawn from both sides of the end of their type."""


def vtimes(seed: int) -> list[int]:
    """Virtual times for one arrival after the other, some of them equal."""
    draw = random.Random(seed)
    return [(NEAR_ITS_END + draw.randrange(1000)) & U64 for _ in range(50)] * 2


@pytest.fixture(params=["fifo", "vtime"])
def held(request: pytest.FixtureRequest, context: TestContext, dsq: Dsqs) -> HeldTasks:
    """Tasks on a FIFO, and on a DSQ ordered by virtual time."""
    return HeldTasks(context, dsq, vtimes(context.seed) if request.param == "vtime" else ())


def test_tasks_leave_in_order(held: HeldTasks) -> None:
    """One after the other, then all at once; each comes back to where its turn is."""
    held.arrive(TASKS)
    for _ in range(TURNS):
        held.release(1)
    held.release(TASKS)
    held.arrive(2)
    held.release(2)
    held.dismiss()


def test_tasks_are_enqueued_anew(held: HeldTasks) -> None:
    """scx_bpf_dsq_reenq(): every task is taken off the DSQ and asked where it belongs, by the DSQ's per-CPU data."""
    held.arrive(TASKS)
    need(held.reenqueue(), "scx_bpf_dsq_reenq()")
    held.release(2)
    held.reenqueue()
    held.release(TASKS)
    held.dismiss()


@pytest.mark.solo
def test_tasks_change_their_cgroup(held: HeldTasks) -> None:
    """While they lie on the DSQ: each is taken off, and gets a new place as one that arrives."""
    held.arrive(TASKS)
    for tasks in (1, 3, TASKS):
        held.regroup(tasks)
    held.release(2)
    held.regroup(2)
    held.release(TASKS)
    held.dismiss()


@pytest.mark.solo
def test_what_is_in_use_is_not_destroyed(held: HeldTasks, dsq: Dsqs, context: TestContext) -> None:
    """The kernel ejects the scheduler; its tasks go on without it.

    A leak batch does not wait for the tasks: it would destroy a DSQ that is not in use yet.
    """
    context.expect(r"attempting to destroy in-use dsq")
    held.arrive(TASKS)
    dsq.api.run("destroy", dsq_context(DSQ))
    held.ejected("attempting to destroy in-use dsq")


def test_the_two_orders_do_not_mix(held: HeldTasks, context: TestContext) -> None:
    """A task that is queued by virtual time on a FIFO, or the other way round, ends the scheduler."""
    context.expect(r"already had (?:FIFO|PRIQ)-enqueued tasks")
    held.arrive(TASKS)
    held.ejected(f"already had {held.intrude()}-enqueued tasks")
