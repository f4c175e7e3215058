# SPDX-License-Identifier: GPL-2.0-only
"""Tests of traced tasks: what the scheduler is given, how its events are read, and what comes of a trace."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext import traced
from sched_ext.dsq import STALLED, Dsqs, HeldTooLong
from sched_ext.model.event import NO_DSQ, Event, Flag, Kind
from sched_ext.model.state import Features
from sched_ext.traced import COLUMNS, TracedTasks

from harness.core.errors import Disagreed, GuestError, Inconclusive
from harness.core.records import Evidence
from harness.core.wire import NOTHING, Binary, ByteOrder
from harness.session.context import TestContext
from tests.unit.fakes.context import FakeObject

PROGRAM = Path(__file__).resolve().parents[4] / "bpf_progs" / "sched_ext" / "dsq_traced.bpf.c"


class Scheduler(FakeObject):
    """The program, its events given as rows of COLUMNS."""

    def __init__(self) -> None:
        super().__init__(exited=0, exit_msg="", lost=0, nr_reenqueued=0)
        self.rows: list[tuple[int, ...]] = []
        self.scripts: dict[int, list[int]] = {}
        self.probes: list[str] = []
        self.counts = [0] * traced.NR_DSQS
        self.ran: list[str] = []
        self.on_let_go: Callable[[], None] = lambda: None

    def attach(self, what: str = "ops", *, check: bool = True) -> int:
        self.probes.append(what)
        return 0

    def get(self, *names: str, most: int = 0) -> dict[str, Any]:
        columns = dict(zip(COLUMNS, zip(*self.rows, strict=True) if self.rows else [()] * len(COLUMNS), strict=True))
        own = columns | {"nr_events": len(self.rows)}
        return {name: own[name] if name in own else self.variables[name] for name in names}

    def run(self, program: str, context: Binary = NOTHING, *, record: bool = True) -> list[int]:
        self.ran.append(program)
        if program == "let_go":
            self.on_let_go()
        if program == "write_script":
            which, first, count, *words = ByteOrder.LITTLE.unpack(
                f"3Q{traced.MAX_WORDS}Q", context.bytes(ByteOrder.LITTLE)
            )
            lines = self.scripts.setdefault(which, [])
            assert len(lines) == first
            lines += words[:count]
        if program == "count":
            return [self.counts[ByteOrder.LITTLE.unpack("QQ", context.bytes(ByteOrder.LITTLE))[0]]]
        return [0]


class World:
    """Traced tasks on a guest that does nothing. `shown` is what the context counted."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.shown: list[str] = []
        self.evidence: list[Evidence] = []
        self.expected: list[str] = []
        target = SimpleNamespace(machine=SimpleNamespace(spec=SimpleNamespace(online_cpus=2)))
        context = SimpleNamespace(
            guest=SimpleNamespace(agent=SimpleNamespace(patience=0.0)),
            target=target,
            seed=3,
            evidence=self.evidence,
            expect=self.expected.append,
            count_model=lambda operations, compared, wrong=None: self.shown.append(wrong) if wrong else None,
        )
        dsq = SimpleNamespace(
            model=SimpleNamespace(features=Features()), scale=0.01, attach=lambda *args, **variables: self.scheduler
        )
        self.tasks = TracedTasks(cast(TestContext, context), cast(Dsqs, dsq))

    def event(self, begin: int, end: int, kind: Kind, *, pid: int = 0, dsq: int = NO_DSQ, flags: int = 0) -> None:
        word = kind | 0 << 8 | 0 << 16 | dsq << 24 | NO_DSQ << 32 | flags << 40
        self.scheduler.rows.append((begin, end, 5, word, pid, 0, 0, 3))


@pytest.fixture
def world() -> World:
    return World()


def test_the_scripts_are_written_whole(world: World) -> None:
    arrivals, vtimes, moves, lengths = traced.script(3)
    assert world.scheduler.scripts == {0: arrivals, 1: vtimes, 2: moves, 3: lengths}
    assert {0, 1, (1 << 64) - 1} <= set(lengths)
    assert min(vtimes) < 1000 < 1 << 63 < max(vtimes), "both sides of the end of their type"
    assert all(move & 255 != move >> 8 for move in moves), "no task is moved to where it is"
    assert world.scheduler.probes == list(traced.PROBES)


def test_the_same_seed_has_the_same_scripts() -> None:
    assert traced.script(7) == traced.script(7) != traced.script(8)


def test_events_are_read(world: World) -> None:
    world.event(4, 9, Kind.ENQUEUED, pid=7, dsq=1, flags=Flag.AT_HEAD)
    assert list(world.tasks.events()) == [Event(4, 9, Kind.ENQUEUED, 0, 0, 7, 1, NO_DSQ, Flag.AT_HEAD, mask=3, time=5)]


