# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how coverage is shown: a line on the terminal, a section of the page, and nothing where nothing was asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from harness.core.records import Role
from harness.coverage.claims import Claim, Kind
from harness.coverage.coverage import Coverage
from harness.coverage.lines import PatchLine, State
from harness.report import claims, coverage, html, results, terminal
from harness.verdict import Results, SiteRow
from tests.unit.report.eventlog import Log, kernel
from tests.unit.verdict.test_coverage import NEVER, SAW, covered, judged

BASE, PATCHED = kernel(Role.BASE), kernel(Role.PATCHED)


def shown(*found: Coverage) -> Results:
    """A run that compares two kernels."""
    return judged(Log(BASE, PATCHED), *found)


def test_one_line_a_kernel_under_test() -> None:
    found = shown(covered(NEVER, of=BASE.id), covered(SAW, replace(SAW, line=1), NEVER, of=PATCHED.id))
    assert list(coverage.lines(found)) == [
        "x86_64 2 of 3 callers saw init_dsq() fail; 1 of 2 error branches taken in 1 function; counters of 2 tests"
    ]
    text = terminal.render(found)
    (line,) = [line for line in text.splitlines() if line.startswith("coverage")]
    assert line.startswith("coverage  x86_64 2 of 3 callers saw init_dsq() fail; 1 of 2 error branches")


def test_what_was_not_measured_is_said() -> None:
    found = shown(covered(of=PATCHED.id, why="gcov of x gave no JSON"))
    assert list(coverage.lines(found)) == ["x86_64 not measured: gcov of x gave no JSON"]


def test_a_kernel_whose_function_cannot_fail() -> None:
    (line,) = coverage.lines(shown(covered(of=PATCHED.id)))
    assert line.startswith("x86_64 1 of 2 error branches")


def test_the_page_has_callers_functions_and_what_was_not_taken() -> None:
    page = html.render(shown(covered(SAW, replace(NEVER, text="if (a < b)"), of=PATCHED.id)))
    section = page[page.index('<h2 id="coverage">') : page.index('<h2 id="run">')]
    assert "7005: if (!pnode) return NULL;" in section
    assert "if (a &lt; b)" in section
    assert '<td class="n pass">7</td>' in section
    assert '<td class="n inconclusive">never</td>' in section
    assert "kernel/sched/ext/ext.c:7001" in section


def test_without_coverage_nobody_speaks_of_it() -> None:
    found = shown()
    assert 'id="coverage"' not in html.render(found)
    assert not any(line.startswith("coverage") for line in terminal.render(found).splitlines())


def test_results_json_has_it(tmp_path: Path) -> None:
    found = shown(covered(SAW, of=PATCHED.id))
    results.write(found, tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())["coverage"]
    assert row["functions"][0]["errors_not_taken"] == [{"line": 7005, "text": "if (!pnode) return NULL;"}]
    assert row["calls"][0]["failed"] == 7
    assert results.read(tmp_path) == found


RAN = PatchLine("a.c", 3, "\tfree(p);", State.RAN, 9, 2, ("t::one", "t::two"))
LEFT = PatchLine("a.c", 4, "\treturn <-1>;", State.NEVER, why="'!p' in line 3, tested 9 times, never held")
OFF = PatchLine("b.c", 1, "int b;", State.NOT_BUILT, why="is built only with CONFIG_B")
NOTHING = PatchLine("a.c", 5, "}", State.NO_CODE)


def test_the_patch_is_told_with_what_never_ran_first_and_on_the_last_line() -> None:
    found = shown(replace(covered(SAW, of=PATCHED.id), patch=(RAN, LEFT, OFF, NOTHING)))
    assert list(coverage.patch_lines(found)) == [
        "1 of 2 changed lines ran",
        "a.c:4 never ran: return <-1>; ('!p' in line 3, tested 9 times, never held)",
        "b.c:1 not built: int b; (is built only with CONFIG_B)",
    ]
    text = terminal.render(found)
    assert "but 1 of 2 changed lines never ran" in text.splitlines()[-1]
    page = html.render(found)
    assert "return &lt;-1&gt;;" in page and 'title="t::one, t::two"' in page and "1 of 2 changed lines ran" in page


def test_a_line_that_runs_on_one_architecture_ran() -> None:
    other = replace(covered(SAW, of=PATCHED.id), arch="arm64", patch=(replace(LEFT, state=State.RAN, times=1),))
    found = shown(replace(covered(SAW, of=PATCHED.id), patch=(RAN, LEFT)))
    both = replace(found, coverage=(*found.coverage, other))
    assert coverage.shortfall(both) == ""
    assert coverage.shortfall(found) == "1 of 2 changed lines never ran"


def test_of_many_lines_some_are_shown() -> None:
    many = tuple(replace(LEFT, line=number) for number in range(1, 20))
    found = shown(replace(covered(SAW, of=PATCHED.id), patch=many))
    assert list(coverage.patch_lines(found))[-1] == "and 14 more lines, see the report and coverage/*/patch.txt"


FAILS = Claim(Kind.FAILS, "init", "a.c", 3, "if (!p) return <-1>;", times=31, tests=5, named=("t::one", "t::two"))
HANDLED = Claim(Kind.HANDLED, "init", "a.c", 9, "ret = init(q);", "make")
CALLED = Claim(Kind.CALLED, "drop", "a.c", 12, "drop(q);", "make", times=1, tests=1, named=("t::one",))


def test_claims_are_told_with_the_tests_and_faults_that_showed_them() -> None:
    found = shown(replace(covered(SAW, of=PATCHED.id), claims=(FAILS, HANDLED, CALLED)))
    site = SiteRow("create", "failslab", ("init", "make"), injected=7, kernel=PATCHED.id)
    beside = SiteRow("create", "page", ("other", "make"), injected=9, kernel=PATCHED.id)
    found = replace(found, sites=(site, beside))
    assert list(claims.lines(found)) == [
        "2 of 3 claims of the patch shown",
        "not shown: make() handles a failure of init() (a.c:9): no test showed it",
    ]
    assert list(claims.whole(found)) == [
        "init() may fail (a.c:3): 31 times in 5 tests (one, two and 3 more); faults: failslab 7",
        "make() handles a failure of init() (a.c:9): no test showed it",
        "make() calls drop() (a.c:12): 1 time in 1 test (one)",
    ]
    assert "2 of 3 claims of the patch shown" in terminal.render(found)
    page = html.render(found)
    assert "if (!p) return &lt;-1&gt;;" in page and "faults: failslab 7" in page


def test_a_claim_that_one_architecture_shows_is_shown() -> None:
    mine = replace(covered(SAW, of=PATCHED.id), claims=(HANDLED,))
    other = replace(mine, arch="arm64", claims=(replace(HANDLED, times=2, tests=1, named=("t::two",)),))
    assert list(claims.lines(replace(shown(mine), coverage=(mine, other)))) == ["1 of 1 claim of the patch shown"]


def test_of_many_claims_that_were_not_shown_some_are_told() -> None:
    many = tuple(replace(HANDLED, line=number) for number in range(1, 20))
    found = shown(replace(covered(SAW, of=PATCHED.id), claims=many))
    assert list(claims.lines(found))[-1] == "and 14 more claims, see the report"
