# SPDX-License-Identifier: GPL-2.0-only
"""Many DSQs: created by ops.init and one by one, all there, and all gone with their scheduler."""

from __future__ import annotations

import pytest

from sched_ext.dsq import Dsqs


@pytest.mark.sequential
@pytest.mark.parametrize("count", [1, 1000, 10_000])
def test_ops_init_creates_many(dsq: Dsqs, count: int) -> None:
    create_and_free(dsq, count)


@pytest.mark.full
@pytest.mark.sequential
@pytest.mark.machines("default", "cpu64")
def test_ops_init_creates_a_hundred_thousand(dsq: Dsqs) -> None:
    """Each with percpu data for every possible CPU."""
    create_and_free(dsq, 100_000)


def create_and_free(dsq: Dsqs, count: int) -> None:
    """`count` DSQs made by ops.init, counted, and taken along by their scheduler."""
    scheduler = dsq.attach("dsq_many", [(i, -1) for i in range(count)], nr_dsqs=count)
    assert scheduler.get("created")["created"] == count
    dsq.check_live()
    dsq.check_objects()
    dsq.detach(scheduler)
    dsq.check_live()
    dsq.check_objects()


@pytest.mark.sequential
def test_create_many_one_by_one(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    dsq.create_range(1, 5000)
    dsq.check_live()
    dsq.create_range(2500, 100)
    dsq.destroy_range(1, 4000)
    dsq.check_live()
    dsq.create_range(1, 1000)
    dsq.check_live()
    dsq.check_objects()


def test_reload_many_times(dsq: Dsqs) -> None:
    for _ in range(5):
        dsq.detach(dsq.attach("dsq_many", [(i, -1) for i in range(200)], nr_dsqs=200))
