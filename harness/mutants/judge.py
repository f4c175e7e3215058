# SPDX-License-Identifier: GPL-2.0-only
"""What a run on a mutant says: whether it was caught, by what, and whether the right function is blamed."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from harness.core.records import Finding, Outcome
from harness.oracles.splat.blame import is_allocator
from harness.report.text import distinct
from harness.verdict import Results, TestRow
from harness.verdict.rows import BUILD

TOP, FAILING = 4, 2
"""A function is named if it is among so many frames from the top, or so many that asked for the allocation that failed,
or is the one that is blamed."""


class Fate(enum.StrEnum):
    """What became of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    UNCLEAR = "unclear"
    """Its run could not be judged."""
    UNREACHED = "unreached"
    """No test executes its line."""
    SAME = "same"
    """The kernel comes out the same, byte for byte."""
    UNBUILT = "unbuilt"
    """The compiler refuses it."""
    EQUIVALENT = "equivalent"
    """The user says that it breaks nothing."""


@dataclass(frozen=True)
class Seen:
    """What a run showed: the first finding, the test that had it, whether one of `functions` is named by any."""

    fate: Fate
    test: str = ""
    oracle: str = ""
    title: str = ""
    blamed: str = ""
    right: bool = False
    why: str = ""


def names(finding: Finding, functions: Collection[str]) -> bool:
    """Whether a finding names one of the functions: as the one to blame, at the top of its stack, in its words, or as
    where the allocation was that failed before it."""
    top = [frame.function for frame in finding.frames if frame.reliable][:TOP]
    failing = [name for name in (finding.site or "").split(" < ") if name and not is_allocator(name)][:FAILING]
    words = f"{finding.title} {finding.operation or ''}"
    return any(name in (finding.function, *top, *failing) or name in words for name in functions)


def _right(finding: Finding, functions: Collection[str], owners: Collection[str]) -> bool:
    """Whether a finding blames one of the functions, or, of a leak, one of the `owners` of what they free."""
    return names(finding, functions) or ("leak" in finding.kind and names(finding, owners))


def judge(results: Results, functions: Collection[str], owners: Collection[str] = ()) -> Seen:
    """The results of a run on a mutant of one of `functions`, which free what the `owners` allocate."""
    failed = [test for test in results.under_test() if test.outcome is Outcome.FAIL and not test.excused]
    if any(test.id == BUILD for test in failed):
        return Seen(Fate.UNBUILT, why=failed[0].describe())
    if failed:
        return _caught(results, failed, functions, owners)
    passed = [test for test in results.under_test() if test.outcome is Outcome.PASS]
    bad = next((test for test in results.under_test() if test.outcome is Outcome.INCONCLUSIVE), None)
    if bad is not None or not passed:
        why = f"{bad.id}: {bad.describe()}" if bad is not None else (results.why[0] if results.why else "no test ran")
        return Seen(Fate.UNCLEAR, why=why)
    return Seen(Fate.SURVIVED)


def _caught(results: Results, failed: list[TestRow], functions: Collection[str], owners: Collection[str]) -> Seen:
    found = distinct(results)
    right = any(_right(finding, functions, owners) for _, finding, _ in found)
    told = [test.model.first_disagreement or test.why for test in failed]
    right = right or any(name in words for name in functions for words in told)
    if not found:
        return Seen(Fate.CAUGHT, failed[0].id, "model", failed[0].describe(), right=right)
    test, first, _ = next((one for one in found if _right(one[1], functions, owners)), found[0])
    return Seen(Fate.CAUGHT, test.id, first.oracle, first.title, first.function or "", right)
