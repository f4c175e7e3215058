# SPDX-License-Identifier: GPL-2.0-only
"""report.html: the whole run as one file that needs no network, no script and no other file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from harness.core.records import Finding, render_frame
from harness.report import claims, coverage, sites, text
from harness.report.page import page
from harness.report.results import store
from harness.report.trim import trimmed
from harness.verdict import Results, TestRow

FILE = "report.html"
TEMPLATE = "report.html.j2"
REASONS = 8
"""Shown at once; the rest is folded."""
CALLERS = 4


def render(results: Results) -> str:
    """The report. Output of a guest is escaped, with its control characters made visible."""
    results = trimmed(results)
    filters: dict[str, Callable[..., object]] = {
        "frame": render_frame,
        "callers": lambda finding: ", ".join(text.callers(finding)[:CALLERS]),
        "place": text.place,
        "source": text.source_line,
        "spec": text.spec_line,
        "stack": lambda stack: " < ".join(stack),
        "named": sites.named,
        "site_kind": sites.kind,
        "site_outcome": sites.outcome,
        "answers": sites.answers,
        "size": sites.size,
        "frames": sites.frames,
        "flags": sites.flags,
        "summary": sites.summary,
        "under": sites.under_fault,
        "again": lambda finding, test: sites.fault_line(results, test, finding),
        "fate": text.fate_line,
        "covered": coverage.summary,
        "evidence": lambda claim: claims.evidence(results, claim),
        "kept": text.kept_line,
        "dump": text.dump_line,
        "replay": lambda test: text.replay_line(results, test),
        "word": text.outcome_word,
        "kind": _kind,
    }
    started = datetime.fromtimestamp(results.run.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return page(
        Path(__file__).with_name(TEMPLATE),
        filters,
        r=results,
        sums=text.totals(results),
        order=_order(results),
        found=_found(results),
        tables=sites.tables(results),
        places=_places(results),
        started=started,
        reasons=REASONS,
        argv=shlex.join(results.run.argv),
        verdict_line=text.verdict_line(results, ""),
    )


def write(results: Results, path: Path) -> None:
    """Write the report whole or not at all. Raises HarnessError when the disk refuses."""
    store(path, render(results))


def _kind(test: TestRow) -> str:
    """The class a test is filtered and coloured by."""
    if test.bad and test.excused:
        return "known"
    return "inconclusive" if test.flaky else str(test.outcome)


def _found(results: Results) -> list[tuple[int, TestRow, Finding, int]]:
    """Each finding once: the number of the test whose section shows it, that test, the finding, in how many tests."""
    numbers = {id(test): number for number, test in enumerate(results.tests, start=1)}
    return [(numbers[id(test)], test, finding, times) for test, finding, times in text.distinct(results)]


def _places(results: Results) -> dict[tuple[str, str], tuple[str, Finding]]:
    """Where the page shows a finding, by kernel and signature: its anchor, and the finding."""
    found: dict[tuple[str, str], tuple[str, Finding]] = {}
    for number, test in enumerate(results.tests, start=1):
        for place, finding in enumerate(test.findings, start=1):
            found.setdefault((test.kernel, finding.signature), (f"t{number}-f{place}", finding))
    return found


def _order(results: Results) -> list[tuple[int, TestRow]]:
    """The tests, worst first, with the numbers that their anchors carry: the order they ran in."""
    rank = ("fail", "inconclusive", "known", "skip", "pass")
    numbered = list(enumerate(results.tests, start=1))
    return sorted(numbered, key=lambda item: (rank.index(_kind(item[1])), item[0]))
