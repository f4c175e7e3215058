# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the search for a legal order: by hand, against all permutations, and against kernels that do wrong."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_ext.model.ids import U64
from sched_ext.model.linear import First, Illegal, Insert, Leave, Op, Stay, Take, Undecided, check
from sched_ext.model.queue import Queue

CPUS = frozenset({0, 1})


def stay(task: int, vtime: int | None = None, *, head: bool = False, rq: int = 0, cpus: frozenset[int] = CPUS) -> Stay:
    return Stay(task, rq, cpus, True, vtime, head)


A, B, C = stay(1), stay(2), stay(3)


def test_a_fifo_is_left_in_the_order_of_arrival() -> None:
    arrivals = [Insert(1, 2, A), Insert(3, 4, B)]
    assert check([*arrivals, Take(5, 6, 0, A), Take(7, 8, 1, B), Take(9, 10, 0, None)]) is None
    wrong = Take(5, 6, 0, B)
    assert check([*arrivals, wrong]) == Illegal(wrong, (A, B))


def test_what_overlaps_may_have_any_order() -> None:
    arrivals = [Insert(1, 4, A), Insert(2, 3, B)]
    for first, second in ((A, B), (B, A)):
        assert check([*arrivals, Take(5, 6, 0, first), Take(7, 8, 0, second)]) is None


def test_two_cpus_see_one_order() -> None:
    """Each of them alone could be explained, both together not."""
    arrivals = [Insert(1, 4, A), Insert(2, 3, B), Insert(5, 6, C)]
    assert check([*arrivals, First(7, 8, frozenset({A})), Take(9, 10, 1, A)]) is None
    assert isinstance(check([*arrivals, First(7, 8, frozenset({A})), Take(9, 10, 1, B)]), Illegal)


def test_the_head_of_a_fifo_can_be_asked_for() -> None:
    head = stay(9, head=True)
    assert check([Insert(1, 2, A), Insert(3, 4, head), Take(5, 6, 0, head)]) is None
    assert isinstance(check([Insert(1, 2, A), Insert(3, 4, head), Take(5, 6, 0, A)]), Illegal)


def test_virtual_time_orders_over_the_end_of_its_type() -> None:
    """Equal ones keep the order of their insertion, 2^64 - 1 is before 0."""
    old, end, new, same = stay(1, U64 - 5), stay(2, U64), stay(3, 0), stay(4, U64)
    arrivals = [Insert(i, i + 0.5, one) for i, one in enumerate((new, end, old, same))]
    assert check([*arrivals, *(Take(10 + i, 10.5 + i, 0, one) for i, one in enumerate((old, end, same, new)))]) is None
    assert isinstance(check([*arrivals, Take(10, 11, 0, old), Take(12, 13, 0, same)]), Illegal)
    assert isinstance(check([*arrivals, Take(10, 11, 0, new)]), Illegal)


def test_a_cpu_passes_over_those_that_may_not_run_there() -> None:
    pinned = stay(1, rq=0, cpus=frozenset({0}))
    arrivals = [Insert(1, 2, pinned), Insert(3, 4, B)]
    assert check([*arrivals, Take(5, 6, 1, B), Take(7, 8, 1, None), Take(9, 10, 0, pinned)]) is None
    assert isinstance(check([*arrivals, Take(5, 6, 0, B)]), Illegal)
    assert isinstance(check([*arrivals, Take(5, 6, 1, pinned)]), Illegal)
    assert isinstance(check([*arrivals, Take(5, 6, 1, None)]), Illegal)


def test_one_that_may_be_refused_may_be_passed_over_and_may_be_taken() -> None:
    either = Stay(1, 0, CPUS, sure=False)
    arrivals = [Insert(1, 2, either), Insert(3, 4, B)]
    assert check([*arrivals, Take(5, 6, 1, B)]) is None
    assert check([*arrivals, Take(5, 6, 1, either)]) is None
    assert isinstance(check([*arrivals, Take(5, 6, 0, B)]), Illegal), "its own CPU takes it"


