# SPDX-License-Identifier: GPL-2.0-only
"""Repeating what tests did: their operations in another guest, all of them or with some of their faults only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from harness.core.records import Operation
from harness.core.wire import ByteOrder
from harness.faults.context import FaultContext
from harness.guest.agent import Agent
from harness.guest.guest import Answer
from harness.machine.deadline import Deadline

SWEEPS = ("sweep-ops", "sweep")
"""Verbs that fail one allocation after the other."""

REPEAT = {"sweep": 300, "run": 3000}
"""An operation over thousands of ids is repeated for so many: a leak that each makes shows with fewer."""

CALL_SECONDS = 120.0
APART = 1 << 24
"""Distance between the ids of two parts of one sweep over ids: the objects of the first part are still there."""

ALONE = 8
"""A single run is repeated so often in a row."""

TIMERS = "/proc/timer_list"
_NOW = re.compile(r"^now at (\d+) nsecs$.*^jiffies: (\d+)$", re.MULTILINE | re.DOTALL)


class Run(NamedTuple):
    """One run of a sweep: its place among the operations, and which allocation fails. Any other operation, or a whole
    sweep, is run 0."""

    place: int
    nth: int


@dataclass(frozen=True)
class Deed:
    """What one test did. `highest` is, by the place of each sweep, the last allocation that failed in it; `arms` says
    whether it armed faults."""

    test: str
    operations: tuple[Operation, ...]
    faulty: bool = False
    highest: Mapping[int, int] = field(default_factory=dict)
    arms: bool = False
    order: ByteOrder = ByteOrder.LITTLE

    def runs(self) -> tuple[Run, ...]:
        """Each run of its sweeps."""
        return tuple(Run(place, nth) for place, last in self.highest.items() for nth in range(1, last + 1))

    def steps(self, runs: Iterable[Run] | None = None) -> Iterator[tuple[Run, Operation]]:
        """The operations to do: all of the test's, or of its sweeps these runs only."""
        chosen: dict[int, list[int]] = {}
        for run in runs or ():
            chosen.setdefault(run.place, []).append(run.nth)
        for place, operation in enumerate(self.operations):
            if runs is None or place not in self.highest:
                yield Run(place, 0), operation
            elif place in chosen:
                for nth, part in _parts(operation, sorted(chosen[place]), list(chosen) == [place], self.order):
                    yield Run(place, nth), part


def _parts(operation: Operation, nths: Sequence[int], alone: bool, order: ByteOrder) -> Iterator[tuple[int, Operation]]:
    """A sweep with these allocations only, each part with its first."""
    spans = [(nth, nth) for nth in nths]
    if operation.verb == "sweep-ops":
        starts = [nth for nth in nths if nth - 1 not in nths]
        spans = list(zip(starts, [nth for nth in nths if nth + 1 not in nths], strict=True))
        spans *= ALONE if alone and len(nths) == 1 else 1
    for number, (first, last) in enumerate(spans):
        args = dict(operation.args) | {"from": str(first), "to": str(last)}
        if operation.verb == "sweep":
            context = bytes.fromhex(args["ctx"])
            (start,) = order.unpack("Q", context)
            args["ctx"] = (order.pack("Q", start + number * APART) + context[8:]).hex()
        yield first, replace(operation, args=args)


def deed(context: FaultContext) -> Deed:
    """The operations of the test on this context, to be repeated."""
    operations: list[Operation] = []
    highest: dict[int, int] = {}
    for done in context.guest.agent.history:
        operation = done.operation
        if operation.verb == "sweep-ops":  # its rounds differ only by chance
            if operation in operations or operation.args.get("every"):
                continue
        args = dict(operation.args)
        if operation.verb in REPEAT and "repeat" in args:
            args["repeat"] = str(min(int(args["repeat"]), REPEAT[operation.verb]))
        if operation.verb in SWEEPS and done.value.get("highest_n"):
            highest[len(operations)] = int(done.value["highest_n"])
        operations.append(replace(operation, args=args))
    return Deed(
        context.test_id, tuple(operations), bool(context.must_inject), highest, context.arms, context.guest.agent.order
    )


