# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what one run says about the failure that is looked for, and of `run --bisect-exit`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bisect.judge import UNTESTABLE, Wanted, choose, findings, narrowed, outcome, status
from harness.bisect.state import Outcome as How
from harness.cli import main
from harness.core.errors import Exit, UsageError
from harness.core.plan import Plan
from harness.core.records import Canary, Finding, Outcome, Role, Verdict
from harness.run import runner
from harness.verdict import KernelRow, Results, RunRow, TestRow

ROOT = Path(main.__file__).resolve().parents[2]
T = "tests/kernel/sched_ext/test_lifecycle.py::test_create"
U = "tests/kernel/sched_ext/test_many.py::test_many"
WARN = Finding("dmesg", "warn", "WARNING in f", "dmesg:warn:f", "f")
LEAK = Finding("kmemleak", "leak", "leak of g", "kmemleak:leak:g", "g")
WANTED = Wanted(WARN.signature, WARN.title, (T,))


def results(verdict: Verdict, *tests: TestRow, canaries: tuple[Canary, ...] = ()) -> Results:
    kernel = KernelRow("k", Role.TREE, "x86_64", "7.2", "", "", False, (), "c", "", 1.0, True)
    return Results(1, verdict, RunRow(), (kernel,), tests=tests, why=("why",), canaries=canaries)


def row(id: str, ended: Outcome, *found: Finding, why: str = "") -> TestRow:
    return TestRow(id, "x86_64", "k", "default", ended, why=why, findings=found)


P, F, I, S = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.SKIP  # noqa: E741


@pytest.mark.parametrize(
    ("shown", "how"),
    [
        (results(Verdict.PASS, row(T, P)), How.PASSES),
        (results(Verdict.FAIL, row(T, F, WARN)), How.FAILS),
        (results(Verdict.FAIL, row(T, F, LEAK, WARN)), How.FAILS),
        (results(Verdict.FAIL, row(T, P), row(U, F, WARN)), How.FAILS),
        (results(Verdict.FAIL, row(T, F, LEAK)), How.OTHER),
        (results(Verdict.FAIL, row(T, F, why="the model wants -ENOENT")), How.OTHER),
        (results(Verdict.FAIL, row(T, P), row(U, F, LEAK)), How.PASSES),
        (results(Verdict.FAIL, row("build", F, Finding("build", "build", "x.c:1: no", "build:build:x"))), How.BUILD),
        (results(Verdict.FAIL, row("boot", F, Finding("crash", "panic", "panic", "crash:panic:x"))), How.BOOT),
        (results(Verdict.INCONCLUSIVE, row(T, I, why="kmemleak was not watching")), How.UNCLEAR),
        (results(Verdict.INCONCLUSIVE, row(T, S, why="this kernel has none")), How.UNCLEAR),
        (results(Verdict.INCONCLUSIVE, row(T, P)), How.UNCLEAR),
        (results(Verdict.PASS, row(U, P)), How.UNCLEAR),
        (results(Verdict.FAIL, row(T, P), row(U, F, LEAK), canaries=(Canary("dmesg", "k", False),)), How.UNCLEAR),
        (results(Verdict.FAIL, row(T, F, replace(WARN, expected=True), LEAK)), How.OTHER),
    ],
)
def test_what_a_run_says(shown: Results, how: How) -> None:
    assert outcome(shown, WANTED)[0] is how


def test_without_anything_looked_for_any_failure_counts() -> None:
    assert outcome(results(Verdict.FAIL, row(U, F, LEAK)), None) == (How.FAILS, "leak of g")
    assert outcome(results(Verdict.PASS, row(U, P)), None)[0] is How.PASSES
    assert outcome(results(Verdict.INCONCLUSIVE, row(U, I)), None)[0] is How.UNCLEAR
    assert outcome(results(Verdict.FAIL, row("build", F, WARN)), None)[0] is How.FAILS


def test_a_break_of_the_build_may_be_looked_for() -> None:
    slip = Finding("build", "build", "x.c:1: slip", "build:build:slip")
    wanted = choose(findings(results(Verdict.FAIL, row("build", F, slip))))
    assert outcome(results(Verdict.FAIL, row("build", F, slip)), wanted)[0] is How.FAILS
    other = replace(slip, signature="build:build:other")
    assert outcome(results(Verdict.FAIL, row("build", F, other)), wanted)[0] is How.BUILD
    assert outcome(results(Verdict.FAIL, row("build", P), row(T, F, LEAK)), wanted)[0] is How.PASSES


