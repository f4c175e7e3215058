# SPDX-License-Identifier: GPL-2.0-only
"""Messages while work goes on: phases with a count, an estimate, and how long it took last time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.core.errors import HarnessError
from harness.core.printable import one_line
from harness.host.cache import write_atomically
from harness.host.streams import Lossy

PLAIN_EVERY = 15.0
"""Seconds between two lines of one phase where there is no terminal."""


def duration(seconds: float) -> str:
    """Seconds in readable units: ``0.4 s``, ``12 s``, ``3 min 10 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def console(stream: TextIO, *, colour: bool | None = None) -> Console:
    """A console of rich that prints text as it is (no markup, no emoji) and drops it once the stream is lost.

    Colours as `colour` says, or as rich finds the terminal.
    """
    return Console(
        file=cast(TextIO, Lossy(stream)),
        force_terminal=colour,
        no_color=None if colour is None else not colour,
        color_system="auto" if colour is None else "standard" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


class Phase:
    """One piece of work under way; made by :meth:`Progress.phase`."""

    def __init__(self, progress: Progress, name: str, last: float | None) -> None:
        self._progress = progress
        self._start = time.monotonic()
        self.name = name
        self.last = last
        self.done = 0
        self.of: int | None = None
        self.unit = ""
        self.note = ""

    def total(self, count: int, unit: str = "objects") -> None:
        """How many steps there will be, and what one is called."""
        self.of, self.unit = count, unit

    def step(self, done: int | None = None, note: str = "") -> None:
        """One more step is done, or `done` of them in all; `note` says on what."""
        self.done = self.done + 1 if done is None else done
        self.note = note

    def say(self, line: str) -> None:
        """Print one plain line now."""
        self._progress.say(line)

    @property
    def elapsed(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self._start

    def left(self) -> float | None:
        """The seconds it will still take, from the steps done so far or from last time; None if unknown."""
        if self.of and self.done >= max(1, self.of // 20):
            return self.elapsed * (self.of - self.done) / self.done
        if self.last is not None:
            return max(self.last - self.elapsed, 0.0)
        return None

    def line(self) -> str:
        """The state as one line."""
        count = f"{min(self.done, self.of)}/{self.of} {self.unit}, " if self.of else ""
        left = self.left()
        about = f", about {duration(left)} left" if left else ""
        last = f" (last time {duration(self.last)})" if self.last is not None else ""
        note = f": {self.note}" if self.note and not self.of else ""
        return f"{self.name}: {count}{duration(self.elapsed)}{about}{last}{note}"


class Progress:
    """Reports what goes on, on `stream`: a live line on a terminal, else a plain line at most every 15 s.

    All text is made safe to print, and a stream that is lost stops nothing. How long each phase took is remembered
    below `cache_folder` (None: not remembered).
    """

    def __init__(self, cache_folder: Path | None, stream: TextIO | None = None, every: float = PLAIN_EVERY) -> None:
        self._folder = cache_folder
        self._every = every
        self._console = console(stream or sys.stderr)
        self._lock = threading.RLock()
        self._phases: list[Phase] = []
        self._live: Live | None = None

    def say(self, line: str) -> None:
        """Print one plain line now."""
        with self._lock:
            self._console.print(Text(one_line(line)), soft_wrap=True)
            self._console.file.flush()

    @contextlib.contextmanager
    def phase(self, name: str, key: str) -> Iterator[Phase]:
        """A piece of work that takes a while; its duration is remembered under `key`.

        A phase that raises is not remembered.
        """
        last = self._recall(key)
        phase = Phase(self, name, last)
        self.say(f"{name}: started" + (f" (last time {duration(last)})" if last is not None else ""))
        with _Ticker(self, phase):
            try:
                yield phase
            except BaseException:
                self.say(f"{name}: stopped after {duration(phase.elapsed)}")
                raise
        count = f", {phase.done} {phase.unit}" if phase.of else ""
        self.say(f"{name}: done in {duration(phase.elapsed)}{count}")
        self._remember(key, phase.elapsed)

    # --- the live line -----------------------------------------------------------------------

    def begin(self, phase: Phase) -> None:
        """Shows a phase on the terminal; for :class:`_Ticker`."""
        with self._lock:
            self._phases.append(phase)
            if self._console.is_terminal and self._live is None:
                self._live = Live(
                    get_renderable=self._picture, console=self._console, transient=True, refresh_per_second=4
                )
                self._live.start()

    def end(self, phase: Phase) -> None:
        """Takes a phase off the terminal."""
        with self._lock:
            self._phases.remove(phase)
            live = self._live if not self._phases else None
            if live is not None:
                self._live = None
        if live is not None:  # outside our lock: it waits for its thread, which draws under the lock
            live.stop()

    def _picture(self) -> Text:
        phases = list(self._phases)
        notes = [f"  {phase.note}" if phase.note and phase.of else "" for phase in phases]
        lines = [one_line(phase.line() + note) for phase, note in zip(phases, notes, strict=True)]
        return Text("\n".join(lines), style="cyan", no_wrap=True, overflow="ellipsis")

    @property
    def plain_seconds(self) -> float | None:
        """Seconds between plain lines, or None on a terminal."""
        return None if self._console.is_terminal else self._every

    # --- memory --------------------------------------------------------------------------------

    def _file(self, key: str) -> Path | None:
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        return None if self._folder is None else self._folder / "durations" / f"{name}.json"

    def _recall(self, key: str) -> float | None:
        file = self._file(key)
        if file is None or not file.exists():
            return None
        try:
            return float(json.loads(file.read_text())["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # only an estimate: a damaged one is as good as none

    def _remember(self, key: str, seconds: float) -> None:
        file = self._file(key)
        if file is not None:
            with contextlib.suppress(OSError, HarnessError):  # only an estimate: work that is done stays done
                write_atomically(file, json.dumps({"key": key, "seconds": round(seconds, 2)}))


class _Ticker:
    """Shows a phase: a live line, or a plain line now and then, also between its steps."""

    def __init__(self, progress: Progress, phase: Phase) -> None:
        self._progress = progress
        self._phase = phase
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._progress.begin(self._phase)
        if self._progress.plain_seconds is not None:
            self._thread = threading.Thread(target=self._tick, args=(self._progress.plain_seconds,), daemon=True)
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._progress.end(self._phase)

    def _tick(self, every: float) -> None:
        while not self._over.wait(every):
            self._progress.say(self._phase.line())
