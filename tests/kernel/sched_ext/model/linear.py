# SPDX-License-Identifier: GPL-2.0-only
"""The question whether operations that overlapped can have happened to one DSQ in any order at all.

Each operation was begun and ended at known moments; what the kernel did lies at one instant between, for it does it
under the DSQ's lock. The operations are legal if there is an order of these instants in which each finds the DSQ as it
says. All such orders are followed at once, and only operations that overlap branch (just-in-time linearization). DSQs
are looked at one by one: operations on several are legal together if they are on each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sched_ext.model.queue import vtime_before

MOST_STATES = 20_000
"""Most states of a DSQ at one moment that are followed; with more it is not decided what is legal."""


@dataclass(frozen=True, slots=True, eq=False)
class Stay:
    """One stay of a task on the DSQ: where it belongs, and which CPUs may take it from there. Each is itself only.

    `vtime` is None on a FIFO, `head` is of a FIFO only. `rq` is the CPU that the task is on: that one may always take
    it, those of `cpus` as well; where `sure` is off the others may have been refused all the same (consume_dispatch_q()
    and task_can_run_on_remote_rq(), kernel/sched/ext/ext.c).
    """

    task: int
    rq: int = 0
    cpus: frozenset[int] = frozenset()
    sure: bool = True
    vtime: int | None = None
    head: bool = False

    def may(self, cpu: int) -> bool:
        """Whether this CPU can take it."""
        return cpu == self.rq or cpu in self.cpus

    def must(self, cpu: int, remote: bool = True) -> bool:
        """Whether this CPU cannot pass it over; `remote` is off for one that takes nothing from others."""
        return cpu == self.rq or (self.sure and remote and cpu in self.cpus)


@dataclass(frozen=True, slots=True)
class Op:
    """An operation on the DSQ, between two moments; `end` is infinite for one that may not have happened yet."""

    begin: float
    end: float

    def apply(self, queue: tuple[Stay, ...], now: float) -> tuple[Stay, ...] | None:
        """The DSQ after it, or None where it cannot have found the DSQ so. `now`: it has happened by then."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Insert(Op):
    """dispatch_enqueue(): at the tail or head of a FIFO, or behind all that are not later (scx_dsq_priq_less())."""

    stay: Stay

    def apply(self, queue: tuple[Stay, ...], now: float) -> tuple[Stay, ...] | None:
        vtime = self.stay.vtime
        at = len(queue)
        if vtime is not None:
            while at and queue[at - 1].vtime is not None and vtime_before(vtime, queue[at - 1].vtime or 0):
                at -= 1
        elif self.stay.head:
            at = 0
        return (*queue[:at], self.stay, *queue[at:])


@dataclass(frozen=True, slots=True)
class Take(Op):
    """consume_dispatch_q() on a CPU: the first task that it may take, or, with None, there was none.

    `remote` is off where the CPU may have been offline: it then takes its own tasks, others' maybe (scx_rq_online()).
    """

    cpu: int
    stay: Stay | None
    remote: bool = True

    def apply(self, queue: tuple[Stay, ...], now: float) -> tuple[Stay, ...] | None:
        for at, stay in enumerate(queue):
            if stay is self.stay:
                return (*queue[:at], *queue[at + 1 :]) if stay.may(self.cpu) else None
            if stay.must(self.cpu, self.remote):
                return None
        return queue if self.stay is None else None


@dataclass(frozen=True, slots=True)
class Leave(Op):
    """A task leaves from any position: its properties change, it is re-enqueued, or it is moved.

    Until `sure` only as the first that one of the CPUs `thieves` may take: such a one takes the task off the DSQ, and
    gives it up when it finds that its lock went to another (unlink_dsq_and_lock_src_rq()).
    """

    stay: Stay
    sure: float
    thieves: frozenset[int] = frozenset()

    def apply(self, queue: tuple[Stay, ...], now: float) -> tuple[Stay, ...] | None:
        at = next((at for at, stay in enumerate(queue) if stay is self.stay), None)
        if at is None:
            return None
        if now < self.sure and not any(
            self.stay.may(cpu) and not any(stay.must(cpu) for stay in queue[:at]) for cpu in self.thieves
        ):
            return None
        return (*queue[:at], *queue[at + 1 :])


@dataclass(frozen=True, slots=True)
class First(Op):
    """A walk's first task, one of these stays (nldsq_cursor_next_task()); none: it found no task.

    `late` are tasks that it may have passed over: those that were inserted when it had begun.
    """

    stays: frozenset[Stay]
    late: frozenset[Stay] = frozenset()

    def apply(self, queue: tuple[Stay, ...], now: float) -> tuple[Stay, ...] | None:
        for stay in queue:
            if stay in self.stays:
                return queue
            if stay not in self.late:
                return None
        return None if self.stays else queue


@dataclass(frozen=True, slots=True)
class Illegal:
    """The first operation that fits into no order, and the possible states of the DSQ before it."""

    op: Op
    before: tuple[Stay, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """More states than are followed, at this operation."""

    op: Op


State = tuple[tuple[Stay, ...], frozenset[int]]
"""A DSQ, and which of the operations under way have happened."""


def check(ops: Sequence[Op], most: int = MOST_STATES) -> Illegal | Undecided | None:
    """None where some order of the operations is legal; the DSQ is empty before the first.

    Stamps are unique. An operation without an end is one that may have happened.
    """
    states: set[State] = {((), frozenset())}
    under_way: list[int] = []
    for stamp, number, ends in _moments(ops):
        if not ends:
            under_way.append(number)
            continue
        reached = _happened(ops, states, under_way, number, stamp, most)
        if reached is None:
            return Undecided(ops[number])
        if not reached:
            return Illegal(ops[number], min((queue for queue, _ in states), key=len))
        under_way.remove(number)
        states = {(queue, done - {number}) for queue, done in reached}
    return None


def _moments(ops: Sequence[Op]) -> Iterator[tuple[float, int, bool]]:
    moments = [(op.begin, number, False) for number, op in enumerate(ops)]
    moments += [(op.end, number, True) for number, op in enumerate(ops) if op.end != math.inf]
    return iter(sorted(moments, key=lambda moment: (moment[0], moment[2])))


def _happened(
    ops: Sequence[Op], states: set[State], under_way: Sequence[int], number: int, now: float, most: int
) -> set[State] | None:
    """The states in which the operation has happened, after as many others under way as it took; None: too many."""
    reached = {state for state in states if number in state[1]}
    seen = set(states)
    waiting = [state for state in states if number not in state[1]]
    while waiting:
        queue, done = waiting.pop()
        for other in under_way:
            if other in done:
                continue
            after = ops[other].apply(queue, now)
            if after is None:
                continue
            state = after, done | {other}
            if state in seen:
                continue
            seen.add(state)
            if len(seen) > most:
                return None
            if other == number:
                reached.add(state)
            else:
                waiting.append(state)
    return reached
