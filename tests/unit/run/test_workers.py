# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the workers: what is shown and kept of them, how their tests are counted, their end."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.core.event_log import RUNNER, EventLog, read
from harness.core.records import EventKind, Outcome, TestResult
from harness.host.process import Child
from harness.host.progress import Progress
from harness.run import workers
from harness.run.workers import Tally, searched


class Seen:
    """Stands for a Phase."""

    def __init__(self) -> None:
        self.of: int | None = None
        self.steps: list[tuple[int | None, str]] = []

    def total(self, count: int, unit: str = "objects") -> None:
        self.of = count

    def step(self, done: int | None = None, note: str = "") -> None:
        self.steps.append((done, note))


@pytest.fixture
def event_log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.jsonl", "r1")


def ended(event_log: EventLog, name: str, outcome: Outcome = Outcome.PASS) -> None:
    test = f"tests/kernel/test_x.py::{name}"
    event_log.emit(EventKind.TEST_END, TestResult(test, "x86_64", "k", "default", outcome), kernel="k", test=test)


def test_tests_are_counted_from_the_event_log(tmp_path: Path, event_log: EventLog) -> None:
    ended(event_log, "build")  # before the session
    seen: Any = Seen()
    with Tally(tmp_path / "events.jsonl", seen) as tally:
        for _ in range(2):  # two children
            event_log.emit(EventKind.SESSION_START, {"collected": [{"id": "a"}, {"id": "b"}], "canaries": []})
        tally.look()
        assert (seen.of, seen.steps) == (4, [])
        event_log.emit(EventKind.CANARY, {"oracle": "dmesg", "kernel": "k", "caught": True})
        ended(event_log, "test_a")
        with (tmp_path / "events.jsonl").open("ab") as half:
            half.write(b'{"kind": "test-')
        ended_before = list(seen.steps)
        tally.look()
        assert ended_before == [] and seen.steps == [(0, "canary: dmesg"), (1, "test_a")]
        with (tmp_path / "events.jsonl").open("ab") as rest:
            rest.write(b'end", "test": "x::test_b", "data": {"outcome": "fail"}}\n')
        tally.look()
        assert seen.steps[-1] == (2, "test_b: fail")


def run(tmp_path: Path, *programs: str) -> tuple[str, str]:
    said = io.StringIO()
    EventLog(tmp_path / "events.jsonl", "r1").close()
    argvs = [[sys.executable, "-c", program] for program in programs]
    workers.run(argvs, dict(os.environ), tmp_path, Progress(None, said), "tests on x", "key")
    return said.getvalue(), (tmp_path / "pytest.log").read_text()


def test_what_they_print_is_kept_whole_and_shown_but_for_the_dots(tmp_path: Path) -> None:
    dots = "......s.F...        [ 52%]"
    said, log = run(tmp_path, f"print({dots!r}); print('one failed')", "print('other', end='')")
    assert {"one failed", "other"} <= set(said.splitlines()) and dots not in said
    assert sorted(log.splitlines()) == sorted([dots, "one failed", "other"])
    assert "tests on x: done in" in said


