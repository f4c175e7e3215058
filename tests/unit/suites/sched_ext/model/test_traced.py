# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a trace's replay: what a right kernel shows is accepted, and each thing that could not be is shown as that."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sched_ext.model import event as events_of
from sched_ext.model.event import LOCAL_DSQ, NO_DSQ, Event, Flag, Kind
from sched_ext.model.ids import U64
from sched_ext.model.traced import Trace

PROGRAM = Path(__file__).resolve().parents[5] / "bpf_progs" / "sched_ext" / "dsq_traced.bpf.c"
FIFO, PRIQ = 0, 2
SLICE = 20_000_000
BOTH = 0b11


class Kernel:
    """Two CPUs and four DSQs that do one thing after the other; what is written down is as dsq_traced.bpf.c does."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = 0

    def stamp(self) -> int:
        self.now += 1
        return self.now

    def add(self, kind: Kind, *, ended: bool = False, **fields: int) -> Event:
        begin = self.stamp()
        flags = Flag(fields.pop("flags", 0))
        event = Event(begin, self.stamp() if ended else 0, kind, flags=flags, time=begin, **fields)
        self.events.append(event)
        return event

    def enqueue(self, pid: int, dsq: int = FIFO, *, rq: int = 0, flags: int = 0, vtime: int = 0) -> None:
        self.add(
            Kind.ENQUEUED, ended=True, cpu=rq, rq=rq, pid=pid, dsq=dsq, flags=flags, vtime=vtime, slice=SLICE, mask=BOTH
        )

    def take(
        self, pid: int = 0, dsq: int = FIFO, *, cpu: int = 0, kind: Kind = Kind.TAKEN, other: int = NO_DSQ
    ) -> None:
        """A move to a CPU; `pid` 0: nobody was there."""
        begin = self.stamp()
        if pid:
            self.add(Kind.LEFT, cpu=cpu, rq=cpu, pid=pid)
        done = Flag.DONE if pid else Flag(0)
        of = pid if kind is Kind.MOVED else 0
        self.events.append(Event(begin, self.stamp(), kind, cpu, cpu, of, dsq, other, done, time=begin))

    def move(self, pid: int, dsq: int, other: int, *, vtime: int = 0) -> None:
        self.add(Kind.FIRST, ended=True, rq=0, pid=pid, dsq=dsq, flags=Flag.DONE)
        self.add(Kind.MOVED, ended=True, rq=0, pid=pid, dsq=dsq, other=other, vtime=vtime, flags=Flag.DONE)

    def run(self, pid: int, *, cpu: int = 0, slice: int = SLICE, vtime: int = 0) -> None:
        self.add(Kind.RAN, cpu=cpu, rq=cpu, pid=pid, slice=slice, vtime=vtime)

    def stop(self, pid: int, *, cpu: int = 0) -> None:
        self.add(Kind.STOPPED, cpu=cpu, rq=cpu, pid=pid)

    def problem(self) -> str:
        return Trace(self.events).judge().problem


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_a_task_comes_is_taken_and_runs(kernel: Kernel) -> None:
    kernel.enqueue(1)
    kernel.enqueue(2, PRIQ, vtime=U64)
    kernel.move(1, FIFO, PRIQ, vtime=3)
    kernel.take(2, PRIQ, cpu=1)
    kernel.run(2, cpu=1, vtime=U64)
    kernel.take(1, PRIQ)
    kernel.run(1, vtime=3)
    kernel.stop(1)
    kernel.take()
    assert kernel.problem() == ""


def test_another_than_the_first_is_taken(kernel: Kernel) -> None:
    kernel.enqueue(1)
    kernel.enqueue(2)
    kernel.take(2, cpu=1)
    assert kernel.problem() == (
        "CPU 1 took task 2 from DSQ 0, which held the tasks [1, 2] (kernel/sched/ext/ext.c: dispatch_enqueue)"
    )


def test_nobody_is_found_though_one_is_there(kernel: Kernel) -> None:
    kernel.enqueue(1)
    kernel.take()
    assert "CPU 0 found no task on DSQ 0, which held the tasks [1]" in kernel.problem()


def test_a_later_virtual_time_is_taken_first(kernel: Kernel) -> None:
    kernel.enqueue(1, PRIQ, vtime=0)
    kernel.enqueue(2, PRIQ, vtime=U64)
    kernel.take(1, PRIQ)
    assert (
        "took task 1 from DSQ 2, which held the tasks [2, 1] (kernel/sched/ext/ext.c: scx_dsq_priq_less)"
        in kernel.problem()
    )


def test_a_walk_that_begins_elsewhere(kernel: Kernel) -> None:
    kernel.enqueue(1)
    kernel.enqueue(2)
    kernel.move(2, FIFO, 1)
    assert "a walk over DSQ 0 began with task 2, which held the tasks [1, 2]" in kernel.problem()


def twice(kernel: Kernel) -> None:
    kernel.enqueue(1)


def reenqueued(kernel: Kernel) -> None:
    kernel.enqueue(1, flags=Flag.REENQUEUED)


def reenqueued_from_nowhere(kernel: Kernel) -> None:
    kernel.add(Kind.ASKED, ended=True, dsq=FIFO)
    kernel.take(1)
    kernel.enqueue(1, flags=Flag.REENQUEUED)


def runs(kernel: Kernel) -> None:
    kernel.run(1)


def leaves(kernel: Kernel) -> None:
    kernel.add(Kind.LEFT, rq=0, pid=1)


def leaves_twice(kernel: Kernel) -> None:
    kernel.take(1)
    kernel.take(1)


def leaves_another(kernel: Kernel) -> None:
    kernel.take(1, dsq=1)


def moves_nobody(kernel: Kernel) -> None:
    kernel.add(Kind.TAKEN, ended=True, rq=0, dsq=FIFO, flags=Flag.DONE)


def moves_from_another(kernel: Kernel) -> None:
    kernel.add(Kind.MOVED, ended=True, rq=0, pid=1, dsq=1, other=PRIQ, flags=Flag.DONE)


def elsewhere(kernel: Kernel) -> None:
    kernel.take(1)
    kernel.run(1, cpu=1)


def at_once(kernel: Kernel) -> None:
    kernel.take(1)
    kernel.run(1)
    kernel.run(1, cpu=1)


def another_slice(kernel: Kernel) -> None:
    kernel.take(1, kind=Kind.MOVED, other=LOCAL_DSQ)
    kernel.run(1, slice=1)


def another_vtime(kernel: Kernel) -> None:
    kernel.enqueue(2, PRIQ, vtime=5)
    kernel.take(2, PRIQ)
    kernel.run(2, vtime=6)


def gone(kernel: Kernel) -> None:
    kernel.add(Kind.GONE, pid=1)


def miscounted(kernel: Kernel) -> None:
    kernel.add(Kind.COUNTED, ended=True, dsq=FIFO, vtime=2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (twice, "enqueued while it is on DSQ 0 .*do_enqueue_task"),
        (reenqueued, "re-enqueued 1 times after 0 calls .*process_deferred_reenq_users"),
        (reenqueued_from_nowhere, "re-enqueued though it was on no DSQ .*reenq_user"),
        (runs, "runs while it is on DSQ 0 .*set_next_task_scx"),
        (leaves, "left DSQ 0 although it was not moved .*local_dsq_post_enq"),
        (leaves_twice, "leaves the scheduler though it was on no DSQ .*task_leave_custody"),
        (leaves_another, "left DSQ 0 with a move from DSQ 1 that did not move it .*consume_dispatch_q"),
        (moves_nobody, "CPU 0 moved a task off DSQ 0, but none left it"),
        (moves_from_another, "was moved off DSQ 1, but was on DSQ 0 .*scx_dsq_move"),
        (elsewhere, "was moved to CPU 0 and runs on CPU 1 .*move_remote_task_to_local_dsq"),
        (at_once, "runs on CPUs 0 and 1 at once"),
        (another_slice, "slice of 1 ns, was given 20000000 .*scx_bpf_dsq_insert"),
        (another_vtime, "virtual time of 6, was given 5 .*scx_dsq_insert_vtime"),
        (gone, "gone while it is on DSQ 0"),
        (miscounted, r"nr_queued\(\) answers 2 for DSQ 0 with 1 tasks"),
    ],
)
def test_what_could_not_be_is_told(kernel: Kernel, wrong: object, says: str) -> None:
    kernel.enqueue(1)
    assert kernel.problem() == ""
    wrong(kernel)  # type: ignore[operator]
    assert re.search(says, kernel.problem()), kernel.problem()


def test_a_task_that_is_enqueued_anew(kernel: Kernel) -> None:
    kernel.enqueue(1)
    kernel.enqueue(2)
    kernel.add(Kind.ASKED, ended=True, cpu=1, dsq=FIFO)
    kernel.enqueue(1, flags=Flag.REENQUEUED)
    trace = Trace(kernel.events)
    assert trace.judge().problem == ""
    assert "task 2 on DSQ 0 was not re-enqueued" in trace.forgotten()
    kernel.enqueue(2, flags=Flag.REENQUEUED)
    trace = Trace(kernel.events)
    found = trace.judge()
    assert (found.problem, trace.forgotten(), found.reenqueued) == ("", "", {1: 1, 2: 1})


def test_who_is_taken_off_and_given_up_lets_the_next_be_first(kernel: Kernel) -> None:
    """CPU 1 has taken task 1 off the DSQ when CPU 0 changes its properties; CPU 2 finds task 2 before it is seen."""
    kernel.enqueue(1)
    kernel.enqueue(2)
    begin = kernel.stamp()
    kernel.events.append(Event(kernel.stamp(), kernel.now + 3, Kind.TAKEN, 2, 2, 0, FIFO, flags=Flag.DONE))
    kernel.events.append(Event(kernel.stamp(), 0, Kind.LEFT, 2, 2, 2))
    kernel.now += 3
    kernel.add(Kind.LEFT, ended=True, rq=0, pid=1, flags=Flag.CHANGED)
    open_ended = [*kernel.events]
    kernel.events = [replace(e, mask=0b111) if e.kind is Kind.ENQUEUED else e for e in open_ended]
    assert "took task 2" in kernel.problem(), "nobody had taken task 1 off"
    kernel.events.append(Event(begin, kernel.stamp(), Kind.TAKEN, 1, 1, 0, FIFO))
    assert kernel.problem() == ""


def busy(seed: int) -> Kernel:
    """A right kernel at random."""
    draw, kernel = random.Random(seed), Kernel()
    queues: dict[int, list[int]] = {0: [], 1: []}
    for pid in range(1, 60):
        dsq = draw.randrange(2)
        kernel.enqueue(pid, dsq, rq=draw.randrange(2))
        queues[dsq].append(pid)
        if draw.random() < 0.8:
            dsq, cpu = draw.randrange(2), draw.randrange(2)
            kernel.take(queues[dsq].pop(0) if queues[dsq] else 0, dsq, cpu=cpu)
    return kernel


@given(st.integers(0, 1000))
@settings(max_examples=40)
def test_a_right_kernel_is_accepted_and_a_mutation_of_its_trace_refused(seed: int) -> None:
    """Two tasks that lay on one DSQ and were taken one after the other change places."""
    kernel = busy(seed)
    assert kernel.problem() == ""
    taken = [e for e in kernel.events if e.kind is Kind.TAKEN and e.dsq == 0 and e.flags]
    left = {e.begin - 1: e for e in kernel.events if e.kind is Kind.LEFT}
    pairs = [(left[a.begin], left[b.begin]) for a, b in itertools.pairwise(taken)]
    came = {e.pid: e.begin for e in kernel.events if e.kind is Kind.ENQUEUED}
    lay = [(a, b) for a, b in pairs if came[b.pid] < a.begin]
    if lay:
        a, b = random.Random(seed).choice(lay)
        other = {a.begin: b.pid, b.begin: a.pid}
        kernel.events = [replace(e, pid=other.get(e.begin, e.pid)) for e in kernel.events]
        assert f"took task {b.pid} from DSQ 0" in kernel.problem()


def test_the_program_has_the_same_numbers() -> None:
    source = PROGRAM.read_text() + PROGRAM.with_name("trace.bpf.h").read_text()
    numbered = dict(re.findall(r"\b([A-Z_]+) = (\d+)", source))
    assert {kind.name: str(int(kind)) for kind in Kind} | {flag.name: str(int(flag)) for flag in Flag} == numbered
    defined = dict(re.findall(r"#define (\w+) (\d+)\n", source))
    assert {name: int(defined[name]) for name in ("NO_DSQ", "LOCAL_DSQ", "FIRST_PRIQ")} == {
        name: getattr(events_of, name) for name in ("NO_DSQ", "LOCAL_DSQ", "FIRST_PRIQ")
    }
