# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what a wrong count of a local DSQ is shown as, and of when it is none."""

from __future__ import annotations

from sched_ext import local_dsqs
from sched_ext.rq_memory import LocalDsq

RIGHT = (LocalDsq(0, 0, 0), LocalDsq(1, 2, 2))
WRONG = (LocalDsq(0, 0, 0), LocalDsq(1, 3, 0))


def test_a_count_that_stays_wrong_is_told() -> None:
    (found,) = local_dsqs.findings(WRONG, WRONG)
    assert (
        found.title == "the local DSQ of CPU 1 counts 3 tasks and holds none (task_unlink_from_dsq, dispatch_enqueue)"
    )
    assert (found.function, found.count, found.counts) == ("task_unlink_from_dsq", 1, True)


def test_what_was_stopped_between_list_and_count_is_not() -> None:
    assert local_dsqs.findings(RIGHT, RIGHT) == []
    assert local_dsqs.findings(WRONG, RIGHT) == []
    assert local_dsqs.findings(RIGHT, WRONG) == []
    one = (LocalDsq(0, 0, 0), LocalDsq(1, 2, 1))
    assert local_dsqs.findings(WRONG, one) == []
    assert len(local_dsqs.findings(one, one)) == 1
    assert local_dsqs.findings(WRONG, (LocalDsq(0, 0, 0), LocalDsq(1, 3, None))) == []


def test_a_wrong_count_may_go_on_growing() -> None:
    (found,) = local_dsqs.findings(WRONG, (LocalDsq(0, 1, 0), LocalDsq(1, 9, 1)))
    assert "CPU 1 counts 9 tasks and holds 1" in found.title and found.count == 1
    (found,) = local_dsqs.findings(WRONG, (LocalDsq(0, 0, 0), LocalDsq(1, 0xFFFF_FFFF, 1)))
    assert found.count == 1, "it was decremented once too often"


def test_the_signature_does_not_tell_cpus_and_numbers() -> None:
    other = (LocalDsq(0, 1, 0), LocalDsq(1, 7, 2))
    (first,), (second,) = (local_dsqs.findings(one, one) for one in (WRONG, other))
    assert first.signature == second.signature
    assert second.count == 2 and len(second.log) == 2


def test_a_list_without_an_end() -> None:
    circle = (LocalDsq(0, 1, None),)
    (found,) = local_dsqs.findings(circle, circle)
    assert "counts 1 task and has a list without an end" in found.title


def test_runqueues_that_could_not_be_read_are_no_evidence() -> None:
    assert local_dsqs.watched(RIGHT, 2).watched
    seen = local_dsqs.watched(RIGHT, 4)
    assert not seen.watched and "2 of 4" in seen.why
