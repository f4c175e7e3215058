# SPDX-License-Identifier: GPL-2.0-only
"""The table of mutants: what is written down of each, and what it amounts to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, median

from harness.core.words import plural
from harness.mutants.judge import Fate, Seen
from harness.mutants.operators import Mutant

RUN = (Fate.CAUGHT, Fate.SURVIVED)
"""The fates that count: of a mutant that was run, and could be judged."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """One mutant and what was seen of it. `seconds` are those of its build and run; `tests` is how many execute its
    line."""

    mutant: Mutant
    seen: Seen
    seconds: float = 0.0
    tests: int = 0


@dataclass(frozen=True)
class Table:
    """All mutants of a patch on one architecture. `wanted` is how many there are; fewer rows are a sample."""

    arch: str
    kernel: str
    wanted: int
    rows: tuple[Row, ...] = ()

    def of(self, *fates: Fate) -> tuple[Row, ...]:
        """Those that have one of these fates."""
        return tuple(row for row in self.rows if row.seen.fate in fates)

    @property
    def left(self) -> int:
        """How many were not tried."""
        return self.wanted - len(self.rows)


def share(part: int, whole: int) -> tuple[float, float, float]:
    """A share, and the ends of Wilson's interval around it, at CONFIDENCE; of nothing all is open."""
    if not whole:
        return 0.0, 0.0, 1.0
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    p, n = part / whole, whole
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return p, max(0.0, middle - half), min(1.0, middle + half)


def render(table: Table) -> str:
    """The table as text: the sums, then the survivors with their diffs, then each that was caught."""
    return "\n".join((*summary(table), "", *_survivors(table), *_caught(table))) + "\n"


def summary(table: Table) -> Iterator[str]:
    """The sums, a line each."""
    run, caught = table.of(*RUN), table.of(Fate.CAUGHT)
    part, low, high = share(len(caught), len(run))
    right = sum(row.seen.right for row in caught)
    sampled = f" (a sample: of all it is between {low:.0%} and {high:.0%}, at {CONFIDENCE:.0%})" if table.left else ""
    yield f"mutants   {table.arch}: {plural(table.wanted, 'mutant')}, {len(table.rows)} tried"
    yield f"caught    {len(caught)} of {len(run)} that were run: {part:.0%}{sampled}"
    if caught:
        yield f"blamed    {right} of {len(caught)} that were caught name the broken function: {right / len(caught):.0%}"
    if run:
        seconds = [row.seconds for row in run]
        yield f"time      median {median(seconds):.0f} s a mutant with its build, the longest {max(seconds):.0f} s"
    others = [f"{len(rows)} {words}" for fate, words in _APART.items() if (rows := table.of(fate))]
    if others:
        yield f"apart     {', '.join(others)}"
    if table.left:
        yield f"left      {plural(table.left, 'mutant')}: the same command goes on"


_APART = {
    Fate.SAME: "change nothing that is built",
    Fate.UNBUILT: "do not compile",
    Fate.UNREACHED: "are in lines that no test executes",
    Fate.EQUIVALENT: "are equivalent",
    Fate.UNCLEAR: "could not be judged",
}


def _survivors(table: Table) -> Iterator[str]:
    for row in table.of(Fate.SURVIVED):
        yield f"SURVIVED  {_which(row.mutant)}"
        yield f"          {plural(row.tests, 'test')} executed the line"
        yield from (f"          {line}" for line in row.mutant.diff.splitlines()[2:])
    for row in table.of(Fate.UNCLEAR):
        yield f"unclear   {_which(row.mutant)}: {row.seen.why}"


def _caught(table: Table) -> Iterator[str]:
    for row in table.of(Fate.CAUGHT):
        seen = row.seen
        blamed = f", blamed {seen.blamed}()" if seen.blamed else ""
        named = "" if seen.right else ", and the broken function is not named"
        yield f"caught    {_which(row.mutant)}"
        yield f"          by {seen.oracle} in {seen.test}, {row.seconds:.0f} s: {seen.title}{blamed}{named}"


def _which(mutant: Mutant) -> str:
    return f"{mutant.id} {mutant.operator}, {mutant.function}() {mutant.file}:{mutant.line}: {mutant.words}"
