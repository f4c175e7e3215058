# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how coverage is told: a line on the terminal, a section of the page, and nothing where nothing was asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from harness.oracles.coverage import Coverage
from harness.records import Role
from harness.report import coverage, html, results, terminal
from harness.verdict import Results
from tests.unit.report.eventlog import Log, kernel
from tests.unit.test_verdict_coverage import NEVER, SAW, covered, judged

BASE, PATCHED = kernel(Role.BASE), kernel(Role.PATCHED)


def told(*found: Coverage) -> Results:
    """A run that compares two kernels."""
    return judged(Log(BASE, PATCHED), *found)


def test_one_line_a_kernel_under_test() -> None:
    found = told(covered(NEVER, of=BASE.id), covered(SAW, replace(SAW, line=1), NEVER, of=PATCHED.id))
    assert list(coverage.lines(found)) == [
        "x86_64 2 of 3 callers saw init_dsq() fail; 1 of 2 error branches taken in 1 function; counters of 2 tests"
    ]
    text = terminal.render(found)
    (line,) = [line for line in text.splitlines() if line.startswith("coverage")]
    assert line.startswith("coverage  x86_64 2 of 3 callers saw init_dsq() fail; 1 of 2 error branches")


def test_what_was_not_measured_is_said() -> None:
    found = told(covered(of=PATCHED.id, why="gcov of x gave no JSON"))
    assert list(coverage.lines(found)) == ["x86_64 not measured: gcov of x gave no JSON"]


def test_a_kernel_whose_function_cannot_fail() -> None:
    (line,) = coverage.lines(told(covered(of=PATCHED.id)))
    assert line.startswith("x86_64 1 of 2 error branches")


def test_the_page_has_callers_functions_and_what_was_not_taken() -> None:
    page = html.render(told(covered(SAW, replace(NEVER, text="if (a < b)"), of=PATCHED.id)))
    section = page[page.index('<h2 id="coverage">') : page.index('<h2 id="run">')]
    assert "7005: if (!pnode) return NULL;" in section
    assert "if (a &lt; b)" in section
    assert '<td class="n pass">7</td>' in section
    assert '<td class="n inconclusive">never</td>' in section
    assert "kernel/sched/ext/ext.c:7001" in section


def test_without_coverage_nobody_speaks_of_it() -> None:
    found = told()
    assert 'id="coverage"' not in html.render(found)
    assert not any(line.startswith("coverage") for line in terminal.render(found).splitlines())


def test_results_json_has_it(tmp_path: Path) -> None:
    found = told(covered(SAW, of=PATCHED.id))
    results.write(found, tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())["coverage"]
    assert row["functions"][0]["errors_not_taken"] == [{"line": 7005, "text": "if (!pnode) return NULL;"}]
    assert row["calls"][0]["failed"] == 7
    assert results.read(tmp_path) == found
