# SPDX-License-Identifier: GPL-2.0-only
"""The workers of a run: started together, heard until the last has ended, their tests counted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from harness.core.errors import HarnessError
from harness.core.event_log import EventLog
from harness.core.plan import SavedTarget
from harness.core.printable import one_line
from harness.core.records import EventKind, WorkerEnd, Workers
from harness.core.words import plural
from harness.host import interrupts
from harness.host.files import filling
from harness.host.process import Child, end, how_ended, spawn
from harness.host.progress import Phase, Progress

GOODBYE_SECONDS = 15.0
"""Seconds for the workers to end their guests after an interrupt."""

LOOK_SECONDS = 1.0
"""Seconds between reads of the event log while the workers print nothing."""

SILENT_SECONDS = 3600.0
"""A worker that neither prints nor writes an event for so long hangs. Nominal: the longest wait of a test itself is
some minutes, and a search or a hunt for a leak prints meanwhile."""

LINE = 65536
"""Bytes after which an unfinished line of a worker is taken as one."""

READS = 16
"""Reads from one worker before the others are read."""

LOG_BYTES = 64 << 20
"""Bytes of the workers' output that are kept in pytest.log."""

CUT = b"[kharness: what the workers print from here on is not kept]\n"

_DOTS = re.compile(r"[.sFExX]+ *(\[ *\d+%\])?")


def searched(budget: float, done: Mapping[str, Any]) -> str:
    """How far a search is: ``search: 34 of 60 s, 412 sequences, 5210 answers compared``."""
    many = f"{plural(done['sequences'], 'sequence')}, {plural(done['compared'], 'answer')} compared"
    return f"search: {min(done['seconds'], budget):.0f} of {budget:.0f} s, {many}"


class Tally:
    """Counts the tests of a session from what is appended to the event log from now on."""

    def __init__(self, events: Path, phase: Phase) -> None:
        self._phase = phase
        self._file: IO[bytes] = events.open("rb")
        self._taken = self._file.seek(0, os.SEEK_END)
        self._due = 0
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def look(self) -> set[str]:
        """Read new lines; returns their writers. An incomplete line waits for the next call.

        A line that is no event is left to the verdict.
        """
        self._file.seek(self._taken)
        *lines, rest = self._file.read().split(b"\n")
        self._taken = self._file.tell() - len(rest)  # its writer may complete it, or another remove it
        writers = set()
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                writers.add(self._take(json.loads(line)))
        return writers

    def _take(self, event: Mapping[str, Any]) -> str:
        if event["kind"] == EventKind.SESSION_START:
            self._due += len(event["data"]["collected"])
            self._phase.total(self._due, "tests")
        elif event["kind"] == EventKind.CANARY:
            self._phase.step(self._done, f"canary: {event['data']['oracle']}")
        elif event["kind"] == EventKind.SEARCH:
            self._phase.step(self._done, searched(event["data"]["seconds"], event["data"]["done"]))
        elif event["kind"] == EventKind.TEST_END:
            self._done += 1
            outcome = event["data"]["outcome"]
            name = event["test"].rpartition("::")[2]
            self._phase.step(self._done, name if outcome == "pass" else f"{name}: {outcome}")
        return str(event.get("writer", ""))


class Worker:
    """One worker: its process, the beginning of its next line, and when it was last active."""

    def __init__(self, process: Child, writer: str) -> None:
        self.process = process
        self.writer = writer
        self.heard = time.monotonic()
        self.how = ""
        """Why we ended it, if we did."""
        self._line = b""

    @property
    def pipe(self) -> IO[bytes]:
        """Its output, which is read without waiting."""
        assert self.process.stdout is not None
        return self.process.stdout

    def read(self) -> tuple[list[bytes], bool]:
        """Its new lines, and whether more may come. Never waits."""
        over = self.process.poll() is not None  # before reading: then all of its output can be read
        lines: list[bytes] = []
        for _ in range(READS):
            try:
                data = os.read(self.pipe.fileno(), LINE)
            except BlockingIOError:
                return lines, not over
            self.heard = time.monotonic()
            *ended, self._line = (self._line + data).split(b"\n")
            lines += ended
            if self._line and (not data or len(self._line) >= LINE):
                lines.append(self._line)
                self._line = b""
            if not data:
                return lines, False
        return lines, not over


