# SPDX-License-Identifier: GPL-2.0-only
"""events.jsonl: the append-only log that the runner and the workers write together."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.core.errors import HarnessError, KharnessError
from harness.core.records import SCHEMA, Event, EventKind, decode, encode

BLOCK = 65536
"""Bytes that are read at once."""

CHANGED = "the event log is not what was written"

RUNNER = "conductor"
"""The name of the runner as a writer, which writes the first and the last event of a run."""


class EventLog:
    """Appends events to one file; several processes may have an EventLog on the same path, each as another `writer`.

    Every event is one write of a whole line, made under a lock, so lines never interleave and none stays half written.
    Raises HarnessError when the file cannot be opened or the disk does not take the whole line.
    """

    def __init__(self, path: Path, run_id: str, writer: str = RUNNER) -> None:
        self.path = path
        self.run_id = run_id
        self.writer = writer
        self._written = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HarnessError(f"cannot open the event log {path}: {error.strerror}", step="check --out") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def emit(self, kind: EventKind, data: Any = None, kernel: str = "", test: str = "") -> None:
        """Append one event; `data` is the record (or plain mapping) that records.EventKind names."""
        event = Event(
            schema=SCHEMA,
            time=time.time(),
            run=self.run_id,
            kind=kind,
            kernel=kernel,
            test=test,
            data=encode(data) if data is not None else {},
            writer=self.writer,
            number=self._written + 1,
        )
        # ASCII only: kernel logs may hold lone surrogates, which UTF-8 cannot carry.
        line = (json.dumps(encode(event), ensure_ascii=True, separators=(",", ":")) + "\n").encode("ascii")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                self._append(line)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:
            raise HarnessError(
                f"cannot write the event log {self.path}: {error.strerror}", step=_step(error)
            ) from error
        self._written += 1

    def _append(self, line: bytes) -> None:
        """Write a line whole or not at all. First remove an incomplete line that a killed writer left."""
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            size = _last_end(self._fd, size)
            os.ftruncate(self._fd, size)
        written = os.write(self._fd, line)
        if written != len(line):
            os.ftruncate(self._fd, size)
            raise HarnessError(
                f"the event log {self.path} took {written} of {len(line)} bytes", step="free space on that disk"
            )

    def end(self, why: str = "") -> None:
        """Append run-end with the number and the hash of the lines before it, and sync the file.

        `why` is empty for a run that came to its end, else what cut it short. Call it after every other writer has
        ended and before the verdict is asked for. A second end cancels the first.
        """
        try:
            before = self.path.read_bytes()
        except OSError as error:
            raise HarnessError(
                f"cannot read the event log {self.path}: {error.strerror}", step="check --out"
            ) from error
        whole = before[: before.rfind(b"\n") + 1]  # without the incomplete line of a killed writer
        summary = {"why": why, "events": whole.count(b"\n"), "sha256": hashlib.sha256(whole).hexdigest()}
        self.emit(EventKind.RUN_END, summary)
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise HarnessError(
                f"cannot write the event log {self.path}: {error.strerror}", step=_step(error)
            ) from error


def _last_end(fd: int, size: int) -> int:
    """The offset at which the last whole line of a file ends."""
    while size:
        start = max(0, size - BLOCK)
        found = os.pread(fd, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _step(error: OSError) -> str:
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    return "free space on that disk" if full else "check that the folder is still there"


def read(path: Path) -> Iterator[Event]:
    """The events of a log, in the order they were written.

    An incomplete last line, as after a power cut, is ignored; anything else that is not an event raises HarnessError
    naming the line, as a damaged log must not be judged. The run-end of a log that was changed says so.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise HarnessError(
            f"cannot read the event log {path}: {error.strerror}", step="give the folder of a run"
        ) from error
    with file:
        before = hashlib.sha256()
        for number, line in enumerate(file, start=1):
            try:
                event = _parse(line)
            except (ValueError, KharnessError) as error:
                if not line.endswith(b"\n"):
                    return
                raise HarnessError(
                    f"{path}:{number}: not an event: {error}", step="run again; this log cannot be judged"
                ) from error
            if event.kind is EventKind.RUN_END and event.data.get("sha256", before.hexdigest()) != before.hexdigest():
                event = replace(event, data={**event.data, "why": event.data.get("why") or CHANGED})
            before.update(line)
            yield event


def _parse(line: bytes) -> Event:
    data = json.loads(line)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}, this kharness reads {SCHEMA}")
    return decode(data, Event)
