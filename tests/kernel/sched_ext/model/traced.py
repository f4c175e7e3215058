# SPDX-License-Identifier: GPL-2.0-only
"""The judgement of a trace of several CPUs on tasks and DSQs: the first impossible event.

The events are those of bpf_progs/sched_ext/dsq_traced.bpf.c. What happens to a task is written down under its runqueue's lock and
so has one order; what happens to a DSQ lies between stamps, and `linear.check()` has the word on it. Rules cite the
kernel's functions in kernel/sched/ext/ext.c (7.2.13).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sched_ext.model import linear
from sched_ext.model.event import FIRST_PRIQ, LOCAL_DSQ, Event, Flag, Kind, stamps_before
from sched_ext.model.linear import First, Insert, Leave, Op, Stay, Take


@dataclass(slots=True)
class Lain:
    """A stay with its known times: inserted between `begin` and `in_by`, left between `out` and `end`."""

    stay: Stay
    dsq: int
    begin: int
    in_by: float
    out: float = math.inf
    end: float = math.inf


@dataclass(slots=True)
class Task:
    """The known state of a task: the DSQ it is on, or the CPU on whose local DSQ it is or that it runs on.

    `given` is the slice and, on a DSQ of that order, the virtual time that it must have when it runs next.
    """

    on: Lain | None = None
    local: int | None = None
    runs: int | None = None
    given: tuple[int, int | None] | None = None


@dataclass(slots=True)
class Found:
    """The result. `problem` is the first impossible event, `undecided` what could not be decided."""

    problem: str = ""
    undecided: str = ""
    events: int = 0
    operations: int = 0
    reenqueued: Counter[int] = field(default_factory=Counter)
    """How often each task was re-enqueued."""


class Trace:
    """The events of one scheduler's whole life, in any order, and their replay."""

    def __init__(self, events: Iterable[Event], source: str = "kernel/sched/ext/ext.c") -> None:
        self._events = sorted(events, key=lambda event: event.begin)
        self._source = source
        self._tasks: dict[int, Task] = {}
        self._stays: dict[int, list[Lain]] = {}
        self._ops: dict[int, list[Op]] = {}
        self._around: dict[int, Event] = {}
        """The move that each CPU is doing."""
        self._explained: set[int] = set()
        """Moves, by their first stamps, that explain a task's leaving."""
        self._plugged = {event.rq for event in self._events if event.kind in (Kind.ONLINE, Kind.OFFLINE)}
        """CPUs that came or went: when they began to refuse tasks of others is not known (scx_rq_online())."""
        self._asked = 0
        self._reenqueued: Counter[int] = Counter()
        self._before = stamps_before(self._events)
        self._takes = [e for e in self._events if e.kind is Kind.TAKEN]

    def judge(self) -> Found:
        """Replay all events. Problems of tasks come before those of DSQs."""
        found = Found(events=len(self._events), reenqueued=self._reenqueued)
        for event in self._events:
            problem = self._feed(event)
            if problem:
                found.problem = f"{problem}, at {event.time} ns"
                return found
        for event in self._events:
            problem = self._looked(event)
            if problem:
                found.problem = f"{problem}, at {event.time} ns"
                return found
        for dsq, ops in sorted(self._ops.items()):
            found.operations += len(ops)
            result = linear.check(ops)
            if isinstance(result, linear.Illegal):
                found.problem = self._illegal(dsq, result)
                return found
            if isinstance(result, linear.Undecided):
                found.undecided = f"DSQ {dsq} may have looked in more than {linear.MOST_STATES} ways at one moment"
        return found

    def forgotten(self) -> str:
        """A task that has been on its DSQ since before its re-enqueue was requested, in words; empty if there is none.

        Each call is followed by a walk over the DSQ that began after it, whichever calls are merged
        (schedule_dsq_reenq(), process_deferred_reenq_users()).
        """
        for event in self._events:
            if event.kind is not Kind.ASKED:
                continue
            for lain in self._of(event.dsq):
                if lain.in_by < event.begin and lain.out == math.inf:
                    task, where = lain.stay.task, self._cite("schedule_dsq_reenq")
                    return f"task {task} on DSQ {event.dsq} was not re-enqueued after it had been asked for ({where})"
        return ""

    # --- one event ----------------------------------------------------------------------

    def _feed(self, event: Event) -> str:
        match event.kind:
            case Kind.ENQUEUED:
                return self._enqueued(event)
            case Kind.LEFT:
                return self._left(event)
            case Kind.TAKEN | Kind.MOVED:
                return self._moves(event)
            case Kind.RAN:
                return self._ran(event)
            case Kind.STOPPED:
                self._task(event).runs = None
            case Kind.GONE:
                return self._gone(event)
            case Kind.ASKED:
                self._asked += 1
        return ""

    def _looked(self, event: Event) -> str:
        """Judge what needs the stays of all tasks."""
        if event.kind is Kind.COUNTED:
            return self._counted(event)
        if event.kind is Kind.FIRST and event.end:
            self._first(event)
        local = event.kind is Kind.TAKEN or (event.kind is Kind.MOVED and event.other == LOCAL_DSQ)
        if local and Flag.DONE in event.flags and event.begin not in self._explained:
            where = self._cite("local_dsq_post_enq")
            return f"CPU {event.cpu} moved a task off DSQ {event.dsq}, but none left it ({where})"
        return ""

    def _task(self, event: Event) -> Task:
        return self._tasks.setdefault(event.pid, Task())

    def _enqueued(self, event: Event) -> str:
        task = self._task(event)
        lies = task.on
        reenqueued = Flag.REENQUEUED in event.flags
        if reenqueued and lies is None:
            return f"task {event.pid} is re-enqueued though it was on no DSQ ({self._cite('reenq_user')})"
        if lies is not None:
            if not reenqueued:
                return f"task {event.pid} is enqueued while it is on DSQ {lies.dsq} ({self._cite('do_enqueue_task')})"
            self._reenqueued[event.pid] += 1
            if self._reenqueued[event.pid] > self._asked:
                times = f"{self._reenqueued[event.pid]} times after {self._asked} calls"
                return f"task {event.pid} was re-enqueued {times} ({self._cite('process_deferred_reenq_users')})"
            # Off the DSQ and to ops.enqueue under one lock of its runqueue, on this CPU.
            since = max(self._before[event.begin] + 0.25, lies.begin + 0.5)
            self._op(lies.dsq, Leave(since, event.begin - 0.5, lies.stay, since))
            lies.out, lies.end = since, event.begin
        vtime = event.vtime if event.dsq >= FIRST_PRIQ else None
        stay = Stay(
            event.pid,
            event.rq,
            frozenset(cpu for cpu in range(64) if event.mask >> cpu & 1),
            Flag.PINNED not in event.flags,
            vtime,
            Flag.AT_HEAD in event.flags,
        )
        self._put(task, Lain(stay, event.dsq, event.begin, event.until))
        task.runs, task.local = None, None
        task.given = event.slice, vtime
        return ""

    def _put(self, task: Task, lain: Lain) -> None:
        task.on = lain
        self._stays.setdefault(lain.dsq, []).append(lain)
        self._op(lain.dsq, Insert(lain.begin, lain.in_by, lain.stay))

    def _left(self, event: Event) -> str:
        task, move = self._task(event), self._around.get(event.cpu)
        lies, task.on = task.on, None
        if lies is None:
            return f"task {event.pid} leaves the scheduler though it was on no DSQ ({self._cite('task_leave_custody')})"
        if Flag.CHANGED in event.flags:
            self._changed(event, lies)
            return ""
        if move is None or not move.begin < event.begin < move.until:
            return (
                f"task {event.pid} left DSQ {lies.dsq} although it was not moved ({self._cite('local_dsq_post_enq')})"
            )
        if move.dsq != lies.dsq or Flag.DONE not in move.flags or move.begin in self._explained:
            return (
                f"task {event.pid} left DSQ {lies.dsq} with a move from DSQ {move.dsq} that did not move it "
                f"({self._cite('consume_dispatch_q')})"
            )
        self._explained.add(move.begin)
        lies.out, lies.end = move.begin, event.begin
        task.local = event.rq
        if move.kind is Kind.MOVED:
            self._op(lies.dsq, Leave(move.begin, event.begin, lies.stay, move.begin))
        else:
            self._op(lies.dsq, Take(move.begin, event.begin, move.cpu, lies.stay, move.cpu not in self._plugged))
        return ""

    def _changed(self, event: Event, lies: Lain) -> None:
        """dequeue_task_scx() for new properties; a CPU that has taken it off the DSQ already then gives it up."""
        thieves = [
            take
            for take in self._takes
            if take.dsq == lies.dsq and take.begin < event.begin < take.until and take.cpu != event.cpu
        ]
        begin = min((take.begin for take in thieves), default=event.begin)
        begin = max(begin, lies.begin)
        lies.out, lies.end = begin, event.until
        cpus = frozenset(take.cpu for take in thieves)
        self._op(lies.dsq, Leave(begin + 0.5, event.until, lies.stay, event.begin + 0.5, cpus))

    def _moves(self, event: Event) -> str:
        """A move begins; its result is known at its second stamp."""
        self._around[event.cpu] = event
        if not event.end:
            return ""
        done = Flag.DONE in event.flags
        if event.kind is Kind.TAKEN and not done:
            self._op(event.dsq, Take(event.begin, event.end, event.cpu, None, event.cpu not in self._plugged))
        elif event.kind is Kind.MOVED and done and event.other != LOCAL_DSQ:
            return self._moved(event)
        return ""

    def _first(self, event: Event) -> None:
        """Its task was inserted before the walk began, and the walk began after the event did."""
        there = [lain for lain in self._of(event.dsq) if lain.begin < event.end and lain.end > event.begin]
        stays = frozenset(lain.stay for lain in there if event.pid == lain.stay.task)
        late = frozenset(lain.stay for lain in there if lain.in_by > event.begin)
        self._op(event.dsq, First(event.begin, event.end, stays if event.pid else frozenset(), late))

    def _of(self, dsq: int) -> Sequence[Lain]:
        return self._stays.get(dsq, ())

    def _moved(self, event: Event) -> str:
        """Its task is on the DSQ since before the walk over it began, or it would not be moved (scx_dsq_move())."""
        task = self._task(event)
        lies = task.on
        if lies is None or lies.dsq != event.dsq:
            where = f"DSQ {lies.dsq}" if lies else "no DSQ"
            return f"task {event.pid} was moved off DSQ {event.dsq}, but was on {where} ({self._cite('scx_dsq_move')})"
        lies.out, lies.end = event.begin, event.end
        self._op(lies.dsq, Leave(event.begin, event.end, lies.stay, event.begin))
        old = lies.stay
        vtime = event.vtime if event.other >= FIRST_PRIQ else None
        stay = Stay(old.task, old.rq, old.cpus, old.sure, vtime)
        self._put(task, Lain(stay, event.other, event.begin, event.end))
        if task.given:
            task.given = task.given[0], event.vtime if vtime is not None else task.given[1]
        return ""

    def _ran(self, event: Event) -> str:
        task = self._task(event)
        if task.on is not None:
            return f"task {event.pid} runs while it is on DSQ {task.on.dsq} ({self._cite('set_next_task_scx')})"
        if task.runs is not None and task.runs != event.rq:
            where = self._cite("set_next_task_scx")
            return f"task {event.pid} runs on CPUs {task.runs} and {event.rq} at once ({where})"
        if task.local is not None and task.local != event.rq and task.local not in self._plugged:
            return (
                f"task {event.pid} was moved to CPU {task.local} and runs on CPU {event.rq} "
                f"({self._cite('move_remote_task_to_local_dsq')})"
            )
        given, moved = task.given, task.local is not None
        task.runs, task.local, task.given = event.rq, None, None
        if not moved or given is None:
            return ""
        if given[0] and event.slice != given[0]:
            wrong = f"slice of {event.slice} ns, was given {given[0]}"
            return f"task {event.pid} runs with a {wrong} ({self._cite('scx_bpf_dsq_insert')})"
        if given[1] is not None and event.vtime != given[1]:
            wrong = f"virtual time of {event.vtime}, was given {given[1]}"
            return f"task {event.pid} runs with a {wrong} ({self._cite('scx_dsq_insert_vtime')})"
        return ""

    def _gone(self, event: Event) -> str:
        task = self._tasks.pop(event.pid, None)
        if task is not None and task.on is not None:
            return f"task {event.pid} is gone while it is on DSQ {task.on.dsq} ({self._cite('sched_ext_dead')})"
        return ""

    # --- what is judged at the end ------------------------------------------------------

    def _counted(self, event: Event) -> str:
        """scx_bpf_dsq_nr_queued() reads the number without a lock, while others change it."""
        stays = self._of(event.dsq)
        least = sum(lain.in_by < event.begin and lain.out > event.until for lain in stays)
        most = sum(lain.begin < event.until and lain.end > event.begin for lain in stays)
        if least <= event.vtime <= most:
            return ""
        between = f"{least}" if least == most else f"{least} to {most}"
        return (
            f"scx_bpf_dsq_nr_queued() answers {event.vtime} for DSQ {event.dsq} with {between} tasks "
            f"({self._cite('dsq_inc_nr, dsq_dec_nr')})"
        )

    def _illegal(self, dsq: int, found: linear.Illegal) -> str:
        where = "scx_dsq_priq_less" if dsq >= FIRST_PRIQ else "dispatch_enqueue"
        order = [stay.task for stay in found.before]
        match found.op:
            case Take(stay=None, cpu=cpu):
                what = f"CPU {cpu} found no task on DSQ {dsq}"
                where = "consume_dispatch_q"
            case Take(stay=Stay(task=task), cpu=cpu):
                what = f"CPU {cpu} took task {task} from DSQ {dsq}"
            case First(stays=stays):
                whom = ", ".join(f"task {stay.task}" for stay in stays) or "none"
                what = f"a walk over DSQ {dsq} began with {whom}"
            case Leave(stay=stay):
                what = f"task {stay.task} left DSQ {dsq}"
                where = "task_unlink_from_dsq"
            case _:
                what = f"DSQ {dsq} came to no order"
        return f"{what}, which held the tasks {order} ({self._cite(where)})"

    def _op(self, dsq: int, op: Op) -> None:
        self._ops.setdefault(dsq, []).append(op)

    def _cite(self, function: str) -> str:
        return f"{self._source}: {function}"