def test_words_of_a_test_without_findings_are_its_signature() -> None:
    shown = results(Verdict.FAIL, row(T, F, why="destroy(7) answered 0 after 1.25 s, the model wants -ENOENT"))
    wanted = choose(findings(shown))
    again = results(Verdict.FAIL, row(T, F, why="destroy(7) answered 0 after 2.75 s, the model wants -ENOENT"))
    assert outcome(again, wanted)[0] is How.FAILS
    elsewhere = results(Verdict.FAIL, row(T, P), row(U, F, why=again.tests[0].why))
    assert outcome(elsewhere, wanted)[0] is How.PASSES, "another test's words are another failure"


def test_which_failure_is_looked_for() -> None:
    found = findings(results(Verdict.FAIL, row(T, F, WARN), row(U, F, WARN, LEAK)))
    assert choose(found).tests == (T, U)
    assert choose(found, "kmemleak:*").signature == LEAK.signature
    with pytest.raises(UsageError, match="no finding of signature 'crash:.'"):
        choose(found, "crash:*")


def test_all_that_the_users_pattern_fits_is_the_failure() -> None:
    """A signature that is another at each run: the user's own pattern holds them together; brackets are no wildcards."""
    odd = replace(WARN, signature="dmesg:warn:f[3]<g")
    wanted = choose(findings(results(Verdict.FAIL, row(T, F, LEAK, odd))), "dmesg:warn:f[3]<*")
    assert wanted.signature == odd.signature
    again = results(Verdict.FAIL, row(T, F, replace(odd, signature="dmesg:warn:f[3]<h")))
    assert outcome(again, wanted)[0] is How.FAILS
    assert outcome(results(Verdict.FAIL, row(T, F, LEAK)), wanted)[0] is How.OTHER
    assert outcome(again, choose(findings(results(Verdict.FAIL, row(T, F, odd)))))[0] is How.OTHER


@pytest.mark.parametrize(
    ("tests", "select", "shown"),
    [
        ((T,), "", "test_create"),
        ((f"{T}[7]", U), "dsq", "(dsq) and (test_create or test_many)"),
        (("batch::kmemleak",), "dsq", "dsq"),
        (("build",), "", ""),
        (("selftests::maximal",), "", "maximal"),
        (tuple(f"x.py::test_{number}" for number in range(9)), "", ""),
    ],
)
def test_the_tests_that_had_it_alone(tests: tuple[str, ...], select: str, shown: str) -> None:
    assert narrowed(Wanted("s", "t", tests), select) == shown


# --- for git bisect run ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "number"),
    [
        (results(Verdict.PASS, row(T, P)), 0),
        (results(Verdict.FAIL, row(T, F, WARN)), 1),
        (results(Verdict.REGRESSED, row(T, F, WARN)), 1),
        (results(Verdict.INCONCLUSIVE, row(T, I)), 125),
        (results(Verdict.FAIL, row("build", F, WARN)), 125),
        (results(Verdict.FAIL, row("build", P), row("boot", F, WARN)), 125),
        (results(Verdict.FAIL, row("boot", F, WARN), row(T, F, WARN)), 1),
    ],
)
def test_statuses_for_git(shown: Results, number: int) -> None:
    assert status(shown) == number
    assert UNTESTABLE == 125


def test_the_command_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def conduct(plan: Plan, ended: object = None) -> int:
        return status(results(Verdict.FAIL, row("build", F, WARN))) if ended else Exit.FAIL

    monkeypatch.setattr(runner, "conduct", conduct)
    assert CliRunner().invoke(main.app, ["run", "--bisect-exit"]).exit_code == 125
    assert CliRunner().invoke(main.app, ["run"]).exit_code == 1


@pytest.mark.parametrize(
    ("args", "number"), [(["--tree", "/no/such"], 128), (["--treee", "x"], 128), (["--arch", "vax"], 128)]
)
def test_what_is_no_commits_fault_ends_git_bisect(args: list[str], number: int) -> None:
    """A mistake, also one that the command line's parser finds: 2 would be a bad commit, and so the wrong answer."""
    argv = [sys.executable, "-m", "harness", "run", "--bisect-exit", *args]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == number, done.stderr
    without = [word for word in argv if word != "--bisect-exit"]
    assert subprocess.run(without, cwd=ROOT, capture_output=True).returncode == 2


def test_git_bisect_run_stops_at_a_mistake(tmp_path: Path) -> None:
    """The whole of it with git itself: a host in trouble ends the bisection and no commit is called bad."""
    from tests.unit.source.kernel_trees import git, git_tree

    folder = git_tree(tmp_path / "linux")
    for number in range(6):
        git(folder, "commit", "-q", "--allow-empty", "-m", str(number))
    git(folder, "bisect", "start", "HEAD", "HEAD~6")
    argv = ["git", "-C", str(folder), "bisect", "run", "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "harness"]
    done = subprocess.run([*argv, "run", "--bisect-exit", "--arch", "vax"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "128" in done.stdout + done.stderr
    assert "first bad commit" not in done.stdout