def test_a_legal_trace_passes_and_is_evidence(world: World) -> None:
    world.event(1, 2, Kind.ENQUEUED, pid=7, dsq=1)
    assert world.tasks.judge().events == 1
    assert world.evidence == [Evidence(traced.ORACLE, payload=1)]
    assert world.shown == []


def test_what_could_not_be_is_a_disagreement(world: World) -> None:
    world.event(1, 2, Kind.ENQUEUED, pid=7, dsq=1)
    world.event(3, 4, Kind.RAN, pid=7)
    with pytest.raises(Disagreed, match="task 7 runs while it is on DSQ 1"):
        world.tasks.judge()
    assert len(world.shown) == 1


def test_lost_events_are_lost_evidence_and_no_disagreement(world: World) -> None:
    world.event(1, 2, Kind.ENQUEUED, pid=7, dsq=1)
    world.event(3, 4, Kind.RAN, pid=7)  # the event in between may be among those that were lost
    world.scheduler.variables["lost"] = 5
    for judge in world.tasks.judge, world.tasks.settled:
        with pytest.raises(Inconclusive, match="has room for 131072 events"):
            judge()
    assert [evidence.lost for evidence in world.evidence] == [5]
    assert world.shown == []


def test_a_scheduler_that_is_ejected_is_told(world: World) -> None:
    world.scheduler.variables |= {"exited": 1, "exit_msg": "runnable task stall"}
    with pytest.raises(Disagreed, match="ejected the scheduler: runnable task stall"):
        world.tasks.until("nothing", lambda: False)


def test_a_stall_of_held_tasks_is_no_fault_of_the_kernels(world: World) -> None:
    stall = {"exited": 1, "exit_msg": "worker[112] failed to run for 36.584s"}
    world.tasks.hold()
    assert world.expected == [STALLED]
    world.scheduler.variables |= stall
    for then in world.tasks.let_go, lambda: world.tasks.gather(2):
        with pytest.raises(HeldTooLong, match="held for too long: worker"):
            then()
    world.scheduler.variables["exited"] = 0
    world.tasks.let_go()
    world.scheduler.variables |= stall
    with pytest.raises(Disagreed, match="ejected the scheduler"):
        world.tasks.until("nothing", lambda: False)


def test_held_tasks_are_let_go_when_nothing_happens(world: World) -> None:
    world.tasks.hold()
    with pytest.raises(GuestError, match="2 tasks to lie on the DSQs"):
        world.tasks.gather(2)
    assert world.scheduler.ran[-1] == "let_go"


def test_what_does_not_happen_is_no_fault_of_the_kernels(world: World) -> None:
    with pytest.raises(GuestError, match="2 tasks to lie on the DSQs"):
        world.tasks.gather(2)


def test_a_task_is_enqueued_anew_once(world: World) -> None:
    world.scheduler.variables["nr_reenqueued"] = 3
    world.tasks.wait_for_reenqueues(3)
    with pytest.raises(Disagreed, match="re-enqueued 3 times, 2 lay on the DSQs"):
        world.tasks.wait_for_reenqueues(2)


def test_a_reenqueue_that_is_forgotten_is_told(world: World) -> None:
    world.event(1, 2, Kind.ENQUEUED, pid=7, dsq=1)
    world.event(3, 4, Kind.ASKED, dsq=1)
    with pytest.raises(Disagreed, match="task 7 on DSQ 1 was not re-enqueued"):
        world.tasks.settled()
    world.event(5, 6, Kind.ENQUEUED, pid=7, dsq=1, flags=Flag.REENQUEUED)
    world.tasks.settled()


def test_it_is_told_of_the_time_before_its_tasks_are_let_go(world: World) -> None:
    """Once they run, nobody lies where they lay."""
    world.tasks.hold()
    world.event(1, 2, Kind.ENQUEUED, pid=7, dsq=1)
    world.event(3, 4, Kind.ASKED, dsq=1)
    world.scheduler.on_let_go = lambda: world.event(5, 6, Kind.LEFT, pid=7)
    with pytest.raises(Disagreed, match="task 7 on DSQ 1 was not re-enqueued"):
        world.tasks.settled()
    assert world.scheduler.ran[-1] == "let_go"


def test_the_program_has_the_same_numbers() -> None:
    source = PROGRAM.read_text() + PROGRAM.with_name("trace.bpf.h").read_text()
    named = dict(re.findall(r"#define (\w+) (\d+)\n", source))
    for name in ("FIRST_DSQ", "NR_DSQS", "MAX_EVENTS", "MAX_SCRIPT", "MAX_WORDS"):
        assert int(named[name]) == getattr(traced, name)
    assert "enum { ARRIVALS, VTIMES, MOVES, SLICES, NR_SCRIPTS }" in source