class CappedLog:
    """pytest.log: the workers' output, up to LOG_BYTES."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = LOG_BYTES

    def write(self, line: bytes) -> None:
        """Write a line, or say once that no more are written."""
        if self._left <= 0:
            return
        self._left -= len(line) + 1
        self._file.write(line + b"\n" if self._left > 0 else CUT)


def run(
    argvs: Sequence[Sequence[str]],
    env: Mapping[str, str],
    out: Path,
    progress: Progress,
    what: str,
    key: str,
    targets: Sequence[SavedTarget] = (),
) -> None:
    """Run the workers to their ends; their output goes to pytest.log in `out`, and without pytest's dots to the screen.

    They share `targets`, of one architecture, and the duration is remembered under `key`. Their number is written to
    the event log before the first is started, and how each of them ended, whatever ends this. A silent one is killed.
    On an exception they get GOODBYE_SECONDS to end their guests.
    """
    arch = targets[0].kernel.arch if targets else ""
    events = out / "events.jsonl"
    workers: list[Worker] = []
    with (
        EventLog(events, out.resolve().name, f"{arch}/children") as event_log,
        progress.phase(what, key) as phase,
        Tally(events, phase) as tally,
    ):
        places = tuple((target.kernel.id, target.machine.spec.name) for target in targets)
        event_log.emit(EventKind.CHILDREN, Workers(arch, len(argvs), places))
        try:
            for shard, argv in enumerate(argvs):
                process = spawn(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                workers.append(Worker(process, f"{arch}/{shard}"))
            silent = SILENT_SECONDS * max([1.0, *(target.machine.scale for target in targets)])
            _listen(workers, out, progress, tally, silent)
        except BaseException:
            try:
                _interrupt(workers, progress)
            finally:
                with contextlib.suppress(HarnessError):  # the verdict misses the event
                    _ended(workers, arch, event_log)
            raise
        _ended(workers, arch, event_log)


def _ended(workers: Sequence[Worker], arch: str, event_log: EventLog) -> None:
    """End the remaining workers and record how each of them ended."""
    statuses = [end(worker.process) for worker in workers]
    for worker in workers:
        worker.pipe.close()
    for shard, (worker, status) in enumerate(zip(workers, statuses, strict=True)):
        event_log.emit(EventKind.CHILD_END, WorkerEnd(arch, shard, status, worker.how or how_ended(status)))


def _listen(workers: Sequence[Worker], out: Path, progress: Progress, tally: Tally, silent: float) -> None:
    """Show and keep the workers' output, line by line, until all have ended."""
    with filling(out), selectors.DefaultSelector() as selector, open(out / "pytest.log", "ab") as file:
        log = CappedLog(file)
        for worker in workers:
            os.set_blocking(worker.pipe.fileno(), False)
            selector.register(worker.pipe, selectors.EVENT_READ, worker)
        while selector.get_map():
            selector.select(LOOK_SECONDS)
            for key in list(selector.get_map().values()):
                lines, more = key.data.read()
                _show(lines, log, progress)
                if not more:
                    selector.unregister(key.fileobj)
            writers = tally.look()
            for worker in workers:
                if worker.writer in writers:
                    worker.heard = time.monotonic()
            _end_the_silent(workers, silent)
        _wait_for_the_ends(workers, silent)
    tally.look()


def _show(lines: Sequence[bytes], log: CappedLog, progress: Progress) -> None:
    for line in lines:
        text = one_line(line.decode(errors="replace"))
        log.write(text.encode())
        if not _DOTS.fullmatch(text):
            progress.say(text)


def _wait_for_the_ends(workers: Sequence[Worker], silent: float) -> None:
    """Wait for the ends of workers that have closed their output; a silent one is killed.

    A worker may end between any two looks at it.
    """
    while left := [worker for worker in workers if worker.process.poll() is None]:
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it may be silent for too long
            left[0].process.wait(LOOK_SECONDS)
        _end_the_silent(left, silent)


def _end_the_silent(workers: Sequence[Worker], silent: float) -> None:
    """Kill each worker that was not active for so many seconds."""
    for worker in workers:
        if worker.process.poll() is None and time.monotonic() - worker.heard > silent:
            worker.how = f"it printed nothing for {silent:.0f} s: killed"
            end(worker.process)


def _interrupt(workers: Sequence[Worker], progress: Progress) -> None:
    """Let the workers end their guests and write their last events."""
    for worker in workers:
        worker.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GOODBYE_SECONDS
    for worker in workers:
        if not interrupts.wait(worker.process, deadline - time.monotonic()):
            worker.how = "it did not end in time after an interrupt: killed"
            progress.say("a worker did not end in time: killed")
