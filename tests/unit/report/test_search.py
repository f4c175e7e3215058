# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how a search is shown: how much it did and how fast, and of what it found each operation."""

from __future__ import annotations

from dataclasses import replace

from sched_ext.search.searching import SEARCHED

from harness.core.records import SCHEMA, Finding, Outcome, SearchSummary, Verdict
from harness.report import terminal
from harness.report.text import searched, sequence_lines
from harness.verdict import Results, RunRow, TestRow

DONE = SearchSummary(
    290, 19972, 8, 60.98, {"operations": (17499, 1.75), "loads": (459, 14.5), "loads with tasks": (0, 0.0)}
)
FINDING = Finding(
    "model",
    "disagreement",
    "create(0x0, node -1) answered 0, the model allows only -EEXIST",
    "model:disagreement::x",
    log=(
        SEARCHED,
        "2 operations in a pristine guest:",
        "  attach [] -> 0",
        "  create 0x0 node -1 -> 0",
        "BUG: of the log",
    ),
)


def results(row: TestRow) -> Results:
    return Results(SCHEMA, Verdict.FAIL, RunRow(), tests=(row,))


ROW = TestRow("t::test_search", "x86_64", "tree-x86_64-1", "default", Outcome.FAIL, findings=(FINDING,), search=DONE)


def test_a_search_in_one_line() -> None:
    assert searched(DONE) == (
        "290 sequences in 8 guests, 1 min 1 s, 19972 answers compared, 328 a second; "
        "17499 operations (9999 a second of their own), 459 loads (32 a second of their own)"
    )


def test_one_that_did_nothing() -> None:
    assert searched(SearchSummary()) == "0 sequences in 0 guests, 0.00 s, 0 answers compared"


def test_of_a_finding_its_operations_are_told_and_no_more() -> None:
    assert sequence_lines(FINDING) == [
        "2 operations in a pristine guest:",
        "  attach [] -> 0",
        "  create 0x0 node -1 -> 0",
    ]
    assert sequence_lines(replace(FINDING, log=("BUG: of the log",))) == []


def test_the_terminal_has_both() -> None:
    text = terminal.render(results(ROW))
    assert "            attach [] -> 0\n" in text
    (line,) = [line for line in text.splitlines() if line.startswith("search")]
    assert line.startswith("search    x86_64 default: 290 sequences in 8 guests")


def test_without_a_search_nobody_speaks_of_it() -> None:
    text = terminal.render(results(replace(ROW, search=None, findings=())))
    assert not any(line.startswith("search") for line in text.splitlines())
