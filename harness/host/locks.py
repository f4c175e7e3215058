# SPDX-License-Identifier: GPL-2.0-only
"""Lock files: flock(2) with the holder's pid in the file, freed by the kernel when a process dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import HarnessError
from harness.host.process import NO_SPACE, DiskFull

_STEPS = {
    errno.ENOLCK: "put the folder on a local file system: this one has no locks",
    errno.ENOSYS: "put the folder on a local file system: this one has no locks",
    errno.EOPNOTSUPP: "put the folder on a local file system: this one has no locks",
    errno.ELOOP: "remove it: a lock is a file, and no link is followed",
    errno.EROFS: "mount it writable, or set XDG_CACHE_HOME to another folder",
}


class Lock:
    """One held lock, until `release` or the end of this object. Its descriptor is close-on-exec: no child keeps it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def acquire(
    path: Path,
    *,
    shared: bool = False,
    wait: bool = True,
    on_wait: Callable[[str], None] | None = None,
    make: bool = True,
) -> Lock | None:
    """Take the lock, or return None if it is held and `wait` is False, or it is not there and `make` is False.

    `on_wait` is called once with its holder (a pid, or "another run") before waiting. Raises DiskFull, and HarnessError
    where the file cannot be opened (a link is not followed) or the file system knows no locks.
    """
    try:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        return _acquire(path, os.O_CREAT if make else 0, shared, wait, on_wait)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(path.parent) from error
        step = _STEPS.get(error.errno or 0, f"see who owns it: ls -ld {path}")
        raise HarnessError(f"cannot lock {path}: {error.strerror}", step=step) from error


def _acquire(path: Path, more: int, shared: bool, wait: bool, on_wait: Callable[[str], None] | None) -> Lock | None:
    while True:
        try:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags | more, 0o600)
        except FileNotFoundError:
            if more:
                raise
            return None
        taken = False
        try:
            taken = _take(descriptor, shared, wait, on_wait)
            if taken and _still_there(path, descriptor):
                if not shared:
                    _sign(descriptor)
                lock, descriptor = Lock(path, descriptor), -1
                return lock
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if not taken:
            return None


def _sign(descriptor: int) -> None:
    """Write our pid, for those that wait. On a full disk it is left out: pruning takes locks, too."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise


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
        return os.lstat(path).st_ino == os.fstat(descriptor).st_ino
    return False
