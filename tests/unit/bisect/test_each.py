# SPDX-License-Identifier: GPL-2.0-only
"""The tests of a series patch by patch: what counts against a patch, what fixes it, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.bisect import each
from harness.bisect.each import SeriesStep, judged
from harness.bisect.judge import Wanted
from harness.bisect.state import Finding, Outcome, Run, State
from harness.core.errors import Exit, UsageError
from harness.core.plan import KernelRequest, Plan, SourceRequest

POINTS = {"base": "the base", "p0001": "make it", "p0002": "break it", "p0003": "fix it"}
GOOD = Run(Outcome.PASSES, tests=14, seconds=30.0)


def fails(*signatures: str) -> Run:
    return Run(Outcome.FAILS, signatures[0], tuple(Finding(one, one, "t::x") for one in signatures), tests=14)


def steps(*runs: Run) -> list[SeriesStep]:
    return list(judged("x86_64", dict(list(POINTS.items())[: len(runs)]), runs))


def test_a_series_that_passes_at_each_step() -> None:
    done = steps(GOOD, GOOD, GOOD)
    assert each.verdict(done) is Exit.PASS
    assert each.summary(done) == "2 steps of the series build, boot and pass as the base does"
    assert list(each.describe(done))[1] == "x86_64    1/2 make it: passes (14 tests, 30 s)"


def test_the_first_that_fails_is_named_and_who_fixes_it() -> None:
    done = steps(GOOD, GOOD, fails("leak"), GOOD)
    assert each.verdict(done) is Exit.FAIL
    assert each.summary(done) == "1 of 3 steps fail; the first is x86_64 2, 'break it', and patch 3 fixes it"
    assert "2/3 break it: FAILS: leak; patch 3 fixes that" in list(each.describe(done))[2]


def test_a_build_that_breaks_in_the_middle_counts() -> None:
    broken = Run(Outcome.BUILD, "a.c:3: error: no")
    done = steps(GOOD, broken, GOOD)
    assert each.verdict(done) is Exit.FAIL
    assert "1/2 make it: DOES NOT BUILD: a.c:3: error: no; patch 2 fixes that" in list(each.describe(done))[1]


def test_what_fails_on_the_base_speaks_against_no_patch() -> None:
    done = steps(fails("old"), fails("old"), fails("old", "new"))
    assert [step.new for step in done] == [(), (), ("new",)]
    assert "1/2 make it: fails as the base does: old" in list(each.describe(done))[1]


def test_another_failure_does_not_fix_the_first() -> None:
    done = steps(GOOD, fails("one"), Run(Outcome.UNCLEAR, "lost"), fails("two"))
    assert done[1].fixed_by == 3, "there it is gone, though something else fails"
    assert done[3].fixed_by == 0


def test_a_step_that_cannot_be_judged_is_no_pass() -> None:
    done = steps(GOOD, Run(Outcome.UNCLEAR, "lost"))
    assert each.verdict(done) is Exit.INCONCLUSIVE
    assert "could not be judged: lost" in list(each.describe(done))[1]


def test_the_same_call_goes_on(tmp_path: Path) -> None:
    made: list[tuple[Any, ...]] = []

    def step(id: str, number: int, wanted: Wanted | None, select: str) -> Run:
        made.append((id, number, wanted, select))
        return GOOD

    for points in (dict(list(POINTS.items())[:2]), POINTS):
        state = State.open(tmp_path, {"patches": ["a"]})
        assert each._runs(points, step, "faults", state, lambda line: None) == [GOOD] * len(points)
        state.close()
    assert [id for id, *_ in made] == list(POINTS)
    assert made[0][1:] == (0, None, "faults")


def test_without_a_series_there_is_nothing_to_do() -> None:
    with pytest.raises(UsageError, match="--each needs a series"):
        each.run(Plan((KernelRequest(SourceRequest(tree="/linux"), "x86_64"),), 7))
