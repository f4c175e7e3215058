# SPDX-License-Identifier: GPL-2.0-only
"""Owns report.html: the whole run as one file that needs no network, no script and no other file."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.records import Finding, render_frame
from harness.report import coverage, sites, text
from harness.report.results import store
from harness.verdict import Results, TestRow

TEMPLATE = "report.html.j2"
REASONS = 8
"""Shown at once; the rest is folded."""
CALLERS = 4


def render(results: Results) -> str:
    """The report. What came out of a guest is escaped, its control characters made visible."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.clean(value) if type(value) is str else value,
    )
    env.filters["duration"] = text.duration
    env.filters["frame"] = render_frame
    env.filters["callers"] = lambda finding: ", ".join(text.callers(finding)[:CALLERS])
    env.filters["place"] = text.place
    env.filters["source"] = text.source_line
    env.filters["spec"] = text.spec_line
    env.filters["stack"] = lambda stack: " < ".join(stack)
    env.filters["named"] = sites.named
    env.filters["site_kind"] = sites.kind
    env.filters["site_outcome"] = sites.outcome
    env.filters["answers"] = sites.answers
    env.filters["size"] = sites.size
    env.filters["frames"] = sites.frames
    env.filters["flags"] = sites.flags
    env.filters["summary"] = sites.summary
    env.filters["under"] = sites.under_fault
    env.filters["again"] = lambda finding, test: sites.fault_line(results, test, finding)
    env.filters["covered"] = coverage.summary
    env.filters["kept"] = text.kept_line
    env.filters["dump"] = text.dump_line
    env.filters["replay"] = text.replay_line
    env.filters["word"] = text.outcome_word
    env.filters["kind"] = _kind
    started = datetime.fromtimestamp(results.run.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return env.get_template(TEMPLATE).render(
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
    """Each finding once: the number of the test whose section shows it, that test, itself, in how many tests."""
    numbers = {id(test): number for number, test in enumerate(results.tests, start=1)}
    return [(numbers[id(test)], test, finding, times) for test, finding, times in text.distinct(results)]


def _places(results: Results) -> dict[tuple[str, str], tuple[str, Finding]]:
    """Where the page shows a finding, by kernel and signature: its anchor, and itself."""
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
