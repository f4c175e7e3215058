# SPDX-License-Identifier: GPL-2.0-only
"""Processes of a run that are killed, stopped or interrupted: never a pass, never the kernel's fault, nothing left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.core.event_log import read
from harness.core.records import EventKind
from tests.e2e.command import GOODBYE_SECONDS, Done, Kharness, Running
from tests.e2e.conftest import place
from tests.e2e.leaks import below, with_word

QUICK_RUN = ("--machine", "cpu1", "--guests", "1")
"""On the machine that needs fewest canaries."""


def children(running: Running, option: str = "--kharness-plan") -> list[int]:
    """The workers of a run; with --kharness-survey the one that only collects."""
    return with_word(running.process.pid, "python", option)


def happened(folder: Path, kind: EventKind) -> Callable[[], bool]:
    """Whether the log of the run in `folder` has such an event by now."""
    log = folder / "out/latest/events.jsonl"
    return lambda: log.exists() and f'"{kind}"' in log.read_text()


def inconclusive(done: Done) -> str:
    """The reasons of a run that ended so, which blames nothing on the kernel."""
    results = done.results
    assert results["verdict"] == "inconclusive", results["verdict"]
    assert "verdict: PASS" not in done.stdout
    assert "Traceback" not in done.stderr
    found = [found for test in results["tests"] for found in test["findings"]]
    assert not [one for one in found if not one["expected"] and not one["allowed_by"]]
    return "\n".join(results["why"])


# --- the runner ------------------------------------------------------------------------


def test_conductor_is_killed_in_each_phase_and_the_next_run_works(
    kharness: Kharness, passed: Done, suite: Callable[[str], str]
) -> None:
    """While it builds, boots, and tests: what it left in TMPDIR is swept, and no run reports it in any other way."""
    tmp = kharness.cwd.parent / "tmp"
    args = [*QUICK_RUN, "--suite", suite("short"), "--cmdline", "kharness_e2e=killed"]
    (kharness.cwd / "my.config").write_text('CONFIG_LOCALVERSION="-e2e-killed"\n')

    def killed(running: Running) -> None:
        running.process.kill()
        assert running.finish(GOODBYE_SECONDS).status == -signal.SIGKILL

    building = kharness.start_run(*args, "--kconfig", "my.config")
    building.wait_until("a compiler runs", lambda: bool(below(building.process.pid, "cc1")))
    killed(building)
    booting = kharness.start_run(*args)
    booting.wait_for(r"boot x86_64[^\n]*: started")
    booting.wait_until("QEMU runs", lambda: bool(below(booting.process.pid, "qemu-system")))
    killed(booting)
    testing = kharness.start_run(*args)
    testing.wait_until("a test runs", happened(kharness.cwd, EventKind.CANARY))
    testing.wait_until("QEMU runs", lambda: bool(below(testing.process.pid, "qemu-system")))
    killed(testing)
    left = list(tmp.iterdir())
    assert left, "nothing was left to be swept"
    done = kharness.run(*args).expect(0)
    assert done.verdict.startswith("verdict: PASS")
    assert not list(tmp.iterdir())


@pytest.mark.full
def test_a_report_of_a_killed_run_is_no_pass(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    """The runner is killed when all tests have ended, before it has judged."""
    running = kharness.start_run(*QUICK_RUN, "--suite", suite("short"))
    running.wait_until("the tests have ended", happened(kharness.cwd, EventKind.SESSION_END))
    running.process.kill()
    done = running.finish(GOODBYE_SECONDS)
    results = kharness.cwd / "out/latest/results.json"
    if results.exists():  # it was quicker
        assert any(event.kind is EventKind.RUN_END for event in read(results.with_name("events.jsonl")))
    else:
        assert done.stdout == ""
        assert kharness("report", "out/latest").status in (2, 3, 4)
    (kharness.cwd / "mine/thesis").mkdir(parents=True)
    kharness.run("--out", "mine").expect(2)  # also one that is refused sweeps


@pytest.mark.parametrize(
    "blow", [("HUP",), ("INT", "INT"), pytest.param(("TERM", "INT", "TERM"), marks=pytest.mark.full)], ids="-".join
)
def test_interrupted(kharness: Kharness, passed: Done, suite: Callable[[str], str], blow: tuple[str, ...]) -> None:
    """A terminal that is closed, and impatience: 130, with results, and nothing left behind."""
    running = kharness.start_run(*QUICK_RUN, "--suite", suite("short"))
    running.wait_until("a guest is tested", happened(kharness.cwd, EventKind.CANARY))
    for name in blow[:-1]:
        running.process.send_signal(getattr(signal, f"SIG{name}"))
        running.wait_until("it was heard", lambda: not children(running), 1.0, may_end=True)
    done = running.interrupt(getattr(signal, f"SIG{blow[-1]}")).expect(130)
    assert "interrupted" in done.error
    assert "interrupted" in inconclusive(done)


# --- the children -------------------------------------------------------------------------


def test_child_is_killed_before_its_session(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    """It never says what it was to do: of two children's tests those of one are missing."""
    for _ in range(5):  # it takes a second to get there, and we may be late
        running = kharness.start_run("-k", "lifecycle and not random", "--guests", "2")
        begun: list[int] = []

        def both(running: Running = running, begun: list[int] = begun) -> bool:
            begun[:] = children(running)
            return len(begun) == 2

        running.wait_until("both have begun", both)
        os.kill(begun[-1], signal.SIGKILL)
        late = happened(kharness.cwd, EventKind.SESSION_START)()
        done = running.finish(300)
        assert done.status in (3, 4)
        assert "pytest" in inconclusive(done)
        if not late:
            return
    raise AssertionError("it was too late each time")


