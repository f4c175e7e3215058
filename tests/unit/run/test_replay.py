# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the replay's verdict: it fails only if what was looked for came back."""

from __future__ import annotations

import pytest

from harness.core.errors import Exit, KharnessError
from harness.core.plan import SourceRequest
from harness.core.records import SCHEMA, Finding, Kernel, Outcome, Role, Scenario, Verdict
from harness.run.replay import compare, source_of
from harness.session.replay_file import Replay
from harness.verdict import Results, RunRow, TestRow

TEST = "tests/kernel/sched_ext/test_lifecycle.py::test_create_and_destroy"
LEAK = Finding("kmemleak", "percpu leak", "8 bytes", "kmemleak:percpu leak:init_dsq")
WARN = Finding("dmesg", "warn", "WARNING", "dmesg:warn:exit_dsq")
EXPECTED = Finding("dmesg", "warn", "WARNING", LEAK.signature, expected=True)


def kernel(source: str) -> Kernel:
    return Kernel(
        "tree-x86_64-1", "x86_64", Role.TREE, "7.2.13", source, "", "abc", False, (), "", "", "", "", "", "", 0.0, True
    )


def wanted(*signatures: str, source: str = "/home/x/linux") -> Replay:
    return Replay(SCHEMA, kernel(source), TEST, "default", 7, signatures, Scenario("default", (), 7))


def results(*tests: TestRow) -> Results:
    return Results(SCHEMA, Verdict.PASS, RunRow(), tests=tests)


def row(outcome: Outcome, *findings: Finding, name: str = TEST) -> TestRow:
    return TestRow(name, "x86_64", "tree-x86_64-1", "default", outcome, findings=findings)


@pytest.mark.parametrize(
    ("tests", "status", "says"),
    [
        ((row(Outcome.FAIL, LEAK),), Exit.FAIL, LEAK.signature),
        ((row(Outcome.FAIL, WARN, LEAK),), Exit.FAIL, LEAK.signature),
        ((row(Outcome.PASS),), Exit.PASS, "did not come back"),
        ((row(Outcome.PASS, EXPECTED),), Exit.PASS, "did not come back"),
        ((row(Outcome.FAIL, WARN),), Exit.INCONCLUSIVE, f"another finding: {WARN.signature}"),
        ((row(Outcome.INCONCLUSIVE),), Exit.INCONCLUSIVE, "could not be judged"),
        ((row(Outcome.SKIP),), Exit.INCONCLUSIVE, "could not be judged"),
        ((row(Outcome.PASS), row(Outcome.INCONCLUSIVE)), Exit.INCONCLUSIVE, "could not be judged"),
        ((), Exit.INCONCLUSIVE, "could not be judged"),
        ((row(Outcome.FAIL, LEAK, name="another::test"),), Exit.INCONCLUSIVE, "could not be judged"),
    ],
    ids=[
        "same",
        "same-among-others",
        "gone",
        "only-expected",
        "another",
        "inconclusive",
        "skipped",
        "once-unjudged",
        "not-run",
        "elsewhere",
    ],
)
def test_what_a_replay_says(tests: tuple[TestRow, ...], status: Exit, says: str) -> None:
    got, line = compare(wanted(LEAK.signature), results(*tests))
    assert got is status
    assert says in line
    assert line.startswith("replay: ") and "\n" not in line


def test_any_one_of_several_signatures_is_enough() -> None:
    assert compare(wanted("x", WARN.signature), results(row(Outcome.FAIL, WARN)))[0] is Exit.FAIL


def test_no_results_are_no_pass() -> None:
    with pytest.raises(KharnessError, match="no results"):
        compare(wanted(LEAK.signature), None)


@pytest.mark.parametrize(
    ("source", "request_"),
    [
        ("linux-source-7.2 7.2.13-1", SourceRequest(version="7.2.13-1")),
        (
            "linux-source-7.2 7.2.13-1 (the Release file is past its date (2026-11-06))",
            SourceRequest(version="7.2.13-1"),
        ),
        ("linux-source-7.3 7.3.4-1~bpo13+1", SourceRequest(version="7.3.4-1~bpo13+1")),
        ("/home/x/linux-source-7.2", SourceRequest(tree="/home/x/linux-source-7.2")),
        ("/home/x/linux-source-7.2 old", SourceRequest(tree="/home/x/linux-source-7.2 old")),
    ],
)
def test_where_the_kernel_came_from(source: str, request_: SourceRequest) -> None:
    assert source_of(wanted(source=source)) == request_
