# SPDX-License-Identifier: GPL-2.0-only
"""Owns the pytest children of a run: started together, heard until the last has ended, their tests counted."""

from __future__ import annotations

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

from harness.host.process import end, spawn
from harness.host.progress import Phase, Progress
from harness.records import EventKind
from harness.words import plural

GOODBYE_SECONDS = 15.0
"""For the children to end their guests after an interrupt."""

LOOK_SECONDS = 1.0
"""How often the event log is looked at while the children say nothing."""

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
        self._file.seek(0, os.SEEK_END)
        self._rest = b""
        self._due = 0
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def look(self) -> None:
        """Takes in what is new; a line that is not whole yet waits for the next look."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            event = json.loads(line)
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


def run(
    argvs: Sequence[Sequence[str]], env: Mapping[str, str], out: Path, progress: Progress, what: str, key: str
) -> None:
    """Runs the children to their ends; what they print goes to pytest.log in `out`, and on the screen but for the dots.

    `key` is under what the duration is remembered. On an exception they are given a moment to end their guests.
    """
    children: list[subprocess.Popen[bytes]] = []
    with progress.phase(what, key) as phase, Tally(out / "events.jsonl", phase) as tally:
        try:
            for argv in argvs:
                children.append(spawn(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
            _listen(children, out, progress, tally)
        except BaseException:
            _interrupt(children, progress)
            raise
        finally:
            for child in children:
                end(child)


def _listen(children: Sequence[subprocess.Popen[bytes]], out: Path, progress: Progress, tally: Tally) -> None:
    """Shows and keeps what the children print, line by line, until all have ended."""
    unfinished: dict[int, bytes] = {}
    with selectors.DefaultSelector() as selector, open(out / "pytest.log", "ab") as log:
        for child in children:
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(LOOK_SECONDS):
                data = os.read(key.fd, 65536)
                *lines, unfinished[key.fd] = (unfinished.get(key.fd, b"") + data).split(b"\n")
                if not data:
                    selector.unregister(key.fileobj)
                    lines = [unfinished.pop(key.fd)] if unfinished[key.fd] else []
                for line in lines:
                    log.write(line + b"\n")
                    text = line.decode(errors="replace")
                    if not _DOTS.fullmatch(text):
                        progress.say(text)
            tally.look()
    for child in children:
        child.wait()


def _interrupt(children: Sequence[subprocess.Popen[bytes]], progress: Progress) -> None:
    """Lets the children end their guests and write their last events."""
    for child in children:
        child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GOODBYE_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            progress.say(f"a test child did not end within {GOODBYE_SECONDS:.0f} s: killed")
