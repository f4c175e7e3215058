# SPDX-License-Identifier: GPL-2.0-only
"""Owns doing again what tests did: their operations in another guest, whole or with some of their faults only."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from harness.guest.agent import Agent
from harness.guest.guest import Answer
from harness.machine.deadline import Deadline
from harness.records import Operation
from harness.suite.bench import Bench

SWEEPS = ("sweep-ops", "sweep")
"""Verbs that make one allocation after the other fail."""

REPEAT = {"sweep": 300, "run": 3000}
"""An operation over thousands of ids is repeated for so many: a leak that each makes shows with fewer."""

CALL_SECONDS = 120.0
APART = 1 << 24
"""Between the ids of two parts of one sweep over ids: what the first made is still there."""

TIMERS = "/proc/timer_list"
_JIFFIES = re.compile(r"^jiffies: (\d+)$", re.MULTILINE)

T = TypeVar("T")


class Run(NamedTuple):
    """One run of a sweep: its place among the operations, and which allocation fails; 0: there is no telling them
    apart, or the operation is no sweep."""

    place: int
    nth: int


@dataclass(frozen=True)
class Deed:
    """What one test did. `highest` is, by the place of each sweep, the last allocation that failed in it."""

    test: str
    operations: tuple[Operation, ...]
    faulty: bool = False
    highest: Mapping[int, int] = field(default_factory=dict)

    def runs(self) -> tuple[Run, ...]:
        """Each run of its sweeps."""
        spans = ((place, range(1, last + 1) if last else (0,)) for place, last in self.highest.items())
        return tuple(Run(place, nth) for place, nths in spans for nth in nths)

    def steps(self, runs: Iterable[Run] | None = None) -> Iterator[tuple[Run, Operation]]:
        """What is to be done: all of it as the test did it, or of its sweeps these runs only, one by one."""
        chosen: dict[int, list[int]] = {}
        for run in runs or ():
            chosen.setdefault(run.place, []).append(run.nth)
        for place, operation in enumerate(self.operations):
            if runs is None or place not in self.highest:
                yield Run(place, 0), operation
                continue
            for number, nth in enumerate(chosen.get(place, ())):
                yield Run(place, nth), _only(operation, nth, number) if nth else operation


def _only(operation: Operation, nth: int, number: int) -> Operation:
    """The sweep with one allocation only; over ids of its own, being part `number`."""
    args = dict(operation.args) | {"from": str(nth), "to": str(nth)}
    if operation.verb == "sweep":
        context = bytes.fromhex(args["ctx"])
        (first,) = struct.unpack_from("<Q", context)
        args["ctx"] = (struct.pack("<Q", first + number * APART) + context[8:]).hex()
    return replace(operation, args=args)


def deed(bench: Bench) -> Deed:
    """What the test on this bench did, as it is to be done again."""
    operations: list[Operation] = []
    highest: dict[int, int] = {}
    for done in bench.guest.agent.history:
        operation = done.operation
        if operation.verb == "sweep-ops" and operation in operations:  # rounds differ only by what happens to be there
            continue
        args = dict(operation.args)
        if operation.verb in REPEAT and "repeat" in args:
            args["repeat"] = str(min(int(args["repeat"]), REPEAT[operation.verb]))
        if operation.verb in SWEEPS:
            highest[len(operations)] = 0 if "every" in args else int(done.value.get("highest_n", 0))
        operations.append(replace(operation, args=args))
    return Deed(bench.test_id, tuple(operations), bool(bench.must_inject), highest)


class Clock(Generic[T]):
    """When each thing began, in the guest's jiffies: the kernel's own times tell then during which thing they were."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, T]] = []

    def begin(self, agent: Agent, what: T) -> None:
        """The thing begins now. A guest that does not tell its jiffies leaves the clock without it."""
        answer = agent.call("read", check=False, record=False, path=TIMERS)
        found = _JIFFIES.findall(answer["data"]) if answer["ok"] else ()
        if found:
            self.note(max(map(int, found)), what)

    def note(self, jiffies: int, what: T) -> None:
        """The thing began then."""
        self._begun.append((jiffies, what))

    def during(self, jiffies: int) -> list[T]:
        """What was under way then: several things where one ended and another began."""
        ends = [start for start, _ in self._begun[1:]]
        spans = zip(self._begun, [*ends, jiffies], strict=False)
        return list(dict.fromkeys(what for (start, what), end in spans if start <= jiffies <= end))


def once(
    agent: Agent, what: Iterable[tuple[T, Operation]], clock: Clock[T] | None = None
) -> Iterator[tuple[T, Operation, Answer]]:
    """Does these operations and undoes everything; gives each with its answer, before the next is done."""
    for name, operation in what:
        if clock is not None:
            clock.begin(agent, name)
        yield name, operation, agent.call(operation.verb, seconds=CALL_SECONDS, check=False, **operation.args)
    agent.call("reset", seconds=60.0)


def again(agent: Agent, deeds: Sequence[Deed], passes: int, seconds: float, clock: Clock[str] | None = None) -> None:
    """All of it once; then what failed on purpose, up to so many times in all and for as long as `seconds`."""
    _each(agent, deeds, clock)
    deadline = Deadline(seconds, "what failed on purpose to be done again")
    faulty = [one for one in deeds if one.faulty]
    for one in faulty * (passes - 1):
        if deadline.expired:
            break
        _each(agent, [one], clock)


def _each(agent: Agent, deeds: Sequence[Deed], clock: Clock[str] | None) -> None:
    for one in deeds:
        if clock is not None:
            clock.begin(agent, one.test)
        for _ in once(agent, one.steps()):
            continue