def test_a_cpu_that_goes_offline_takes_its_own_only_or_others() -> None:
    assert check([Insert(1, 2, A), Take(3, 4, 1, None, remote=False)]) is None
    assert check([Insert(1, 2, A), Take(3, 4, 1, A, remote=False)]) is None
    assert isinstance(check([Insert(1, 2, A), Take(3, 4, 0, None, remote=False)]), Illegal)


def test_nobody_is_found_only_where_there_was_a_moment_without() -> None:
    assert isinstance(check([Insert(1, 2, A), Take(3, 4, 0, None)]), Illegal)
    assert check([Insert(1, 4, A), Take(2, 3, 0, None)]) is None
    assert check([Insert(1, 2, A), Take(3, 6, 0, None), Take(4, 5, 1, A)]) is None


def test_a_task_that_leaves_early_was_the_first() -> None:
    """Somebody took it off and gave it up; who was behind is then taken before it is seen to leave."""
    ops: list[Op] = [Insert(1, 2, A), Insert(3, 4, B), Take(5, 6, 1, B), Leave(4.5, 9, A, 8, frozenset({0}))]
    assert check(ops) is None
    assert isinstance(check([*ops[:3], Leave(8, 9, A, 8)]), Illegal)
    behind: list[Op] = [Insert(1, 2, A), Insert(3, 4, B), First(5, 6, frozenset()), Leave(4.5, 9, B, 8, frozenset({0}))]
    assert isinstance(check(behind), Illegal), "B was not the first, nor is the DSQ empty"


def test_a_walk_passes_over_those_that_came_later() -> None:
    late = stay(9, head=True)
    arrivals = [Insert(1, 2, A), Insert(4, 5, late)]
    assert check([*arrivals, First(6, 7, frozenset({A}), frozenset({late}))]) is None
    assert isinstance(check([*arrivals, First(6, 7, frozenset({A}))]), Illegal)


def test_an_operation_without_an_end_may_have_happened() -> None:
    assert check([Insert(1, math.inf, A), Take(2, 3, 0, None)]) is None
    assert check([Insert(1, math.inf, A), Take(2, 3, 0, A)]) is None
    assert isinstance(check([Insert(1, math.inf, A), Take(2, 3, 0, A), Take(4, 5, 0, A)]), Illegal)


def test_what_branches_too_much_is_not_decided() -> None:
    ops: list[Op] = [Insert(i, 100 + i, stay(i)) for i in range(1, 9)]
    assert isinstance(check(ops, most=1000), Undecided)


# --- against all permutations -----------------------------------------------------------


def by_hand(op: Op, queue: Queue, stays: Sequence[Stay], latest: float) -> bool:
    """Does the operation on another model of a DSQ; False where that is not what it says."""
    lying = [next(one for one in stays if one.task == task) for task, _ in queue.tasks]
    if isinstance(op, Insert):
        queue.insert(op.stay.task, op.stay.vtime, head=op.stay.head)
        return True
    if isinstance(op, Take):
        eligible = [one for one in lying if op.cpu in one.cpus or op.cpu == one.rq]
        found = eligible[0] if eligible else None
        return found is op.stay and (found is None or queue.remove(found.task))
    if isinstance(op, First):
        return (lying[0] in op.stays) if lying else not op.stays
    assert isinstance(op, Leave)
    if latest < op.sure:
        firsts = [next((one for one in lying if cpu in one.cpus or cpu == one.rq), None) for cpu in op.thieves]
        if op.stay not in firsts:
            return False
    return queue.remove(op.stay.task)


def legal(ops: Sequence[Op], stays: Sequence[Stay]) -> bool:
    """Whether any permutation of the operations is legal."""
    for order in itertools.permutations(ops):
        earliest, queue = 0.0, Queue()
        for number, op in enumerate(order):
            earliest = max(earliest, op.begin)
            latest = min(later.end for later in order[number:])
            if earliest > latest or not by_hand(op, queue, stays, latest):
                break
        else:
            return True
    return False