def test_an_interrupt_lets_them_say_goodbye(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is left behind."""
    listening, listen = threading.Event(), workers._listen

    def watched(*given: Any) -> None:
        listening.set()
        listen(*given)

    monkeypatch.setattr(workers, "_listen", watched)
    mark = tmp_path / "pid"
    program = (
        "import os, signal, sys, pathlib\n"
        "def bye(*_): print('bye', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, bye)\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "while True: signal.pause()\n"
    )

    def interrupt() -> None:
        listening.wait()  # before that nobody knows the child yet
        while not (mark.exists() and mark.read_text()):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, program)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_how_far_a_search_is() -> None:
    done = {"sequences": 412, "compared": 1, "seconds": 34.4}
    assert searched(60.0, done) == "search: 34 of 60 s, 412 sequences, 1 answer compared"
    assert searched(30.0, done).startswith("search: 30 of 30 s"), "shrinking is no part of the budget"


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOG_BYTES", 1 << 17)  # of each line LONGEST characters are kept
    program = "import os; [os.write(1, b'x' * 65536) for _ in range(64)]"
    _, log = run(tmp_path, program)
    lines = log.splitlines()
    assert max(map(len, lines)) <= 2 * workers.LINE
    assert lines[-1].startswith("[kharness: what the workers print from here on is not kept"), "and the file is capped"
    assert len(log) < (1 << 17) + 200 and log.count("[kharness:") == 1


def test_what_outlives_a_child_is_not_waited_for(tmp_path: Path) -> None:
    """It holds the child's output open."""
    program = (
        "import subprocess, sys\n"
        "print('mine', flush=True)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    )
    began = time.monotonic()
    _, log = run(tmp_path, program)
    assert log == "mine\n"
    assert time.monotonic() - began < 300


def test_a_child_of_which_nothing_is_heard_is_killed_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much another one says."""
    monkeypatch.setattr(workers, "SILENT_SECONDS", 4.0)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.1)
    silent = f"import os, time\nos.symlink(str(os.getpid()), {str(tmp_path / 'silent')!r}); time.sleep(600)"
    chatty = (
        "import os, time\n"
        f"while not os.path.lexists({str(tmp_path / 'silent')!r}): print('not yet', flush=True); time.sleep(0.1)\n"
        f"other = os.readlink({str(tmp_path / 'silent')!r})\n"
        "while os.path.exists(f'/proc/{other}'): print(other, flush=True); time.sleep(0.1)\n"
    )
    run(tmp_path, silent, chatty)
    ends = [event for event in read(tmp_path / "events.jsonl") if event.kind is EventKind.CHILD_END]
    assert [event.data["status"] for event in ends] == [-9, 0]
    assert ends[0].data["how"] == "it printed nothing for 4 s: killed"


def test_one_that_ends_between_two_looks_at_it() -> None:
    """It closed its output before."""

    class Ending(Child):
        looks = 0

        def poll(self) -> int | None:
            self.looks += 1
            return super().poll() if self.looks > 1 else None

    with Ending([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        process.wait()
        process.looks = 0
        workers._wait_for_the_ends([workers.Worker(process, "x86_64/0")], 60.0)
        assert (process.poll(), process.looks > 1) == (0, True)


def test_a_child_that_writes_events_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENT_SECONDS", 6.0)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.1)
    program = (
        "import time\nfrom pathlib import Path\nfrom harness.core.event_log import RUNNER, EventLog\nfrom harness.core.records import EventKind\n"
        f"event_log = EventLog(Path({str(tmp_path / 'events.jsonl')!r}), 'r1', '/0')\n"
        "for n in range(10): event_log.emit(EventKind.TEST_START, {'machine': 'm'}, test='t'); time.sleep(1)\n"
    )
    run(tmp_path, program)
    ends = [event for event in read(tmp_path / "events.jsonl") if event.kind is EventKind.CHILD_END]
    assert [event.data["status"] for event in ends] == [0]


def test_a_line_that_is_taken_away_again_confuses_nobody(tmp_path: Path, event_log: EventLog) -> None:
    """A killed writer's: the next one does so."""
    seen: Any = Seen()
    path = tmp_path / "events.jsonl"
    with Tally(path, seen) as tally:
        ended(event_log, "test_a")
        with path.open("ab") as torn:
            torn.write(b'{"schema": 1, "kind": "test-end", "data"' + b" " * 500)
        assert tally.look() == {RUNNER}
        ended(event_log, "test_b")
        with path.open("ab") as odd:
            odd.write(b"no event\n[]\n{}\n")
        ended(event_log, "test_c")
        tally.look()
    assert [name for _, name in seen.steps] == ["test_a", "test_b", "test_c"]
