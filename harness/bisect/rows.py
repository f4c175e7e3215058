# SPDX-License-Identifier: GPL-2.0-only
"""The shape of OUT/bisect.json: what a bisection found and how; the other reports are made from it.

Version 1; fields may be added, never renamed. Times are seconds of wall time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.bisect.drive import Ending
from harness.bisect.judge import Wanted
from harness.bisect.search import Find
from harness.bisect.state import Run
from harness.core import given
from harness.core.errors import Exit
from harness.core.records import SCHEMA, decode, encode
from harness.report.results import store

BISECT = "bisect.json"


@dataclass(frozen=True)
class Candidate:
    """A point that may be the culprit, with its chance; `diff` is limited to files that may take part in a build."""

    id: str
    chance: float
    title: str
    author: str = ""
    date: str = ""
    diff: str = ""


@dataclass(frozen=True)
class StepRow:
    """One run, in its order; `title` is its point's."""

    id: str
    title: str
    select: str
    run: Run


@dataclass(frozen=True)
class SearchRow:
    """The search for one architecture's failure.

    `failing` and `passing` are the runs nearest to the culprit on either side, where there are any; `dull` are the
    points that change nothing that is built, and why; `unfit` could not be judged. `folder` has its steps, relative to
    OUT.
    """

    arch: str
    what: str
    ending: Ending
    names: tuple[str, str]
    old: str
    new: str
    points: int
    wanted: Wanted
    rate: float
    interior: int
    select: str
    candidates: tuple[Candidate, ...]
    steps: tuple[StepRow, ...]
    folder: str
    failing: StepRow | None = None
    passing: StepRow | None = None
    dull: Mapping[str, str] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """OUT/bisect.json."""

    argv: tuple[str, ...]
    find: Find
    confidence: float
    searches: tuple[SearchRow, ...]
    schema: int = SCHEMA

    @property
    def exit(self) -> Exit:
        """PASS where every culprit was found."""
        found = all(search.ending is Ending.FOUND for search in self.searches)
        return Exit.PASS if found else Exit.INCONCLUSIVE


def render(report: Report) -> str:
    """The text of bisect.json."""
    return json.dumps(encode(report), indent=1) + "\n"


def write(report: Report, out: Path) -> None:
    """Writes OUT/bisect.json, whole or not at all. Raises HarnessError when the disk refuses."""
    store(out / BISECT, render(report))


def read(out: Path) -> Report:
    """The report in a folder. Raises UsageError where there is none."""
    return decode(given.value(out / BISECT, "the results of a bisection", "give the folder of one"), Report)
