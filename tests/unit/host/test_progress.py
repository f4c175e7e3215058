# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what is said while work goes on."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from harness.host.progress import Phase, Progress, duration


class Lines(io.StringIO):
    """A stream that wakes who waits for a text."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def write(self, text: str) -> int:
        with self.changed:
            count = super().write(text)
            self.changed.notify_all()
        return count

    def wait_for(self, text: str) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: text in self.getvalue(), timeout=20)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (190, "3 min 10 s"),
        (7500, "2 h 5 min"),
        (-1, "0.0 s"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_line_of_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("harness.host.progress.time.monotonic", lambda: now)
    phase = Phase(Progress(None, io.StringIO()), "build x86_64", 362)
    phase.total(998)
    phase.step(512)
    now += 190
    assert phase.line() == ("build x86_64: 512/998 objects, 3 min 10 s, about 3 min 0 s left (last time 6 min 2 s)")


def test_estimate_comes_from_last_time_until_steps_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("harness.host.progress.time.monotonic", lambda: now)
    phase = Phase(Progress(None, io.StringIO()), "x", 100)
    phase.total(1000)
    phase.step(1)
    now = 30
    assert phase.left() == 70
    phase.step(500)
    assert phase.left() == 30
    assert Phase(Progress(None, io.StringIO()), "x", None).left() is None


def test_remembers_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.host.progress.time.monotonic", lambda: 1000.0)
    for expected in ("build: started\n", "build: started (last time 0.0 s)\n"):
        stream = io.StringIO()
        with Progress(tmp_path, stream).phase("build", "key") as phase:
            phase.total(2)
            phase.step()
            phase.step()
        assert stream.getvalue().startswith(expected)
        assert stream.getvalue().endswith("build: done in 0.0 s, 2 objects\n")


def test_failed_phase_says_so_and_is_not_remembered(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="no"), Progress(tmp_path, stream).phase("build", "key"):
        raise ValueError("no")
    assert "build: stopped after" in stream.getvalue()
    assert list(tmp_path.rglob("*.json")) == []


def test_damaged_memory_is_no_estimate(tmp_path: Path) -> None:
    with Progress(tmp_path, io.StringIO()).phase("build", "key"):
        pass
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{")
    stream = io.StringIO()
    with Progress(tmp_path, stream).phase("build", "key"):
        pass
    assert stream.getvalue().startswith("build: started\n")


def test_silent_work_is_spoken_of_without_a_terminal() -> None:
    stream = Lines()
    with Progress(None, stream, every=0.01).phase("link", "key") as phase:
        phase.step(note="vmlinux")
        assert stream.wait_for("link: vmlinux: ") or stream.wait_for("link: 0.")


def test_terminal_keeps_said_lines_and_cleans_up_the_live_one() -> None:
    stream = Terminal()
    progress = Progress(None, stream)
    with progress.phase("outer", "a"), progress.phase("inner", "b") as inner:
        inner.total(10)
        inner.step(5)
        progress.say("a [bold]line[/bold] with markup")
    assert "a [bold]line[/bold] with markup" in stream.getvalue()
    assert stream.getvalue().rstrip().splitlines()[-1].endswith("outer: done in 0.0 s") or "outer: done" in (
        stream.getvalue()
    )
    assert progress._live is None


def test_an_estimate_that_cannot_be_kept_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "durations").write_text("a file is in the way")
    stream = io.StringIO()
    with Progress(tmp_path, stream).phase("build", "key"):
        pass
    assert "build: done in " in stream.getvalue()
