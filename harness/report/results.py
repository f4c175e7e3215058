# SPDX-License-Identifier: GPL-2.0-only
"""The output folder of a run: whose it is, results.json in it, and out/latest."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import event_log
from harness.core.errors import HarnessError, UsageError
from harness.core.records import SCHEMA, Verdict, decode, encode
from harness.verdict import Results, judge

MARKER = ".kharness-out"
"""This file marks a folder as one that a run made, and is locked while the run lives."""

RESULTS = "results.json"
EVENTS = "events.jsonl"
OLD = "old"
"""Where a folder named by --out keeps the run before this one."""


@dataclass
class Out:
    """An output folder locked by this process: no second run gets it until :meth:`release`."""

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
    again: the earlier run's files go to its ``old`` folder, so that a stale verdict is never read there. `latest` is
    moved before the run starts for the same reason, and only for folders within `base`. Raises UsageError
    for a folder that is neither empty nor a run's, or that a live run uses.
    """
    path = base / time.strftime(f"%Y%m%dT%H%M%SZ-{os.getpid()}", time.gmtime()) if out is None else out
    try:
        claimed = _hold(path)
        try:
            if path.resolve().parent == base.resolve():
                point(base / "latest", path.name)
        except BaseException:
            claimed.release()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot use {path} for the results: {error.strerror}", step="choose another folder with --out"
        ) from error
    return claimed


def _hold(path: Path) -> Out:
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder", step="choose another one with --out")
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()) and not (path / MARKER).is_file():
        raise UsageError(
            f"{path} is not empty and holds no results of kharness", step="choose an empty or new folder with --out"
        )
    lock = os.open(path / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UsageError(f"another run is writing to {path}", step="choose another folder with --out") from error
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
    """Make `link` point to `target`, atomically. Raises UsageError where something other than a link is there."""
    if link.exists() and not link.is_symlink():
        raise UsageError(f"{link} is in the way of the link to the newest run", step=f"move {link} away")
    fresh = link.with_name(f".latest-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def store(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises HarnessError naming the file when the disk refuses."""
    fresh = _fresh(path, text)
    try:
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise _refused(path, error) from error


def store_all(texts: Mapping[Path, str]) -> None:
    """Write all of these files, or none of them: an old one does not stay either. Raises what :func:`store` does."""
    fresh: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            fresh[path] = _fresh(path, text)
        for path, whole in fresh.items():
            whole.replace(path)
    except BaseException as error:
        for path in (*fresh.values(), *texts):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _refused(next(iter(texts)), error) from error
        raise


def _fresh(path: Path, text: str) -> Path:
    """Write the text to a file beside `path`, synced to disk. Raises HarnessError when the disk refuses."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise _refused(path, error) from error
    return fresh


def _refused(path: Path, error: OSError) -> HarnessError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    step = "free space on that disk" if full else "choose another folder with --out"
    return HarnessError(f"cannot write {path}: {error.strerror}", step=step)


def render(results: Results) -> str:
    """The text of results.json."""
    return json.dumps(encode(results), indent=1, ensure_ascii=True) + "\n"


def write(results: Results, out: Path) -> Path:
    """Write OUT/results.json atomically and return its path."""
    path = out / RESULTS
    store(path, render(results))
    return path


def _killed(judged: Results) -> Results:
    """The results of a run that was killed before it wrote them."""
    if judged.verdict is not Verdict.PASS:
        return judged
    why = "the run was ended before it had written its results"
    return replace(judged, verdict=Verdict.INCONCLUSIVE, why=(why,))


def read(path: Path) -> Results:
    """The results of a run from its folder or its results.json; UsageError when there are none.

    A killed run left none: then they are what its event log shows, but never a pass.
    """
    file = path / RESULTS if path.is_dir() else path
    events = file.with_name(EVENTS)
    if not file.exists() and events.is_file():
        return _killed(judge(event_log.read(events)))
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"no results in {path}: {error.strerror}", step="give the folder of a run") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON: {error}", step="give the folder of a run") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"{file} has schema {schema!r}, this kharness reads {SCHEMA}", step="use the version that wrote it"
        )
    return decode(data, Results)
