# SPDX-License-Identifier: GPL-2.0-only
"""Owns the output folder of a run: whose it is, results.json in it, and out/latest."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.records import SCHEMA, decode, encode
from harness.verdict import Results

MARKER = ".kharness-out"
"""Marks a folder as one that a run made, and is locked while the run lives."""

RESULTS = "results.json"
OLD = "old"
"""Where a folder named by --out keeps the run before this one."""


@dataclass
class Out:
    """An output folder held by this process: no second run gets it until :meth:`release`."""

    path: Path
    lock: int

    def release(self) -> None:
        """Let another run have the folder; a second call does nothing."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def claim(out: Path | None = None, base: Path = Path("out")) -> Out:
    """Make the folder of a new run, empty, and point ``base/latest`` at it.

    Without `out` it is ``base/<UTC timestamp>-<pid>``. A named folder that an earlier run made is taken
    again: what that run left goes to its ``old`` folder, so that nobody reads a stale verdict there. `latest` is
    moved before the run starts for the same reason, and only for folders within `base`. Raises UsageError
    for a folder that is neither empty nor a run's, or that a live run holds.
    """
    path = base / time.strftime(f"%Y%m%dT%H%M%SZ-{os.getpid()}", time.gmtime()) if out is None else out
    try:
        held = _hold(path)
        try:
            if path.resolve().parent == base.resolve():
                point(base / "latest", path.name)
        except BaseException:
            held.release()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot use {path} for the results: {error.strerror}", step="choose another folder with --out"
        ) from error
    return held


def _hold(path: Path) -> Out:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder", step="choose another one with --out")
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()) and not (path / MARKER).is_file():
        raise UsageError(
            f"{path} is not empty and holds no results of kharness",
            step="choose an empty or new folder with --out",
        )
    lock = os.open(path / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UsageError(
            f"another run is writing to {path}", step="choose another folder with --out"
        ) from error
    _set_aside(path)
    return Out(path, lock)


def _set_aside(path: Path) -> None:
    left = [entry for entry in path.iterdir() if entry.name not in (MARKER, OLD)]
    if not left:
        return
    if (path / OLD).exists():
        shutil.rmtree(path / OLD)
    (path / OLD).mkdir()
    for entry in left:
        entry.rename(path / OLD / entry.name)


def point(link: Path, target: str) -> None:
    """Makes `link` lead to `target`, in one step. Raises UsageError where something else lies there."""
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link} is in the way of the link to the newest run", step=f"move {link} away")
    fresh = link.with_name(f".latest-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def store(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises HarnessError naming the file when the disk refuses."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HarnessError(
            f"cannot write {path}: {error.strerror}",
            step="free space on that disk" if full else "choose another folder with --out",
        ) from error


def write(results: Results, out: Path) -> Path:
    """Write OUT/results.json atomically and return its path."""
    path = out / RESULTS
    store(path, json.dumps(encode(results), indent=1, ensure_ascii=True) + "\n")
    return path


def read(path: Path) -> Results:
    """The results of a run from its folder or its results.json; UsageError when there are none."""
    file = path / RESULTS if path.is_dir() else path
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"no results in {path}: {error.strerror}", step="give the folder of a run"
        ) from error
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}", step="give the folder of a run") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{file} has schema {schema!r}, this kharness reads {SCHEMA}",
            step="use the version that wrote it",
        )
    return decode(data, Results)
