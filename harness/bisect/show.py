# SPDX-License-Identifier: GPL-2.0-only
"""The output of a bisection: on the terminal, and as report.html."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.bisect.drive import Ending
from harness.bisect.history import called
from harness.bisect.rows import Candidate, Report, SearchRow, StepRow
from harness.bisect.search import Find
from harness.core.words import plural
from harness.report.page import page
from harness.report.results import store
from harness.report.text import clean, duration, one_line

TEMPLATE = "bisect.html.j2"
WIDTH = 100
DIFF_LINES = 40
CANDIDATES = 8
_LABEL = 11


def render(report: Report, path: str) -> str:
    """The summary as plain text, the verdict on its last line; `path` is where the reader finds the rest."""
    lines = [line for search in report.searches for line in _search(search, report.find)]
    return "\n".join([*map(one_line, lines), verdict(report, path)]) + "\n"


def verdict(report: Report, path: str) -> str:
    """The last line."""
    parts = [f"{search.arch} {_found(search, report.find)}" for search in report.searches]
    return one_line(f"bisect: {'; '.join(parts)}  {path}".rstrip())


def _found(search: SearchRow, find: Find) -> str:
    best = search.candidates[0] if search.candidates else None
    word = "FIXED BY" if find is Find.FIXED else "BROUGHT IN BY"
    if search.ending is Ending.FOUND and best:
        return f"{word} {best.id[:12]} {best.title!r}, {chance(best.chance)}"
    if search.ending is Ending.SEVERAL:
        return f"{word} ONE OF {plural(len(search.candidates), search.what)}, which cannot be distinguished"
    return f"CONTRADICTION: no single {search.what} explains the runs"


def role(ending: Ending, find: Find) -> str:
    """The name of a candidate: a point that introduced a failure is a culprit, one that fixed it is not."""
    if ending is not Ending.FOUND:
        return "candidate"
    return "fixed by" if find is Find.FIXED else "culprit"


def between(search: SearchRow) -> str:
    """The range of the search: the number of points, and the ends."""
    ends = f"{called(search.names[0], search.old)} and {called(search.names[1], search.new)}"
    return f"{plural(search.points, search.what)} between {ends}"


def nothing(search: SearchRow) -> str:
    """How many points needed no run; empty if none."""
    return f"nothing that is built changes in {plural(len(search.dull), search.what)}" if search.dull else ""


def chance(value: float) -> str:
    """A probability in per cent, never rounded up to certainty."""
    return f"{min(int(value * 10000) / 100, 99.99):g} %" if value < 1 else "100 %"


def _entry(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        clean(text),
        WIDTH,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [label]


def _search(search: SearchRow, find: Find) -> Iterator[str]:
    """One architecture's part."""
    yield from _entry(search.arch, "; ".join(filter(None, (between(search), nothing(search)))))
    often = "each time" if search.rate > 0.95 else f"in about {search.rate:.0%} of the runs"
    yield from _entry("looked for", f"{search.wanted.title}, {often}, in {', '.join(search.wanted.tests[:3])}")
    for number, step in enumerate(search.steps, 1):
        yield from _entry("steps" if number == 1 else "", step_line(number, step))
    for id in search.unfit:
        yield from _entry("not judged", id[:12])
    for candidate in search.candidates[:CANDIDATES]:
        yield from _candidate(candidate, role(search.ending, find), whole=search.ending is Ending.FOUND)
    if len(search.candidates) > CANDIDATES:
        yield from _entry("", f"and {len(search.candidates) - CANDIDATES} more")
    for label, step_ in (("before", _sides(search, find)[0]), ("after", _sides(search, find)[1])):
        if step_ is not None:
            yield from _entry(label, outcome_line(step_))
    builds = plural(search.interior, "kernel")
    took = duration(sum(step.run.seconds for step in search.steps))
    yield from _entry("effort", f"{builds} between the ends, {plural(len(search.steps), 'run')}, {took}")


def _sides(search: SearchRow, find: Find) -> tuple[StepRow | None, StepRow | None]:
    """The runs nearest to the culprit, before and after it."""
    both = (search.passing, search.failing)
    return both if find is Find.REGRESSION else (both[1], both[0])


def step_line(number: int, step: StepRow) -> str:
    """One run in one line."""
    run = step.run
    built = f", built in {duration(run.build_seconds)}" if run.fresh else ""
    fixup = f", with {', '.join(run.fixups)}" if run.fixups else ""
    return f"{number:3} {step.id[:12]} {run.outcome:<7} {duration(run.seconds)}{built}{fixup}  {step.title[:50]}"


def outcome_line(step: StepRow) -> str:
    """A test's result at a point: its finding, or that it passed."""
    found = step.run.findings[0] if step.run.findings else None
    where = f" at {found.place}" if found and found.place else ""
    return f"{step.id[:12]} {step.run.outcome}: {found.title if found else step.run.why}{where}"


def _candidate(candidate: Candidate, label: str, *, whole: bool) -> Iterator[str]:
    yield from _entry(label, f"{candidate.id} {candidate.title}, {chance(candidate.chance)}")
    if candidate.author:
        yield from _entry("", f"{candidate.author}, {candidate.date}")
    lines = candidate.diff.splitlines() if whole else []
    if len(lines) > DIFF_LINES and (files := changed(candidate.diff)):
        yield from _entry("", f"changes {plural(len(files), 'file')} that may take part: {', '.join(files)}")
    for line in lines[:DIFF_LINES]:
        yield " " * _LABEL + one_line(line)
    if len(lines) > DIFF_LINES:
        yield " " * _LABEL + f"and {plural(len(lines) - DIFF_LINES, 'more line')}"


def changed(diff: str) -> list[str]:
    """The files that git's diff changes, in its order."""
    return [row.rpartition(" b/")[2] for row in diff.splitlines() if row.startswith("diff --git a/")]


def html(report: Report) -> str:
    """report.html, as one file that needs no other."""
    filters: dict[str, Callable[..., object]] = {
        "chance": chance,
        "sides": lambda search: _sides(search, report.find),
        "outcome": outcome_line,
        "role": lambda search: role(search.ending, report.find),
        "between": between,
        "nothing": nothing,
    }
    line, argv = verdict(report, ""), shlex.join(report.argv)
    return page(Path(__file__).with_name(TEMPLATE), filters, r=report, line=line, argv=argv)


def write_html(report: Report, path: Path) -> None:
    """Writes the page whole or not at all. Raises HarnessError when the disk refuses."""
    store(path, html(report))
