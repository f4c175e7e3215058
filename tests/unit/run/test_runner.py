# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a run's end: whatever cuts it short, its log and results say so, and no status is taken for the kernel's."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core import event_log
from harness.core.errors import Exit, HarnessError, KharnessError, UsageError
from harness.core.event_log import RUNNER, EventLog
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.core.records import EventKind, Verdict
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.report import html, junit, results, terminal
from harness.run.runner import Runner
from harness.verdict import judge
from tests.unit.report.eventlog import Log, kernel

PLAN = Plan((KernelRequest(SourceRequest(version="7.2"), "x86_64"),), seed=1, argv=("kharness", "run"))


class Run:
    """A run into a folder whose work is that of a passing log, with something that may happen behind it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        self.out = folder / "r1"
        self.said = io.StringIO()
        plan = PLAN.with_options(out=str(self.out))
        self.runner = Runner(plan, Progress(None, self.said), Cache(folder / "cache", 0))
        self.then: Callable[[], object] = lambda: None
        monkeypatch.setattr(self.runner, "_each_architecture", self.work)

    def work(self) -> None:
        others: dict[str, EventLog] = {}
        for event in Log(kernel()).events()[1:-1]:
            to = self.runner.event_log
            if event.writer != RUNNER:
                to = others.setdefault(event.writer, EventLog(to.path, "r1", event.writer))
            to.emit(event.kind, event.data, event.kernel, event.test)
        for other in others.values():
            other.close()
        self.then()

    @property
    def events(self) -> list[EventKind]:
        return [event.kind for event in event_log.read(self.out / "events.jsonl")]

    @property
    def verdict(self) -> str:
        """Of results.json; junit.xml and report.html must say the same."""
        data = json.loads((self.out / "results.json").read_text())
        assert ("<error" in (self.out / "junit.xml").read_text()) == (data["verdict"] == "inconclusive")
        assert f"verdict: {data['verdict']}" in (self.out / "report.html").read_text().lower()
        return str(data["verdict"])

    def files(self) -> set[str]:
        """The results that there are, and what is half written."""
        return {path.name for path in self.out.iterdir()} - {"events.jsonl", results.MARKER}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def raising(error: BaseException) -> Callable[..., Any]:
    def fails(*args: object, **named: object) -> Any:
        raise error

    return fails


def test_a_whole_run_passes_and_the_verdict_on_its_log_is_that_of_its_results(run: Run) -> None:
    assert run.runner.run() is Exit.PASS
    assert run.verdict == "pass"
    assert run.events[-1] is EventKind.RUN_END and run.events.count(EventKind.RUN_END) == 1
    again = judge(event_log.read(run.out / "events.jsonl"))
    assert results.render(again) == (run.out / "results.json").read_text()
    assert run.files() == {"results.json", "junit.xml", "report.html"}


@pytest.mark.parametrize(
    ("error", "raised", "why"),
    [
        (SystemExit(1), HarnessError, "SystemExit: 1"),
        (GeneratorExit(), HarnessError, "GeneratorExit"),
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted"),
        (MemoryError(), MemoryError, "MemoryError"),
        (RecursionError("too deep"), RecursionError, "RecursionError: too deep"),
        (BrokenPipeError(32, "Broken pipe"), BrokenPipeError, "BrokenPipeError: [Errno 32] Broken pipe"),
        (HarnessError("no disk", step="buy one"), HarnessError, "no disk; buy one"),
        (UsageError("no such tree"), UsageError, "no such tree"),
    ],
)
def test_whatever_ends_a_run_early_is_told_and_never_a_pass(
    run: Run, error: BaseException, raised: type[BaseException], why: str
) -> None:
    """Also when all that a pass needs is in the log already."""
    run.then = raising(error)
    with pytest.raises(raised) as caught:
        run.runner.run()
    assert getattr(caught.value, "exit", Exit.UNJUDGED) not in (Exit.PASS, Exit.FAIL)
    assert run.verdict == "inconclusive"
    assert f"the run ended early: {why}" in json.loads((run.out / "results.json").read_text())["why"][0]
    assert run.events[-1] is EventKind.RUN_END and run.events.count(EventKind.RUN_END) == 1
    assert "pass" not in run.said.getvalue().lower()


def _broken_screens() -> Iterator[BaseException]:
    yield from (SystemExit(1), BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file"))
    yield from (UnicodeEncodeError("ascii", "ü", 0, 1, "no"), AttributeError("None has no isatty"), KeyboardInterrupt())


@pytest.mark.parametrize("error", list(_broken_screens()), ids=lambda error: type(error).__name__)
def test_that_the_summary_cannot_be_shown_changes_no_status(
    run: Run, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "show", raising(error))
    assert run.runner.run() is Exit.PASS
    assert run.verdict == "pass"


@pytest.mark.parametrize("file", ["results.json", "junit.xml", "report.html"])
def test_results_are_all_written_or_none_says_pass(run: Run, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = results._fresh

    def full(path: Path, text: str) -> Path:
        if path.name == file:
            raise HarnessError(f"cannot write {path}: No space left on device")
        return fresh(path, text)

    monkeypatch.setattr(results, "_fresh", full)
    with pytest.raises(HarnessError, match="No space left") as caught:
        run.runner.run()
    assert caught.value.exit is Exit.UNJUDGED
    assert run.files() == {"results.json", "junit.xml", "report.html"} - {file}
    assert not any(
        "pass" in json.loads((run.out / name).read_text())["verdict"] for name in run.files() if name[-1] == "n"
    )
    assert results.read(run.out).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("a bug in the page")], ids=["ctrl-c", "bug"])
def test_what_happens_while_results_are_written_takes_the_pass_back(
    run: Run, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "render", raising(error))
    with pytest.raises(type(error)):
        run.runner.run()
    assert run.events[-2:] == [EventKind.RUN_END, EventKind.RUN_END]
    assert judge(event_log.read(run.out / "events.jsonl")).verdict is Verdict.INCONCLUSIVE
    if (run.out / "results.json").exists():
        assert results.read(run.out).verdict is Verdict.INCONCLUSIVE


def test_a_report_that_fails_does_not_hide_what_ended_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.then = raising(HarnessError("QEMU went away"))
    monkeypatch.setattr(junit, "render", raising(KeyError("x")))
    monkeypatch.setattr(run.runner.event_log, "end", raising(HarnessError("the log is full")))
    with pytest.raises(HarnessError, match="QEMU went away"):
        run.runner.run()
    assert "cannot write junit.xml: KeyError" in run.said.getvalue()
    assert results.read(run.out).verdict is Verdict.INCONCLUSIVE, "and its log has no end"


@pytest.mark.parametrize("gone", ["r", "latest"])
def test_another_run_that_cleans_up_does_not_hide_a_mistake(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    runner = Runner(PLAN, Progress(None, run.said), Cache(tmp_path / "cache", 0))
    monkeypatch.setattr(runner, "_each_architecture", raising(UsageError("no such tree")))
    rmtree, exists = shutil.rmtree, Path.exists

    def removed(path: Path) -> None:
        if gone == "r":
            rmtree(path)
        rmtree(path)

    def seen(path: Path) -> bool:
        found = exists(path)
        if path.name == gone:
            path.unlink()
        return found

    monkeypatch.setattr(shutil, "rmtree", removed)
    monkeypatch.setattr(Path, "exists", seen)
    with pytest.raises(UsageError, match="no such tree"):
        runner.run()
    assert ("the run's end: FileNotFoundError" in run.said.getvalue()) == (gone == "r")


def test_a_full_disk_ends_a_run_as_not_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def then() -> None:
        monkeypatch.setattr("harness.core.event_log.os.write", lambda file, data: len(data) // 2)
        run.runner.event_log.emit(EventKind.MACHINE)

    run.then = then
    with pytest.raises(HarnessError, match="took"):
        run.runner.run()
    assert results.read(run.out).verdict is Verdict.INCONCLUSIVE


def test_a_killed_runs_report_is_what_its_log_shows_and_no_pass(run: Run, tmp_path: Path) -> None:
    run.runner.run()
    (run.out / "results.json").unlink()
    assert results.read(run.out).why == ("the run was ended before it had written its results",)
    whole = (run.out / "events.jsonl").read_bytes()
    (run.out / "events.jsonl").write_bytes(whole[: len(whole) // 2])
    assert results.read(run.out).verdict is Verdict.INCONCLUSIVE
    (run.out / "events.jsonl").write_bytes(b"{}\n" + whole)
    with pytest.raises(KharnessError, match="not an event"):
        results.read(run.out)


def test_an_old_pass_is_out_of_the_way_before_the_next_run_begins(run: Run) -> None:
    run.runner.run()
    plan = PLAN.with_options(out=str(run.out))
    Runner(plan, Progress(None, run.said), Cache(run.out.parent / "cache", 0))
    assert run.files() == {results.OLD}
    assert (run.out / results.OLD / "results.json").is_file()


def test_a_pass_of_some_architectures_is_not_said_before_the_end(run: Run) -> None:
    run.runner.plan = Plan(
        **{**vars(run.runner.plan), "kernels": (*PLAN.kernels, KernelRequest(SourceRequest(), "arm64"))}
    )
    run.then = lambda: run.runner._so_far(["x86_64"], ["arm64"])
    assert run.runner.run() is Exit.INCONCLUSIVE, "arm64 was asked for, and never came"
    assert "x86_64: no failure so far; arm64 to come" in run.said.getvalue()
