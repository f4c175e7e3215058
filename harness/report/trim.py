# SPDX-License-Identifier: GPL-2.0-only
"""How many findings a page for people holds: a kernel that reports without end must not make it without end."""

from __future__ import annotations

from dataclasses import replace

from harness.core.words import plural
from harness.verdict import Results, TestRow

PER_TEST, IN_ALL = 200, 2000
"""Findings that are shown of one test, and of a run."""


def trimmed(results: Results) -> Results:
    """The results with only the findings to show, those that count first; a remark says how many are left out."""
    budget, tests = IN_ALL, []
    for test in sorted(results.tests, key=lambda test: not test.bad):
        kept = _first(test, min(PER_TEST, budget))
        budget -= len(kept.findings)
        tests.append(kept)
    every = sum(len(test.findings) for test in results.tests)
    left = every - sum(len(test.findings) for test in tests)
    if not left:
        return results
    shown = {(test.kernel, test.machine, test.id): test for test in tests}
    note = f"{plural(left, 'finding')} of {every} {'is' if left == 1 else 'are'} left out here: results.json has each"
    return replace(
        results,
        tests=tuple(shown[test.kernel, test.machine, test.id] for test in results.tests),
        remarks=(note, *results.remarks),
    )


def _first(test: TestRow, most: int) -> TestRow:
    if len(test.findings) <= most:
        return test
    return replace(test, findings=tuple(sorted(test.findings, key=lambda one: not one.counts)[:most]))
