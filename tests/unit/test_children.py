# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the pytest children: what is shown and kept of them, how their tests are counted, their end."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from harness import children
from harness.children import Tally, searched
from harness.host.progress import Progress
from harness.journal import Journal
from harness.records import EventKind, Outcome, TestResult


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
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "events.jsonl", "r1")


def ended(journal: Journal, name: str, outcome: Outcome = Outcome.PASS) -> None:
    test = f"tests/kernel/test_x.py::{name}"
    journal.emit(EventKind.TEST_END, TestResult(test, "x86_64", "k", "default", outcome), kernel="k", test=test)


def test_tests_are_counted_from_the_event_log(tmp_path: Path, journal: Journal) -> None:
    ended(journal, "build")  # before the session
    seen: Any = Seen()
    with Tally(tmp_path / "events.jsonl", seen) as tally:
        for _ in range(2):  # two children
            journal.emit(EventKind.SESSION_START, {"collected": [{"id": "a"}, {"id": "b"}], "canaries": []})
        tally.look()
        assert (seen.of, seen.steps) == (4, [])
        journal.emit(EventKind.CANARY, {"oracle": "dmesg", "kernel": "k", "caught": True})
        ended(journal, "test_a")
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
    Journal(tmp_path / "events.jsonl", "r1").close()
    argvs = [[sys.executable, "-c", program] for program in programs]
    children.run(argvs, dict(os.environ), tmp_path, Progress(None, said), "tests on x", "key")
    return said.getvalue(), (tmp_path / "pytest.log").read_text()


def test_what_they_print_is_kept_whole_and_shown_but_for_the_dots(tmp_path: Path) -> None:
    dots = "......s.F...        [ 52%]"
    said, log = run(tmp_path, f"print({dots!r}); print('one failed')", "print('other', end='')")
    assert {"one failed", "other"} <= set(said.splitlines()) and dots not in said
    assert sorted(log.splitlines()) == sorted([dots, "one failed", "other"])
    assert "tests on x: done in" in said


def test_an_interrupt_lets_them_say_goodbye(tmp_path: Path) -> None:
    """And nobody is left behind."""
    mark = tmp_path / "pid"
    program = (
        "import os, signal, sys, pathlib\n"
        "def bye(*_): print('bye', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, bye)\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "while True: signal.pause()\n"
    )

    def interrupt() -> None:
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
