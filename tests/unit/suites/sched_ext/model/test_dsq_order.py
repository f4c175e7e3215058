# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the replay of one DSQ: every sequence that the rules allow passes, and each rule that is broken is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sched_ext.model.ids import U64
from sched_ext.model.order import AT_HEAD, REENQUEUED, RESTORED, Event, Kind, Replay

PROGRAM = Path(__file__).resolve().parents[5] / "bpf_progs" / "sched_ext" / "dsq_held.bpf.c"


def inserted(pid: int, vtime: int = 0, flags: int = 0) -> Event:
    return Event(Kind.INSERTED, pid, vtime, flags)


def ran(pid: int) -> Event:
    return Event(Kind.RAN, pid)


MOVED = Event(Kind.MOVED)


def replayed(*events: Event, by_vtime: bool = False) -> tuple[Replay, list[str | None]]:
    replay = Replay(by_vtime)
    return replay, [replay.feed(event) for event in events]


def test_a_fifo_keeps_the_order_of_arrival() -> None:
    replay, problems = replayed(inserted(3), inserted(1), inserted(2), MOVED, ran(3))
    assert problems == [None] * 5
    assert replay.order() == [1, 2]


def test_the_head_of_a_fifo_can_be_asked_for() -> None:
    replay, _ = replayed(inserted(3), inserted(1, flags=AT_HEAD))
    assert replay.order() == [1, 3]


def test_virtual_time_orders_over_the_end_of_its_type() -> None:
    replay, _ = replayed(
        inserted(1, 5), inserted(2, U64), inserted(3, U64 - 5), inserted(4, 5), inserted(5, 0), by_vtime=True
    )
    assert replay.order() == [3, 2, 5, 1, 4], "equal ones in the order of arrival, 2^64 - 1 before 0"


@pytest.mark.parametrize(("by_vtime", "function"), [(False, "dispatch_enqueue"), (True, "scx_dsq_priq_less")])
def test_another_than_the_first_runs(by_vtime: bool, function: str) -> None:
    back = [inserted(1, 9, REENQUEUED), inserted(2, 3, REENQUEUED)]
    _, problems = replayed(inserted(1, 9), inserted(2, 3), *back, MOVED, ran(1 if by_vtime else 2), by_vtime=by_vtime)
    assert problems[:-1] == [None] * 5
    first = 2 if by_vtime else 1
    assert problems[-1] == (f"task {3 - first} ran, though task {first} was first (kernel/sched/ext/ext.c: {function})")


def test_a_task_runs_that_nobody_moved() -> None:
    _, problems = replayed(inserted(1), inserted(1, flags=REENQUEUED), ran(1))
    assert problems[-1] and "task 1 ran without having been moved" in problems[-1]


def test_a_task_that_joins_the_class_runs_on() -> None:
    """It is enqueued and taken off at once, for it has the CPU (set_next_task_scx())."""
    replay, problems = replayed(inserted(1), ran(1), inserted(1))
    assert problems == [None] * 3
    assert replay.order() == [1]


def test_a_moved_task_may_be_interrupted() -> None:
    _, problems = replayed(inserted(1), MOVED, ran(1), ran(1), inserted(1))
    assert problems == [None] * 5


def test_a_move_needs_a_task() -> None:
    _, problems = replayed(inserted(1), MOVED, MOVED)
    assert problems[:2] == [None, None]
    assert problems[2] and "off an empty DSQ" in problems[2]


def test_what_is_queued_is_enqueued_anew_only_if_the_kernel_says_so() -> None:
    replay, problems = replayed(inserted(1), inserted(2), inserted(1, flags=REENQUEUED), inserted(2))
    assert problems[:3] == [None] * 3
    assert replay.order() == [1, 2]
    assert problems[3] and "task 2 is enqueued while it is on the DSQ" in problems[3]


@pytest.mark.parametrize("by_vtime", [False, True])
def test_what_is_queued_gets_a_new_place_when_its_properties_change(by_vtime: bool) -> None:
    replay, problems = replayed(inserted(1, 1), inserted(2, 2), inserted(1, 3, RESTORED), by_vtime=by_vtime)
    assert problems == [None] * 3
    assert replay.order() == [2, 1]


@given(st.lists(st.integers(0, 5), max_size=40), st.booleans())
def test_whatever_order_a_right_kernel_has_is_accepted(turns: list[int], by_vtime: bool) -> None:
    """A kernel that does as the rules say, at random: nothing of it is a problem."""
    replay = Replay(by_vtime)
    away = {1, 2, 3, 4, 5, 6}
    for turn in turns:
        if turn and away:
            pid = sorted(away)[turn % len(away)]
            away.remove(pid)
            assert replay.feed(inserted(pid, pid * turn)) is None
        elif replay.order():
            first = replay.order()[0]
            assert replay.feed(MOVED) is None
            assert replay.feed(ran(first)) is None
            away.add(first)
    assert set(replay.order()) | away == {1, 2, 3, 4, 5, 6}


def test_the_program_has_the_same_numbers() -> None:
    source = PROGRAM.read_text()
    named = dict(re.findall(r"\b(INSERTED|MOVED|RAN|AT_HEAD|REENQUEUED|RESTORED) = (\d)", source))
    flags = {"AT_HEAD": str(AT_HEAD), "REENQUEUED": str(REENQUEUED), "RESTORED": str(RESTORED)}
    assert {kind.name: str(int(kind)) for kind in Kind} | flags == named
