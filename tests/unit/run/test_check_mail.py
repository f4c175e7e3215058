# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a check of b4: what is tested of a mail, and what is answered, whatever came of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import Exit, HarnessError, UsageError
from harness.core.options import Options
from harness.core.plan import Plan
from harness.core.records import Canary, Verdict
from harness.report import html
from harness.run import check_mail, runner
from harness.run.check_mail import Answer
from harness.source import series, tracked
from harness.verdict import Results, judge
from tests.unit.report.eventlog import MACHINE, Log
from tests.unit.report.test_mail import PAIR, compared
from tests.unit.source.test_tracked import COVER, World, patch

ONE = patch(1).replace(" 1/2]", "]").encode()
OPTIONS = Options(arch="x86_64", select="lifecycle")


def passing() -> Results:
    return judge(Log(*PAIR).events())


def inconclusive() -> Results:
    log = Log(*PAIR)
    log.canaries[1] = Canary("kmemleak", PAIR[0].id, False, "disabled itself", MACHINE)
    return judge(log.events())


class Run:
    """Stands for the runner: remembers the plan and the patches as they were when it was asked."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.titles: list[str] = []
        self.ends: Results | Exception = passing()

    def conduct(self, plan: Plan, status: Callable[[Results], int]) -> int:
        self.plan = plan
        self.titles = [found.name for found in series.read(plan.kernels[-1].patches)]
        print("what a run prints")
        if isinstance(self.ends, Exception):
            raise self.ends
        out = Path(plan.options.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / html.FILE).write_text("")
        return status(self.ends)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    it = Run()
    monkeypatch.setattr(runner, "conduct", it.conduct)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(tracked.TRACKING, raising=False)
    (tmp_path / "linux").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "linux")
    return it


def asked(run: Run) -> Plan:
    assert run.plan is not None
    return run.plan


def check(text: bytes = ONE, *words: str, options: Options = OPTIONS) -> tuple[Answer, int]:
    return check_mail.check(options, text, words)


@pytest.mark.parametrize(
    ("ends", "status", "exit"),
    [(passing, "pass", Exit.PASS), (compared, "fail", Exit.FAIL), (inconclusive, "warn", Exit.INCONCLUSIVE)],
)
def test_each_verdict_is_a_status_of_b4(
    run: Run, capsys: pytest.CaptureFixture[str], ends: Callable[[], Results], status: str, exit: Exit
) -> None:
    run.ends = ends()
    answer, code = check()
    assert (answer.status, code) == (status, exit)
    assert answer.summary.startswith(f"{str(run.ends.verdict).upper()}: ") and "\n" not in answer.summary
    assert answer.details.startswith("Subject: ")
    assert answer.url == (Path(asked(run).options.out) / html.FILE).as_uri()
    assert capsys.readouterr().out == "", "stdout is for the answer alone"


def test_every_verdict_has_a_status() -> None:
    assert set(check_mail.STATUS) == set(Verdict)


def test_the_tree_is_where_it_is_started_and_nothing_is_written_there(run: Run, tmp_path: Path) -> None:
    check(ONE, "--arch", "x86_64")
    plan = asked(run)
    assert {kernel.source.tree for kernel in plan.kernels} == {str(tmp_path / "linux")}
    assert Path(plan.options.out).is_relative_to(tmp_path / "cache/kharness")
    assert not any((tmp_path / "linux").iterdir())
    again = ("kharness", "run", "--arch", "x86_64", "--tree", str(tmp_path / "linux"), "--patch")
    assert plan.argv == (*again, f"{plan.options.out}/patches")


def test_a_kernel_or_a_tree_that_is_named_is_taken(run: Run) -> None:
    check(ONE, "--kernel", "7.2", options=replace(OPTIONS, kernel="7.2"))
    assert {kernel.source.version for kernel in asked(run).kernels} == {"7.2"}
    assert "--tree" not in asked(run).argv


def test_the_same_mail_has_the_same_folder_and_old_ones_go(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_mail, "KEPT", 2)
    outs = []
    for number, text in enumerate((ONE, ONE, ONE + b"1", ONE + b"2", ONE + b"3")):
        check(text)
        outs.append(Path(asked(run).options.out))
        os.utime(outs[-1], (number, number))
    assert outs[0] == outs[1] and len(set(outs)) == 4
    assert [out.exists() for out in outs[1:]] == [False, True, True, True]


def test_an_old_one_that_another_check_removes_is_not_minded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    check(ONE)
    first = Path(asked(run).options.out)
    stat = Path.stat

    def looked(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == first:  # after it was listed
            shutil.rmtree(path, ignore_errors=True)
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", looked)
    assert check(ONE + b"1")[1] == Exit.PASS
    assert not first.exists()


def test_a_cover_letter_alone_is_a_warning(run: Run) -> None:
    answer, code = check(COVER.encode())
    assert (answer.status, code, run.plan) == ("warn", Exit.INCONCLUSIVE, None)
    assert "no diff" in answer.summary and "b4 review" in answer.details


@pytest.mark.parametrize("text", [COVER, patch(1)], ids=["cover letter", "first patch"])
def test_b4_knows_the_series(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "linux").rmdir()
    (tmp_path / "b4").mkdir()
    world = World(tmp_path / "b4")
    world.keep()
    monkeypatch.chdir(world.tree)
    monkeypatch.setenv(tracked.TRACKING, str(world.file))
    check(text.encode())
    assert run.titles == ["part 1 of v2", "part 2 of v2"]


def test_one_of_several_is_tested_alone_and_said_to_be(run: Run) -> None:
    answer, _ = check(patch(2).encode())
    assert answer.summary.endswith(" (patch 2/2 alone)")
    run.ends = UsageError("it does not apply", step="see it")
    answer, code = check(patch(2).encode())
    assert (answer.status, code) == ("warn", Exit.USAGE)
    assert answer.summary == "patch 2/2 was tested without the others: it does not apply"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("it does not apply", step="take another base", detail="hunk\x1b 3"), "fail"),
        (HarnessError("the disk is full", step="free space"), "warn"),
    ],
)
def test_what_cannot_be_judged_is_answered_too(run: Run, error: UsageError | HarnessError, status: str) -> None:
    run.ends = error
    answer, code = check()
    assert (answer.status, answer.summary, code) == (status, error.what, error.exit)
    assert answer.details.splitlines()[:2] == [error.what, error.step]
    assert "\x1b" not in answer.details


def test_a_mistake_in_the_flags_is_answered_too(run: Run) -> None:
    answer, code = check(options=replace(OPTIONS, arch="vax"))
    assert (answer.status, code, run.plan) == ("fail", Exit.USAGE, None) and "vax" in answer.summary


def test_a_patch_that_is_none_fails_with_its_reason(run: Run) -> None:
    answer, code = check(b"Subject: x\n\n--- a/x\n")
    assert (answer.status, code) == ("fail", Exit.USAGE) and "no diff in it" in answer.summary


def test_an_answer_is_json_of_texts(run: Run) -> None:
    answer, _ = check()
    assert all(isinstance(value, str) for value in json.loads(json.dumps(vars(answer))).values())
