# SPDX-License-Identifier: GPL-2.0-only
"""A runner for tests that builds nothing: a world knows how every point behaves, and counts what it is asked."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from harness.bisect.history import History, line
from harness.bisect.judge import Wanted
from harness.bisect.search import Find
from harness.bisect.state import Finding, Outcome, Run

SIGNATURE = "dmesg:warn:destroy_dsq"
TEST = "tests/kernel/sched_ext/test_destroy.py::test_destroy"
OLD = "before"


class Killed(BaseException):
    """The bisection was killed here."""


@dataclass
class World:
    """A history of which one point brings the failure (or, where a fix is looked for, takes it away).

    `rate` is how often it shows. `broken` do not build, `panic` do not boot, `odd` fail in another way. `dies` runs are
    made, then the bisection is killed.
    """

    history: History
    culprit: str
    rate: float = 1.0
    broken: Collection[str] = ()
    panic: Collection[str] = ()
    odd: Collection[str] = ()
    find: Find = Find.REGRESSION
    seed: int = 0
    dies: int = -1
    built: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)

    def fails(self, id: str) -> bool:
        """Whether the failure can show at a point."""
        if id == OLD:
            return self.find is Find.FIXED
        index = self.history.index
        has = bool(self.history.contained[index[id]] >> index[self.culprit] & 1)
        return has == (self.find is Find.REGRESSION)

    def __call__(self, id: str, number: int, wanted: Wanted | None, select: str) -> Run:
        if self.dies == 0:
            raise Killed
        self.dies -= 1
        self.asked.append((id, select))
        fresh = id not in self.built
        self.built.add(id)
        # What a run shows depends on the point and on how often it was run, not on who asks: a replay of recorded rates.
        turn = self.runs[id] = self.runs.get(id, 0) + 1
        if id in self.broken:
            return Run(Outcome.BUILD, "kernel/sched/ext/ext.c:7: expected ';'", seconds=20.0)
        common = {
            "kernel": id,
            "fresh": fresh,
            "seconds": 115.0 if fresh else 25.0,
            "build_seconds": 90.0 if fresh else 0.0,
        }
        if id in self.panic:
            return Run(Outcome.BOOT, "panic: no init", **common)  # type: ignore[arg-type]
        if id in self.odd:
            return Run(Outcome.OTHER, "another way", **common)  # type: ignore[arg-type]
        shown = random.Random(f"{self.seed} {id} {turn}").random() < self.rate
        if self.fails(id) and shown:
            return Run(Outcome.FAILS, "WARN", (Finding(SIGNATURE, "WARN", TEST),), **common)  # type: ignore[arg-type]
        return Run(Outcome.PASSES, "passes", **common)  # type: ignore[arg-type]


@dataclass
class Range:
    """What is searched, of commits that nobody made."""

    history: History
    why: dict[str, str] = field(default_factory=dict)
    old: str = OLD
    names: tuple[str, str] = ("--good v1", "--bad v2")

    def dull(self, id: str, run: Run) -> dict[str, str]:
        return self.why


def straight(number: int) -> History:
    """A history without merges, of so many points: c0, c1, ..."""
    return line([(f"c{place}", f"sched_ext: change {place}") for place in range(number)])
