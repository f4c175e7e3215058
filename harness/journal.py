# SPDX-License-Identifier: GPL-2.0-only
"""Owns events.jsonl: the append-only log that the conductor and the test child write together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import HarnessError, KharnessError
from harness.records import SCHEMA, Event, EventKind, decode, encode


class Journal:
    """Appends events to one file; several processes may hold a Journal on the same path.

    Every event is one O_APPEND write, so lines of different processes never interleave. Raises
    HarnessError when the file cannot be opened or the disk does not take the whole line.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self.run_id = run_id
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HarnessError(
                f"cannot open the event log {path}: {error.strerror}", step="check --out"
            ) from error

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
        )
        # ASCII only: kernel logs may hold lone surrogates, which UTF-8 cannot carry.
        line = (json.dumps(encode(event), ensure_ascii=True, separators=(",", ":")) + "\n").encode("ascii")
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            raise HarnessError(
                f"cannot write the event log {self.path}: {error.strerror}", step=_step(error)
            ) from error
        if written != len(line):
            raise HarnessError(
                f"the event log {self.path} took {written} of {len(line)} bytes",
                step="free space on that disk",
            )

    def end(self, why: str = "") -> None:
        """Append run-end with the number of events before it, by which a lost line is noticed.

        `why` is empty for a run that came to its end, else what cut it short. Call it once, after
        every other writer has ended and before the verdict is asked for.
        """
        try:
            before = self.path.read_bytes().count(b"\n")
        except OSError as error:
            raise HarnessError(
                f"cannot read the event log {self.path}: {error.strerror}", step="check --out"
            ) from error
        self.emit(EventKind.RUN_END, {"why": why, "events": before})


def _step(error: OSError) -> str:
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    return "free space on that disk" if full else "check that the folder is still there"


def read(path: Path) -> Iterator[Event]:
    """The events of a log, in the order they were written.

    A last line that a power cut left without its end is ignored; anything else that is not an event
    raises HarnessError naming the line, for a log that was damaged elsewhere must not be judged.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise HarnessError(
            f"cannot read the event log {path}: {error.strerror}", step="give the folder of a run"
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            try:
                event = _parse(line)
            except (ValueError, KharnessError) as error:
                if not line.endswith(b"\n"):
                    return
                raise HarnessError(
                    f"{path}:{number}: not an event: {error}", step="run again; this log cannot be judged"
                ) from error
            yield event


def _parse(line: bytes) -> Event:
    data = json.loads(line)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}, this kharness reads {SCHEMA}")
    return decode(data, Event)
