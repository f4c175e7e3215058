# SPDX-License-Identifier: GPL-2.0-only
"""Private temporary folders: closed to others, removed after use, or after a SIGKILL by the next run's sweep.

``TMPDIR/kharness-XXXXXXXX/`` holds ``lock``, which is held by flock(2) while its maker lives, and ``t``, the folder
that is given out. Only a folder of this shape is ever swept: ours, no link, and its lock free.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.words import plural
from harness.host.files import disk_bytes, is_folder
from harness.host.interrupts import signals_blocked
from harness.host.locks import Lock, acquire
from harness.host.process import NO_SPACE, DiskFull
from harness.host.removal import remove

PREFIX = "kharness-"
LOCK, INSIDE = "lock", "t"
FALLBACK = "/tmp"
"""The parent of folders whose path below TMPDIR would be too long."""

MIB = 1 << 20
_NAME = re.compile(PREFIX + r"[a-z0-9_]{8}")


class Scratch:
    """A temporary folder, `path`, below `parent` (default: TMPDIR), until :meth:`close` or our end.

    `mode` is 0700 where no other user's program has to read there. Raises DiskFull, and HarnessError naming the folder
    in which none can be made.
    """

    def __init__(self, parent: str | None = None, mode: int = 0o700) -> None:
        self._lock: Lock | None
        self._top, self._lock = _claimed(parent or _parent())
        self.path = self._top / INSIDE
        try:
            self.path.mkdir()
            for folder in (self.path, self._top):
                folder.chmod(mode)  # whatever the umask
        except OSError as error:
            self.close()
            raise _refused(self._top.parent, error) from error

    def close(self) -> None:
        """Remove it; may be called twice. What cannot be removed is left to the next sweep, which reports it."""
        if self._lock is not None:
            with contextlib.suppress(HarnessError, OSError):
                _remove(self._top)
            self._lock.release()
            self._lock = None


@contextlib.contextmanager
def private_folder(mode: int = 0o700) -> Iterator[Path]:
    """A :class:`Scratch` for the block."""
    scratch: Scratch | None = None
    try:
        with signals_blocked():  # an interrupt between the folder and its owner would leave it behind
            scratch = Scratch(mode=mode)
        yield scratch.path
    finally:
        if scratch is not None:
            with signals_blocked():
                scratch.close()


def sweep(say: Callable[[str], None]) -> None:
    """Remove the temporary folders of killed runs, in TMPDIR and FALLBACK, and say how much it was."""
    for parent in dict.fromkeys([_parent(), FALLBACK]):
        tops = ((top, _free(top)) for top in _candidates(Path(parent)))
        remove_dead(Path(parent), tops, _remove, say)


def remove_dead(
    parent: Path, found: Iterable[tuple[Path, Lock | None]], take: Callable[[Path], None], say: Callable[[str], None]
) -> None:
    """Remove those folders of `parent` whose lock `take` returned, and say how much it was, or why one stays."""
    dead, freed = 0, 0
    for folder, lock in found:
        if lock is None:
            continue
        try:
            size = disk_bytes(folder)
            take(folder)
            dead, freed = dead + 1, freed + size
        except (HarnessError, OSError) as error:
            say(f"{folder} of a run that was killed stays: {error}")
        finally:
            lock.release()
    if dead:
        say(f"removed {plural(dead, 'folder')} of runs that were killed from {parent}: {freed / MIB:.1f} MiB")


def _parent() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:  # it has tried TMPDIR, /tmp and others
        step = "free space there, or set TMPDIR to a folder that can be written"
        raise HarnessError("no folder for temporary files can be written", step=step) from error


def _claimed(parent: str) -> tuple[Path, Lock]:
    """A new folder and its lock. If a sweep comes between the two and removes it, another one is made."""
    while True:
        try:
            top = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise _refused(Path(parent), error) from error
        try:
            os.close(os.open(top / LOCK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileNotFoundError:
            continue
        except OSError as error:
            top.rmdir()
            raise _refused(Path(parent), error) from error
        try:
            lock = _lock(top)
        except HarnessError:  # no locks there
            _remove(top)
            raise
        if lock is not None:
            return top, lock


def _lock(top: Path) -> Lock | None:
    """Take the lock in a folder; None where it is held or gone. The file is never made here."""
    if not (top / LOCK).is_file():
        return None
    return acquire(top / LOCK, wait=False, make=False)


def _refused(parent: Path, error: OSError) -> HarnessError:
    if error.errno in NO_SPACE:
        return DiskFull(parent)
    what = f"cannot make a temporary folder in {parent}: {error.strerror}"
    return HarnessError(what, step="set TMPDIR to a folder that can be written")


def _candidates(parent: Path) -> Iterator[Path]:
    """The folders that look like ours: by name and owner; no links."""
    with os.scandir(parent) as entries:
        names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            seen = (parent / name).lstat()
            if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid():
                yield parent / name


def _free(top: Path) -> Lock | None:
    """The lock of a folder whose maker is dead. A maker that died before it made the lock left an empty folder."""
    try:
        names = set(os.listdir(top))
        if not names:
            top.rmdir()
        inside = (top / INSIDE).lstat() if INSIDE in names else None
        if LOCK in names and names <= {LOCK, INSIDE} and (inside is None or stat.S_ISDIR(inside.st_mode)):
            return _lock(top)
    except (OSError, HarnessError):
        return None  # gone meanwhile, or not one of ours
    return None


def _remove(top: Path) -> None:
    """Remove the folder, the lock last: the next sweep finishes one that was killed."""
    if is_folder(top / INSIDE):
        remove(top / INSIDE)
    (top / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # two sweeps at once
        top.rmdir()
