# SPDX-License-Identifier: GPL-2.0-only
"""A suite of which one test leaks what only kmemleak sees, between operations that do not."""

from __future__ import annotations

from sched_ext.dsq import Dsqs

from harness.guest.guest import Guest
from harness.oracles.objects import LEAKS
from harness.oracles.registry import CANARY


def test_first(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    dsq.check_live()


def test_that_leaks(dsq: Dsqs, guest: Guest) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    for _ in range(LEAKS):
        guest.write(CANARY, "slab-lost")
    dsq.check_live()


def test_last(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(8, -1)], nr_dsqs=1, first_id=8)
    dsq.check_live()
