# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how much the pages for people hold, however much a kernel reports."""

from __future__ import annotations

import json
from dataclasses import replace

from harness.core.records import Outcome, encode
from harness.report import html, junit
from harness.report.trim import IN_ALL, PER_TEST, trimmed
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, SPLAT, Log, kernel, result

TREE = kernel()


def flood(many: int) -> Results:
    """A run in which one test has so many findings, the last one alone of which counts, and another has two."""
    found = [
        replace(SPLAT, signature=f"dmesg:WARN:f{number}", title=f"f{number}", expected=True) for number in range(many)
    ]
    found[-1] = replace(found[-1], expected=False)
    two = (SPLAT, replace(SPLAT, signature="dmesg:WARN:g"))
    done = (
        result(TREE, CREATE, Outcome.FAIL, findings=tuple(found)),
        result(TREE, DESTROY, Outcome.FAIL, findings=two),
    )
    return judge(Log(TREE).put(*done).events())


def test_what_is_left_out_is_said_and_what_counts_comes_first() -> None:
    results = flood(PER_TEST + 7)
    shown = trimmed(results)
    tests = {test.id: test.findings for test in shown.tests}
    assert (len(tests[CREATE]), len(tests[DESTROY])) == (PER_TEST, 2)
    assert tests[CREATE][0].counts
    assert shown.remarks[0] == f"7 findings of {PER_TEST + 9} are left out here: results.json has each"
    assert trimmed(flood(PER_TEST)) == flood(PER_TEST)
    assert sum(len(test["findings"]) for test in json.loads(json.dumps(encode(results)))["tests"]) == PER_TEST + 9


def test_the_pages_do_not_grow_with_what_a_kernel_reports() -> None:
    many = flood(100_000)
    for render in (html.render, junit.render):
        page = render(many)
        assert "are left out here" in page
        assert len(page) < 4 * len(render(flood(PER_TEST)))


def test_all_tests_together_have_their_bound() -> None:
    results = flood(PER_TEST)
    flooded = [replace(results.tests[-2], id=f"{CREATE}{number}") for number in range(50)]
    shown = trimmed(replace(results, tests=tuple(flooded)))
    assert sum(len(test.findings) for test in shown.tests) == IN_ALL
    assert [test.id for test in shown.tests] == [test.id for test in flooded]