@st.composite
def operations(draw: st.DrawFn) -> tuple[list[Op], list[Stay]]:
    """Up to three tasks that come, and up to three things that are seen of them, at any moments."""
    by_vtime = draw(st.booleans())
    some = st.sampled_from([CPUS, frozenset({0}), frozenset({1})])
    stays = [
        stay(
            task,
            draw(st.sampled_from([U64, 0, 1])) if by_vtime else None,
            head=draw(st.booleans()),
            rq=draw(st.integers(0, 1)),
            cpus=draw(some),
        )
        for task in range(draw(st.integers(1, 3)))
    ]
    kinds = st.sampled_from(["take", "none", "leave", "first"])
    seen = draw(st.lists(st.tuples(kinds, st.sampled_from(stays)), max_size=3))
    number = len(stays) + len(seen)
    moments = draw(st.permutations(range(2 * number)))
    pairs = [sorted(moments[2 * i : 2 * i + 2]) for i in range(number)]
    spans = [(pair[0], pair[1]) for pair in pairs]
    ops: list[Op] = [Insert(begin, end, one) for (begin, end), one in zip(spans, stays, strict=False)]
    for (kind, one), (begin, end) in zip(seen, spans[len(stays) :], strict=True):
        if kind == "take":
            ops.append(Take(begin, end, draw(st.integers(0, 1)), one))
        elif kind == "none":
            ops.append(Take(begin, end, draw(st.integers(0, 1)), None))
        elif kind == "leave":
            thieves = draw(st.frozensets(st.integers(0, 1)))
            ops.append(Leave(begin, end, one, draw(st.integers(begin, end)) if thieves else begin, thieves))
        else:
            ops.append(First(begin, end, frozenset({one}) if draw(st.booleans()) else frozenset()))
    return ops, stays


@settings(max_examples=300)
@given(operations())
def test_exactly_what_some_permutation_allows_is_accepted(case: tuple[list[Op], list[Stay]]) -> None:
    ops, stays = case
    assert (check(ops) is None) == legal(ops, stays)


# --- kernels ----------------------------------------------------------------------------


def history(seed: int, by_vtime: bool, wrong: str = "") -> list[Op]:
    """What a kernel with four CPUs does with one DSQ, each operation spread over a while around its moment.

    `wrong` is what it does not do as it should.
    """
    draw = random.Random(seed)
    queue: list[Stay] = []
    ops: list[Op] = []
    widest = 0.0 if wrong else 2.6
    for moment in range(1, 120):
        begin, end = moment - 0.4 - widest * draw.random(), moment + 0.4 + widest * draw.random()
        if draw.random() < 0.55:
            vtime = (U64 - 5 + draw.randrange(10)) & U64 if by_vtime else None
            one = Stay(moment, draw.randrange(4), frozenset(draw.sample(range(4), 3)), True, vtime, draw.random() < 0.2)
            ops.append(Insert(begin, end, one))
            queue.insert(place(one, queue, wrong), one)
            continue
        cpu = draw.randrange(4)
        lying = queue[::-1] if wrong == "last" else queue
        found = next((one for one in lying if one.may(cpu)), None)
        if wrong == "blind" and draw.random() < 0.1:
            found = None
        ops.append(Take(begin, end, cpu, found))
        if found:
            queue.remove(found)
    return ops


def place(one: Stay, queue: Sequence[Stay], wrong: str) -> int:
    """Where this kernel puts a task."""
    if one.vtime is None:
        return 0 if one.head and wrong != "tail" else len(queue)

    def later(other: Stay) -> bool:
        assert one.vtime is not None and other.vtime is not None
        if wrong == "unsigned":
            return other.vtime > one.vtime
        gap = (other.vtime - one.vtime) & U64
        return (gap < 1 << 63) if wrong == "equal" else 0 < gap < 1 << 63

    return next((at for at, other in enumerate(queue) if later(other)), len(queue))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=60)
def test_whatever_a_right_kernel_does_is_accepted(seed: int, by_vtime: bool) -> None:
    assert not isinstance(check(history(seed, by_vtime)), Illegal)


@pytest.mark.parametrize(
    ("wrong", "by_vtime"),
    [("tail", False), ("last", False), ("blind", False), ("last", True), ("unsigned", True), ("equal", True)],
)
def test_a_wrong_kernel_is_refused(wrong: str, by_vtime: bool) -> None:
    """One that ignores the head, that is a stack, that overlooks tasks, that compares without the wrap or the tie."""
    refused = [isinstance(check(history(seed, by_vtime, wrong)), Illegal) for seed in range(20)]
    assert all(refused)
