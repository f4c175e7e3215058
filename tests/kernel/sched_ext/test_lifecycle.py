# SPDX-License-Identifier: GPL-2.0-only
"""The life of user DSQs, one operation at a time, every answer compared with the model."""

from __future__ import annotations

import random

import pytest

from harness.session.context import TestContext
from sched_ext.dsq import Dsqs
from sched_ext.model import ids

pytestmark = pytest.mark.sequential

U64_MAX = (1 << 64) - 1


def test_create_and_destroy(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    for dsq_id in (1, 2, 0x7FFF_FFFF, 1 << 32, (1 << 62) - 1, ids.LOCAL_ON_FLAG | 5, (1 << 63) - 1):
        dsq.create(dsq_id)
        dsq.nr_queued(dsq_id)
    dsq.check_live()
    dsq.destroy(1)
    dsq.nr_queued(1)
    dsq.create(1)
    dsq.check_live()
    dsq.check_objects()


def test_duplicate_is_refused(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    dsq.create(7)
    dsq.create(8)
    for _ in range(3):
        dsq.create(8)
    dsq.destroy(8)
    dsq.create(8)
    dsq.check_live()
    dsq.check_objects()


def test_builtin_ids_are_refused(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    for dsq_id in (ids.INVALID, ids.GLOBAL, ids.LOCAL, ids.BYPASS, ids.LOCAL_ON, ids.LOCAL_ON | 1, U64_MAX):
        dsq.create(dsq_id)
        dsq.destroy(dsq_id)
    for dsq_id in (ids.GLOBAL, ids.LOCAL, ids.LOCAL_ON, ids.LOCAL_ON | 1, ids.INVALID):
        dsq.nr_queued(dsq_id)
    dsq.check_live()


@pytest.mark.machines("default", "node2")
def test_nodes_are_checked(dsq: Dsqs, context: TestContext) -> None:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    nodes = context.target.machine.spec.nodes
    for number, node in enumerate((-1, 0, nodes - 1, nodes, nodes + 1, -2, -(1 << 31), (1 << 31) - 1)):
        dsq.create(100 + number, node)
    # The node is looked at before the id, and both before the memory.
    dsq.create(ids.GLOBAL, nodes)
    dsq.check_live()


def test_without_a_scheduler(dsq: Dsqs) -> None:
    dsq.create(1)
    dsq.create(ids.GLOBAL)
    dsq.create(1, 1 << 20)
    dsq.destroy(1)
    dsq.nr_queued(1)
    dsq.nr_queued(ids.LOCAL)


@pytest.mark.machines("default", "cpu1", "cpu8", "node2")
def test_scheduler_takes_its_dsqs_along(dsq: Dsqs) -> None:
    first = dsq.attach("dsq_many", [(i, -1) for i in range(20)], nr_dsqs=20)
    dsq.create(100)
    dsq.check_objects()
    dsq.detach(first)
    dsq.check_objects()
    dsq.create(100)
    dsq.nr_queued(100)
    dsq.destroy(5)
    dsq.attach("dsq_many", [(i, -1) for i in range(20)], nr_dsqs=20)
    dsq.nr_queued(100)
    dsq.create(100)
    dsq.check_live()
    dsq.check_objects()


def test_second_scheduler_is_refused(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(1, -1)], nr_dsqs=1, first_id=1)
    dsq.attach("dsq_many", [(2, -1)], nr_dsqs=1, first_id=2)
    dsq.nr_queued(1)
    dsq.nr_queued(2)
    dsq.check_live()
    dsq.check_objects()


@pytest.mark.parametrize(
    ("first_id", "node", "why"),
    [(ids.GLOBAL, -1, "a built-in id"), (5, 1 << 20, "a node that is not there")],
    ids=["builtin-id", "bad-node"],
)
def test_ops_init_that_fails(dsq: Dsqs, context: TestContext, first_id: int, node: int, why: str) -> None:
    """Attach succeeds, the scheduler then exits with the errno of ops.init in its exit info."""
    context.expect(r"ops\.init\(\) failed \(-22\)")
    scheduler = dsq.attach("dsq_many", [(first_id, node)], nr_dsqs=1, first_id=first_id, node=node)
    assert scheduler.get("created", "first_error") == {"created": 0, "first_error": -22}, why
    dsq.check_objects()
    dsq.detach(scheduler)
    dsq.check_objects()
    dsq.attach("dsq_many", [(5, -1)], nr_dsqs=1, first_id=5)


def test_random_lifecycle(dsq: Dsqs, context: TestContext) -> None:
    """A few hundred operations on few ids, so that they meet each other; the run's seed chooses them."""
    rng = random.Random(context.seed)
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    last_cpu = min(1, context.target.machine.spec.possible_cpus - 1)
    for _ in range(300):
        dsq_id = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, ids.GLOBAL, ids.LOCAL_ON | last_cpu))
        match rng.randrange(5):
            case 0 | 1:
                dsq.create(dsq_id, rng.choice((-1, -1, 0, 0, 999)))
            case 2 | 3 if dsq_id < ids.BUILTIN:
                dsq.destroy(dsq_id)
            case _:
                dsq.nr_queued(dsq_id)
    dsq.check_live()
    dsq.check_objects()
