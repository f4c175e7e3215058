# SPDX-License-Identifier: GPL-2.0-only
"""The formats in which `kharness report` writes a bisection to stdout: one function and one entry a format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.bisect import rows, show
from harness.bisect.drive import Ending
from harness.bisect.rows import Report, SearchRow
from harness.bisect.search import Find
from harness.core.errors import UsageError
from harness.core.words import plural
from harness.report import mail as mails
from harness.report import results

COMMIT = "commit"
"""What is searched where revisions are."""

_RELEASE = re.compile(r"Linux \d\S*")
"""The title of a commit that `kharness source import` made of a whole release."""


def mail(report: Report, out: Path) -> str:
    """The mail of the failing run nearest to the culprit, with what the bisection found.

    Raises UsageError where no run failed, or its results are gone.
    """
    search = next((one for one in report.searches if one.ending is Ending.FOUND), report.searches[0])
    step = search.failing
    if step is None:
        what = f"{out}: no run of this bisection failed, so there is nothing to write a mail about"
        raise UsageError(what, step="leave --format out")
    judged = results.read(out / search.folder / step.run.out)
    return mails.mail(judged, bisected(report, search))


def bisected(report: Report, search: SearchRow) -> mails.Bisected:
    """What is said of one search. A commit that stands for a whole release is none that a tag can name."""
    best = search.candidates[0] if search.candidates else None
    one = best is not None and search.ending is Ending.FOUND and report.find is Find.REGRESSION
    if best is None or not one or search.what != COMMIT or _RELEASE.fullmatch(best.title):
        return mails.Bisected(tuple(_sentences(report, search)))
    return mails.Bisected(tuple(_sentences(report, search)), best.id, best.title)


def _sentences(report: Report, search: SearchRow) -> Iterator[str]:
    role = show.role(search.ending, report.find)
    for candidate in search.candidates[: show.CANDIDATES]:
        yield f"{role}: {candidate.id} {candidate.title!r}, {show.chance(candidate.chance)}"
    yield f"searched on {search.arch}: {show.between(search)}, {plural(len(search.steps), 'run')}"
    for step in filter(None, (search.passing, search.failing)):
        yield f"{step.id[:12]} {step.title!r} {step.run.outcome}"


FORMATS: Mapping[str, Callable[[Report, Path], str]] = {"mail": mail, "json": lambda report, out: rows.render(report)}
