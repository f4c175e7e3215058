# SPDX-License-Identifier: GPL-2.0-only
"""Owns lock files: flock(2) with the holder's pid in the file, freed by the kernel when a process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path


class Lock:
    """One held lock; `release` gives it back. Its descriptor is close-on-exec: children never keep it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def acquire(
    path: Path,
    *,
    shared: bool = False,
    wait: bool = True,
    on_wait: Callable[[str], None] | None = None,
) -> Lock | None:
    """Takes the lock, or returns None if it is held and `wait` is False.

    `on_wait` is told once who holds it (a pid, or "another run") before waiting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        taken = False
        try:
            taken = _take(descriptor, shared, wait, on_wait)
            if taken and _still_there(path, descriptor):
                if not shared:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                lock, descriptor = Lock(path, descriptor), -1
                return lock
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if not taken:
            return None


def _take(descriptor: int, shared: bool, wait: bool, on_wait: Callable[[str], None] | None) -> bool:
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        if on_wait is not None:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            on_wait(f"pid {pid}" if pid.isdigit() else "another run")
        fcntl.flock(descriptor, mode)
    return True


def _still_there(path: Path, descriptor: int) -> bool:
    """Whether the file was not removed (by a prune) between opening and locking it."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    return False
