# SPDX-License-Identifier: GPL-2.0-only
"""The tests of base against patched: what each change is called and what it means for the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.core.records import Canary, Event, EventKind, Outcome, Role, Verdict, encode
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, SPLAT, Log, kernel, machine, result

BASE, PATCHED = kernel(Role.BASE), kernel(Role.PATCHED, tree="fe" * 32)
FAIL, INCONCLUSIVE, PASS, SKIP = Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP


def judged(log: Log) -> Results:
    return judge(log.events())


def pair(base: Any = None, patched: Any = None) -> Log:
    """Base and patched, each with its result of CREATE; None leaves that side's pass."""
    log = Log(BASE, PATCHED)
    log.put(result(BASE, CREATE, **(base or {})))
    return log.put(result(PATCHED, CREATE, **(patched or {})))


def change(results: Results, test: str = CREATE) -> str:
    return {row.id: row.change for row in results.comparison}[test]


def assert_inconclusive(results: Results, *words: str) -> None:
    assert results.verdict is Verdict.INCONCLUSIVE
    for word in words:
        assert word in "\n".join(results.why)


def test_nothing_changed() -> None:
    results = judged(pair())
    assert results.verdict is Verdict.PASS
    assert {row.change for row in results.comparison} == {"same"}


def test_regressed() -> None:
    results = judged(pair(patched={"outcome": FAIL, "findings": (LEAK,)}))
    assert (results.verdict, change(results)) == (Verdict.REGRESSED, "regressed")
    assert "x86_64" in results.why[0] and LEAK.title in results.why[0]
    assert not any(test.excused for test in results.tests)


def test_fixed() -> None:
    results = judged(pair(base={"outcome": FAIL, "findings": (LEAK,)}))
    assert (results.verdict, change(results)) == (Verdict.PASS, "fixed")


def test_a_failure_that_base_has_too_is_shown_and_excused() -> None:
    both = {"outcome": FAIL, "findings": (LEAK,)}
    results = judged(pair(both, both))
    assert (results.verdict, change(results)) == (Verdict.PASS, "still-failing")
    bad = [test for test in results.tests if test.outcome is FAIL]
    assert len(bad) == 2 and all(test.excused for test in bad)
    assert results.why == ("1 test fails, and fails on base in the same way; all else passed",)


def test_another_failure_than_base_has_is_a_regression() -> None:
    results = judged(pair({"outcome": FAIL, "findings": (LEAK,)}, {"outcome": FAIL, "findings": (LEAK, SPLAT)}))
    assert (results.verdict, change(results)) == (Verdict.REGRESSED, "regressed")


def test_failures_without_findings_are_compared_by_their_words() -> None:
    def fails(why: str) -> dict[str, Any]:
        return {"outcome": FAIL, "why": why}

    assert change(judged(pair(fails("0xffff888003c0 gone after 1.5 s"), fails("0xffff88800ff0 gone after 1.7 s")))) == (
        "still-failing"
    )
    assert change(judged(pair(fails("answered -12"), fails("answered 0")))) == "regressed"


def test_passed_on_base_and_skipped_on_patched() -> None:
    results = judged(pair(patched={"outcome": SKIP}))
    assert (results.verdict, change(results)) == (Verdict.REGRESSED, "regressed")


def test_failed_on_base_and_skipped_on_patched_tells_nothing() -> None:
    results = judged(pair({"outcome": FAIL, "why": "x"}, {"outcome": SKIP}))
    assert change(results) == "inconclusive"
    assert_inconclusive(results)


def test_skipped_on_base_and_passed_on_patched() -> None:
    assert change(judged(pair(base={"outcome": SKIP}))) == "fixed"


@pytest.mark.parametrize("side", ["base", "patched"])
def test_inconclusive_on_either_side(side: str) -> None:
    results = judged(pair(**{side: {"outcome": INCONCLUSIVE, "why": "the agent died"}}))
    assert change(results) == "inconclusive"
    assert_inconclusive(results, "the agent died")


def test_a_failure_is_not_excused_by_an_inconclusive_base() -> None:
    results = judged(pair({"outcome": INCONCLUSIVE, "why": "x"}, {"outcome": FAIL, "findings": (LEAK,)}))
    assert (results.verdict, change(results)) == (Verdict.FAIL, "inconclusive")


def test_flaky() -> None:
    results = judged(pair(patched={"attempts": 2}))
    assert change(results) == "flaky"
    assert_inconclusive(results, "attempt 2")
    for base in ({"attempts": 2}, {"outcome": FAIL, "why": "x"}):
        results = judged(pair(base, {"attempts": 2}))
        assert (results.verdict, change(results)) == (Verdict.PASS, "flaky")
    results = judged(pair(base={"attempts": 2}))
    assert (results.verdict, change(results)) == (Verdict.PASS, "flaky")


def test_missing_on_patched() -> None:
    log = pair()
    log.collected = [DESTROY]
    log.results = [r for r in log.results if (r.kernel, r.id) != (PATCHED.id, CREATE)]
    results = judged(log)
    assert change(results) == "missing"
    assert_inconclusive(results, CREATE)


@pytest.mark.parametrize("what", ["build", "boot"])
def test_a_patch_that_breaks_build_or_boot_regresses(what: str) -> None:
    results = judged(Log(BASE, PATCHED).fall(PATCHED, what))
    assert (results.verdict, change(results, what)) == (Verdict.REGRESSED, "regressed")
    assert len(results.why) == 1


