# SPDX-License-Identifier: GPL-2.0-only
"""Tests of one step: a real child process, and what becomes of what it says."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from harness.bisect import child, steps
from harness.bisect.child import Answer
from harness.bisect.state import Outcome
from harness.bisect.steps import Impossible, Stepper
from harness.core.errors import Exit, GuestError, HarnessError, UsageError
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.host import python
from harness.source.patched import DoesNotApply

PLAN = Plan((KernelRequest(SourceRequest(version="7.2"), "vax"),), seed=7)


def test_a_mistake_comes_back_as_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answer = steps.conduct(PLAN.with_options(out=str(tmp_path / "out")), tmp_path / "log")
    assert (answer.exit, answer.error) == (Exit.USAGE, "UsageError")
    assert "no machine definition for architecture 'vax'" in answer.what
    with pytest.raises(UsageError, match="vax"):
        steps.raise_again(answer)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(2, "DoesNotApply", "x"), DoesNotApply),
        (Answer(2, "Refused", "x"), UsageError),
        (Answer(3, "GuestError", "x"), GuestError),
        (Answer(4, "DiskFull", "x"), HarnessError),
        (Answer(4, "MachineLost", "x"), HarnessError),
    ],
)
def test_what_the_conductor_raised_is_raised_again(answer: Answer, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        steps.raise_again(answer)


def test_a_child_that_dies_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "CHECKOUT", tmp_path)  # where no harness is to be found
    (tmp_path / "harness.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarnessError, match="a run ended with status 1 and no message"):
        steps.conduct(PLAN, tmp_path / "log")


def test_an_interrupt_reaches_the_child_and_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child here stands for the runner: it says that it began, and how it was ended."""
    package = tmp_path / "harness/bisect"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "child.py").write_text(
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n"
        "    (here / 'began').write_text('')\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    (here / 'ended').write_text('')\n"
        "    sys.exit(130)\n"
    )
    monkeypatch.setattr(python, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)

    def interrupt() -> None:
        end = time.monotonic() + 60
        while not (tmp_path / "began").exists() and time.monotonic() < end:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A shell that starts us in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            steps.conduct(PLAN, tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "ended").exists(), "it was given the time to end its guests"


def test_what_there_can_be_no_kernel_of_is_a_result(tmp_path: Path) -> None:
    class Source:
        def kernel(self, id: str) -> KernelRequest:
            raise AssertionError("not reached")

        def kconfig(self, id: str) -> tuple[str, ...]:
            raise Impossible("CONFIG_A cannot be had")

    run = Stepper(PLAN, Source(), tmp_path)("k1", 1, None, "")
    assert (run.outcome, run.why, run.kernel) == (Outcome.BUILD, "CONFIG_A cannot be had", "")


@pytest.mark.parametrize(("fragments", "incremental"), [((), True), (("a.config",), False)])
def test_a_step_builds_in_the_folder_that_is_kept_unless_its_config_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fragments: tuple[str, ...], incremental: bool
) -> None:
    class Source:
        def kernel(self, id: str) -> KernelRequest:
            return PLAN.kernels[0]

        def kconfig(self, id: str) -> tuple[str, ...]:
            return fragments

    asked: list[Plan] = []

    def conduct(plan: Plan, log: Path) -> Answer:
        asked.append(plan)
        return Answer(2, "UsageError", "enough")

    monkeypatch.setattr(steps, "conduct", conduct)
    with pytest.raises(UsageError, match="enough"):
        Stepper(PLAN, Source(), tmp_path)("k1", 1, None, "")
    assert [plan.incremental for plan in asked] == [incremental] and not PLAN.incremental


def test_the_child_writes_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from harness.core.records import encode

    monkeypatch.setattr(child, "conduct", lambda plan: Exit.FAIL)
    (tmp_path / "plan").write_text(json.dumps(encode(PLAN)))
    assert child.main(tmp_path / "plan", tmp_path / "answer") is Exit.FAIL
    assert json.loads((tmp_path / "answer").read_text())["exit"] == 1
