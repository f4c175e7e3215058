# SPDX-License-Identifier: GPL-2.0-only
"""state.jsonl: what a long command has done, on disk before it goes on, so that the same command continues.

The first line has the request; a folder that holds another one is refused. Each further line is one
Record. A line that was cut short by a power failure is the last one, and is dropped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from harness.core.errors import HarnessError, UsageError
from harness.core.records import SCHEMA, decode, encode

STATE = "state.jsonl"
HEAD = b'{"schema":'
"""The first line of a state."""


class Outcome(StrEnum):
    """How one run ended, with regard to the failure that is looked for."""

    FAILS = "fails"
    PASSES = "passes"
    BUILD = "build"
    """The kernel did not build, and that is not what is looked for."""
    BOOT = "boot"
    """It did not boot, or died in another way than the one that is looked for, before anything was tested."""
    OTHER = "other"
    """The test failed in another way."""
    UNCLEAR = "unclear"
    """It could not be judged."""


@dataclass(frozen=True)
class Finding:
    """One finding of a run, as the report shows it; `test` is the id of the test that had it."""

    signature: str
    title: str
    test: str
    place: str = ""


@dataclass(frozen=True)
class Run:
    """One run of one point.

    `why` is the run's own first reason. `seconds` is wall time, of which
    `build_seconds` went into a kernel; `kernel` is its cache key, empty where there is none, and `fresh` means that it
    was not in the cache. `fixups` are the patches without which it would not build. `out` is the folder of the
    results, relative to the bisection's; `tests` is how many tests were run, without those that the harness adds.
    """

    outcome: Outcome
    why: str = ""
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0
    build_seconds: float = 0.0
    kernel: str = ""
    fresh: bool = False
    fixups: tuple[str, ...] = ()
    out: str = ""
    started: float = 0.0
    tests: int = 0


@dataclass(frozen=True)
class Record:
    """One line of the state: a `run` of `point`, or a `note` by its name with a permanent result."""

    point: str = ""
    run: Run | None = None
    note: str = ""
    data: Any = None


@dataclass
class State:
    """The state of one long command, open for appending, and locked. `what` it is, in words, is for messages."""

    path: Path
    descriptor: int
    what: str = "bisection"
    runs: dict[str, list[Run]] = field(default_factory=dict)
    order: list[tuple[str, Run]] = field(default_factory=list)
    """All runs in their order."""
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, asked: Mapping[str, Any], what: str = "bisection") -> Self:
        """The state in `folder`, made if there is none.

        Raises UsageError where the folder holds another one, one that is under way, or something else, and HarnessError
        when the disk refuses.
        """
        path = folder / STATE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            said = f"cannot use {folder} for the {what}: {error.strerror}"
            raise UsageError(said, step="choose another folder with --out") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            said = f"another process is at this {what}: {folder}"
            raise UsageError(said, step="wait for it, or choose another folder with --out") from error
        state = cls(path, descriptor, what)
        try:
            state._read(json.loads(json.dumps(encode(asked))))
        except BaseException:
            state.close()
            raise
        return state

    def _read(self, asked: Mapping[str, Any]) -> None:
        data = self.path.read_bytes()
        *lines, rest = data.split(b"\n")
        if rest and not lines and not rest.startswith(HEAD[: len(rest)]) and rest.strip(b"\0"):
            raise self._foreign()
        if rest:
            os.ftruncate(self.descriptor, len(data) - len(rest))
        if not lines:
            self._append({"schema": SCHEMA, "asked": asked})
            return
        try:
            head, *records = [json.loads(line) for line in lines]
            schema, there = head["schema"], head["asked"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._foreign() from error
        if schema != SCHEMA:
            raise UsageError(
                f"{self.path} has schema {schema!r}, this kharness goes on with {SCHEMA}",
                step="use the version that wrote it, or choose another folder with --out",
            )
        if there != asked:
            both = {**there, **asked} if isinstance(there, dict) else asked
            keys = [key for key in both if not isinstance(there, dict) or there.get(key) != asked.get(key)]
            differs = ", ".join(keys[:3]) or "what was asked"
            raise UsageError(
                f"{self.path.parent} holds another {self.what} (it differs in {differs})",
                step="choose another folder with --out, or remove this one",
            )
        for number, record in enumerate(records, 2):
            try:
                self._take(decode(record, Record))
            except UsageError as error:
                raise UsageError(
                    f"{self.path}:{number}: {error.what}",
                    step="use the version that wrote it, or choose another folder with --out",
                ) from error

    def _foreign(self) -> UsageError:
        return UsageError(f"{self.path} is no state of a {self.what}", step="choose another folder with --out")

    def _take(self, record: Record) -> None:
        if record.run is not None:
            self.runs.setdefault(record.point, []).append(record.run)
            self.order.append((record.point, record.run))
        else:
            self.notes[record.note] = record.data

    def ran(self, point: str, run: Run) -> None:
        """Record a run; it is on the disk when this returns. Raises HarnessError when the disk refuses."""
        self._write(Record(point=point, run=run))

    def note(self, name: str, data: Any) -> None:
        """Record a result that must not be computed again, as plain values."""
        self._write(Record(note=name, data=data))

    def _write(self, record: Record) -> None:
        self._append(encode(record))
        self._take(record)

    def _append(self, data: Mapping[str, Any]) -> None:
        whole = (json.dumps(data, ensure_ascii=True) + "\n").encode()
        try:
            at = os.fstat(self.descriptor).st_size
            if os.write(self.descriptor, whole) != len(whole):
                os.ftruncate(self.descriptor, at)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.descriptor)
        except OSError as error:
            what = f"cannot write {self.path}: {error.strerror}"
            raise HarnessError(what, step="free space on that disk; the same command goes on") from error

    def close(self) -> None:
        """Unlock the state; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