@pytest.mark.parametrize("what", ["build", "boot"])
@pytest.mark.parametrize("also", ["build", "boot"])
def test_a_base_that_does_not_come_up_either_leaves_it_open(what: str, also: str) -> None:
    results = judged(Log(BASE, PATCHED).fall(BASE, also).fall(PATCHED, what))
    if (also, what) == ("boot", "build"):
        assert results.verdict is Verdict.REGRESSED  # base at least compiled
    else:
        assert_inconclusive(results, "does not")


def test_a_patch_that_mends_the_boot() -> None:
    log = Log(BASE, PATCHED).fall(BASE)
    results = judged(log)
    assert (results.verdict, change(results, "boot"), change(results)) == (Verdict.PASS, "fixed", "missing")
    results = judged(log.put(result(PATCHED, CREATE, FAIL, why="x")))
    assert results.verdict is Verdict.FAIL


def test_patched_without_base_is_not_compared_but_still_fails() -> None:
    assert_inconclusive(judged(Log(PATCHED)), "no base kernel")
    assert judged(Log(PATCHED).put(result(PATCHED, CREATE, FAIL, why="x"))).verdict is Verdict.FAIL
    assert_inconclusive(judged(Log(BASE)), "no kernel under test")


def test_the_worst_machine_gives_the_change() -> None:
    log = pair()
    events = log.events()
    wide = [event for of, outcome in ((BASE, PASS), (PATCHED, FAIL)) for event in _on_wide(of, outcome, events[0])]
    results = judge([*events[:-2], *wide, *events[-2:]])
    assert (results.verdict, change(results)) == (Verdict.REGRESSED, "regressed")


def _on_wide(of: Any, outcome: Outcome, like: Event) -> list[Event]:
    spec = replace(machine(of).spec, name="wide", possible_cpus=64)
    done = replace(result(of, CREATE, outcome, why="x"), machine="wide")
    return [
        replace(like, kind=EventKind.MACHINE, kernel=of.id, data=encode(replace(machine(of), spec=spec))),
        replace(like, kind=EventKind.CANARY, kernel=of.id, data=encode(Canary("dmesg", of.id, True, machine="wide"))),
        replace(like, kind=EventKind.TEST_START, kernel=of.id, test=CREATE, data={"machine": "wide"}),
        replace(like, kind=EventKind.TEST_END, kernel=of.id, test=CREATE, data=encode(done)),
    ]


def test_a_base_that_does_not_boot_on_one_machine_leaves_the_patched_kernel_alone() -> None:
    log = pair()
    log.results.append(result(PATCHED, CREATE, machine="wide"))
    assert_inconclusive(judged(log), "missing")
    boots = [result(BASE, "boot", evidence=()), result(BASE, "boot", FAIL, machine="wide", evidence=(), why="x")]
    log.results += boots
    assert judged(log).verdict is Verdict.PASS


def test_base_alone_on_one_architecture() -> None:
    arm = kernel(Role.BASE, "arm64")
    log = pair()
    events = [*log.events()[:-1], *(e for e in Log(arm).events() if e.kernel == arm.id), log.events()[-1]]
    assert_inconclusive(judge(events), "arm64: no patched kernel")


# --- a patch that changes nothing ---------------------------------------------------------------


IDLE = "the patch changes nothing that is built: fs/x.c needs CONFIG_X"


def test_a_patch_that_changes_nothing_is_inconclusive() -> None:
    results = judged(Log(BASE, PATCHED).spare(BASE, PATCHED, why=IDLE, step="--kconfig out/enable.config"))
    assert_inconclusive(results, f"x86_64: {IDLE}")
    assert len(results.why) == 1
    assert results.next.endswith("--kconfig out/enable.config")


def test_one_architecture_may_be_left_as_it_was() -> None:
    arms = kernel(Role.BASE, "arm64"), kernel(Role.PATCHED, "arm64", tree="fe" * 32)
    results = judged(Log(BASE, PATCHED, *arms).spare(BASE, PATCHED, why=IDLE))
    assert results.verdict is Verdict.PASS
    assert {row.arch for row in results.comparison if row.id != "build"} == {"arm64"}


def test_a_regression_counts_where_another_architecture_is_left_as_it_was() -> None:
    base, patched = kernel(Role.BASE, "arm64"), kernel(Role.PATCHED, "arm64", tree="fe" * 32)
    log = Log(BASE, PATCHED, base, patched).spare(BASE, PATCHED, why=IDLE)
    results = judged(log.put(result(patched, CREATE, FAIL, findings=(LEAK,))))
    assert results.verdict is Verdict.REGRESSED


def test_a_patch_that_changes_something_says_so_and_is_not_compared() -> None:
    results = judged(pair().put(result(PATCHED, "patch", PASS)))
    assert results.verdict is Verdict.PASS
    assert "patch" not in {row.id for row in results.comparison}


def test_a_batch_with_nothing_to_repeat_has_not_regressed() -> None:
    """It repeats what passed: where all tests of a guest fail they speak for themselves."""
    log = pair(patched={"outcome": FAIL, "findings": (LEAK,)})
    log.put(result(BASE, "batch::kmemleak-0"), result(PATCHED, "batch::kmemleak-0", SKIP))
    results = judged(log)
    assert change(results, "batch::kmemleak-0") == "inconclusive"
    assert not any("batch" in line for line in results.why)