class Clock:
    """When each run of each test began, to find the run of a time in the kernel's jiffies."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, tuple[str, Run]]] = []
        self._set: list[tuple[int, int]] = []

    def set(self, agent: Agent) -> None:
        """Compare microseconds with jiffies; to be called once before and once after. A kernel may not show jiffies."""
        answer = agent.call("read", check=False, record=False, path=TIMERS)
        found = _NOW.search(answer["data"]) if answer["ok"] else None
        if found:
            self.compare(int(found[1]) // 1000, int(found[2]))

    def compare(self, us: int, jiffies: int) -> None:
        """Record that these were the same moment."""
        self._set.append((us, jiffies))

    def begun(self, us: int, test: str, run: Run) -> None:
        """Record the beginning of a run."""
        self._begun.append((us, (test, run)))

    def note(self, test: str, run: Run, answer: Answer) -> None:
        """Record an operation, with the agent's answer; of a sweep each run."""
        self.begun(int(answer.get("at", 0)), test, run)
        for number, us in enumerate(answer.get("begun", ())):
            self.begun(int(us), test, Run(run.place, max(run.nth, 1) + number))

    def during(self, jiffies: int) -> list[tuple[str, Run]]:
        """The runs at that time, the likeliest first: a jiffy is long, and two clocks cannot be read at once."""
        if len(self._set) < 2 or self._set[-1][1] == self._set[0][1]:
            return []
        jiffy = (self._set[-1][0] - self._set[0][0]) / (self._set[-1][1] - self._set[0][1])
        us, known = min(self._set, key=lambda both: abs(both[1] - jiffies))
        start = us + (jiffies - known) * jiffy
        middle, end = start + jiffy / 2, start + 2 * jiffy
        order = sorted(self._begun, key=lambda entry: entry[0])
        ends = [*(begun for begun, _ in order[1:]), math.inf]
        near = [(begun, until, what) for (begun, what), until in zip(order, ends, strict=True)]
        near = [entry for entry in near if entry[0] <= end and entry[1] >= start - jiffy]
        near.sort(key=lambda entry: max(entry[0] - middle, middle - entry[1], 0.0))
        return list(dict.fromkeys(what for _, _, what in near))


def once(
    agent: Agent, test: str, steps: Iterable[tuple[Run, Operation]], clock: Clock
) -> Iterator[tuple[Run, Operation, Answer]]:
    """Do these operations and undo everything; yields each with its answer, before the next is done."""
    for run, operation in steps:
        own = float(operation.args.get("timeout_ms", 0)) / 1000 / agent.scale  # nominal, like every deadline
        answer = agent.call(operation.verb, seconds=max(CALL_SECONDS, own + 5), check=False, **operation.args)
        clock.note(test, run, answer)
        yield run, operation, answer
    agent.call("reset", seconds=60.0)


Within = Callable[[Deed], AbstractContextManager[None]]


def again(
    agent: Agent,
    deeds: Sequence[Deed],
    passes: int,
    seconds: float,
    clock: Clock,
    within: Within = lambda one: nullcontext(),
) -> None:
    """Do all of it once; then repeat the runs with faults, up to so many times and for as long as `seconds`.

    Each deed is done in the context that `within` returns for it.
    """
    clock.set(agent)
    _each(agent, deeds, clock, within)
    deadline = Deadline(seconds, "what failed on purpose to be done again")
    faulty = [one for one in deeds if one.faulty]
    for one in faulty * (passes - 1):
        if deadline.expired:
            break
        _each(agent, [one], clock, within)
    clock.set(agent)


def _each(agent: Agent, deeds: Sequence[Deed], clock: Clock, within: Within) -> None:
    for one in deeds:
        with within(one):
            for _ in once(agent, one.test, one.steps(), clock):
                continue