def test_child_is_killed_in_the_middle(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    running = kharness.start_run(*QUICK_RUN, "--suite", suite("short"))
    running.wait_until("a guest is tested", happened(kharness.cwd, EventKind.CANARY))
    (victim,) = children(running)
    os.kill(victim, signal.SIGKILL)
    done = running.finish(300)
    assert done.status in (3, 4)
    assert "pytest died before its end" in inconclusive(done)


def test_child_that_collects_is_killed(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    running = kharness.start_run(*QUICK_RUN, "--suite", suite("short"))
    collects: list[int] = []

    def begun() -> bool:
        collects[:] = children(running, "--kharness-survey")
        return bool(collects)

    running.wait_until("it collects", begun)
    (victim,) = collects
    os.kill(victim, signal.SIGKILL)
    done = running.finish(300).expect(4)
    assert "SIGKILL" in done.error
    inconclusive(done)


# --- the machine --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restored(cache_home: Path, passed: Done, suite: Callable[[str], str]) -> Iterator[Done]:
    for started in place(cache_home):
        yield started.run(*QUICK_RUN, "--suite", suite("restore"), timeout=300)


def test_a_panic_at_the_first_restore_is_the_kernels(restored: Done) -> None:
    """Though the guest would have lived at the second."""
    row = restored.expect(1).test("test_panics_once")
    assert row["outcome"] == "fail"
    assert [found["kind"] for found in row["findings"]] == ["panic"]


def test_qemu_killed_at_the_first_restore_is_told(restored: Done) -> None:
    """The test is tried again, and the run says so: it is no pass."""
    row = restored.test("test_qemu_killed_once")
    assert row["outcome"] == "inconclusive" or row["attempts"] > 1
    assert "test_qemu_killed_once" in " ".join(restored.results["why"])


@pytest.fixture(scope="module")
def stopped(cache_home: Path, passed: Done, suite: Callable[[str], str]) -> Iterator[Done]:
    for started in place(cache_home):
        yield started.run(*QUICK_RUN, "--suite", suite("stopped"), timeout=300).expect(3)


def test_qemu_stopped_for_a_moment(stopped: Done) -> None:
    assert stopped.test("test_stopped_for_a_moment")["outcome"] == "pass"


def test_qemu_stopped_is_no_hang(stopped: Done) -> None:
    """Somebody sent SIGSTOP, or a debugger holds it: the kernel was not run."""
    row = stopped.test("test_stopped_for_good")
    assert row["outcome"] == "inconclusive"
    assert "QEMU was stopped" in row["why"]
    assert not row["findings"]


def test_the_guests_agent_is_killed(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    """By somebody in the guest: what it would have seen is lost, and the kernel did nothing wrong."""
    folder = Path(suite("short"))
    (folder / "kill-agent-after").write_text("0.2")
    done = kharness.run(*QUICK_RUN, "--suite", str(folder), timeout=300).expect(3)
    why = inconclusive(done)
    assert "agent" in why and "SIGKILL" in why


# --- who reads ----------------------------------------------------------------------------


def test_the_reader_goes_away_between_two_architectures(
    kharness: Kharness, passed: Done, suite: Callable[[str], str]
) -> None:
    """``2>&1 | head``: no pass without the second architecture, and no exit status 1."""
    script = """
import os, subprocess, sys
run = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
seen = b""
while b"so far" not in seen and (data := os.read(run.stdout.fileno(), 4096)):
    seen += data
run.stdout.close()
sys.stdout.buffer.write(seen)
sys.exit(run.wait() % 256)
"""
    before = (sys.executable, "-c", script)
    both = ("--arch", "x86_64,arm64")
    done = kharness.start_run(*QUICK_RUN, *both, "--suite", suite("short"), before=before).finish()
    assert "so far" in done.stdout
    tested = {kernel["arch"] for kernel in done.results["kernels"]}
    if done.results["verdict"] == "pass":
        assert tested == {"x86_64", "arm64"}
    else:
        assert done.status not in (0, 1)


@pytest.mark.full
def test_nobody_reads_the_verdict(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    """``| true`` costs what would have been printed, and nothing else: results and status are those of the run."""
    before = ("sh", "-c", '{ "$0" "$@"; echo $? > status; } | true')
    kharness.start_run(*QUICK_RUN, "--suite", suite("short"), before=before).finish(300)
    status = int((kharness.cwd / "status").read_text())
    results = Done(0, "", "", 0.0, kharness.cwd).results
    assert results["verdict"] == "pass"
    assert status in (0, 4)
