# SPDX-License-Identifier: GPL-2.0-only
"""The cache folder: whole entries under content keys, locked, capped, least recently used go first.

Layout under the root, which is its owner's alone: ``KIND/KEY/`` is an entry's content, ``.meta/KIND/`` the record of
what it holds (``KEY.json``, whose mtime is the last use), what was found whole since the host was booted (``KEY.seen``)
and its locks (``KEY.make``, ``KEY.use``), ``.staging/`` what is being made. An entry without a record is none.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.host import contents, whose
from harness.host.files import disk_bytes, is_folder, make_folder, sync, write_atomically
from harness.host.locks import Lock, acquire
from harness.host.process import NO_SPACE, DiskFull
from harness.host.removal import remove
from harness.host.scratch import remove_dead

TOOLS = ("venv", "toolchain", "guest")
"""Kinds that everything else is made with, and that can only be made again with a network."""

FOLDER = "folder"
"""The kind of plain folders, which are worked on in place."""

REMADE_FOLDERS = ("ccache", "git")
"""Prefixes of plain folders that a prune may remove: their content is made again."""

SKEW_SECONDS = 60.0
"""An entry that was used so much later than now was used while the clock was wrong."""

DRAFT_SECONDS = 3600.0
"""Age of a draft (see :func:`write_atomically`) whose writer is dead: it lives for a moment."""

_HOSTS_FAULT = frozenset({errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

__all__ = ["TOOLS", "Cache", "Entry", "disk_bytes", "remove", "write_atomically"]

Say = Callable[[str], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


@dataclass(frozen=True)
class Entry:
    """One entry, or plain folder. `size` is bytes on disk, `used` seconds since the epoch (0: unknown)."""

    kind: str
    key: str
    path: Path
    size: int
    used: float
    live: bool


class Cache:
    """Content-addressed entries below `root`, together at most `cap_bytes` (0: no cap).

    What :meth:`produce`, :meth:`get` or :meth:`folder` returned counts as in use as long as this object exists, or
    until :meth:`release`; no prune of any process removes it.
    """

    def __init__(self, root: Path, cap_bytes: int) -> None:
        self.root = root.absolute()
        self.cap_bytes = cap_bytes
        self._held: dict[tuple[str, str], Lock] = {}
        self._folders: list[Entry] | None = None
        trouble = whose.claim(self.root)
        if trouble is not None:
            raise HarnessError(trouble.what, step=trouble.step)
        make_folder(self.root / ".staging")

    @classmethod
    def default(cls, cap_bytes: int) -> Cache:
        """The user's cache: $XDG_CACHE_HOME/kharness, or ~/.cache/kharness. The environment of this Python counts as in
        use, if it is there."""
        base = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG base directory specification says to ignore a relative path.
        cache = cls((Path(base) if base.startswith("/") else _home() / ".cache") / "kharness", cap_bytes)
        # Our virtual environment is an entry too, which the Makefile made: a prune would take it for unused.
        if Path(sys.prefix).parent == cache.root / "venv":
            cache._hold("venv", Path(sys.prefix).name)
        return cache

    # --- making and finding ---------------------------------------------------------------

    def produce(self, kind: str, key: str, maker: Callable[[Path], None], *, what: str, say: Say) -> tuple[Path, bool]:
        """The entry's path, and whether it was there already.

        `maker` fills the empty folder it is given; the entry appears in one rename when it returns, and
        not at all when it raises. `what` names the work for the line that says which process we wait for.
        Raises DiskFull, and whatever `maker` raises.
        """
        found = self.get(kind, key)
        if found is not None:
            return found, True
        with self.locked(kind, key, what=what, say=say):
            found = self.get(kind, key)
            if found is not None:
                return found, True
            self._complain(kind, key, say)
            self._make(kind, key, maker)
        if self.cap_bytes:
            self.prune(None, self.cap_bytes)
        return self._path(kind, key), False

    def get(self, kind: str, key: str) -> Path | None:
        """The entry's path, marked as used now and kept for this object's life; None if it is not there and whole."""
        held = (kind, key) in self._held
        path = self._hold(kind, key)
        if path is None:
            return None
        if self._entry_at(kind, key).damage():
            if not held:
                self.release(kind, key)
            return None
        return path

    def _hold(self, kind: str, key: str) -> Path | None:
        path = self._path(kind, key)
        if (kind, key) not in self._held:
            if not is_folder(path):
                return None
            lock = acquire(self._meta(kind, key, "use"), shared=True)
            assert lock is not None
            if not is_folder(path):  # pruned while we took the lock
                lock.release()
                return None
            self._held[kind, key] = lock
        self._used(kind, key)
        return path

    def _used(self, kind: str, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # of no record: prune measures it again
            os.utime(self._meta(kind, key, "json"))

    def _entry_at(self, kind: str, key: str) -> contents.Entry:
        return contents.Entry(self._path(kind, key), self._meta(kind, key, "json"), self._meta(kind, key, "seen"))

    def has(self, kind: str, key: str) -> bool:
        """Whether the entry is there and whole, without marking it as used."""
        return is_folder(self._path(kind, key)) and not self._entry_at(kind, key).damage()

    def release(self, kind: str, key: str) -> None:
        """Declare that the entry is no longer in use here, so that a prune may remove it."""
        lock = self._held.pop((kind, key), None)
        if lock is not None:
            lock.release()

    @contextlib.contextmanager
    def hold(self, kind: str, key: str) -> Iterator[Path]:
        """Protect an entry from pruning within the block. Raises HarnessError if it is missing or damaged."""
        lock = acquire(self._meta(kind, key, "use"), shared=True)
        assert lock is not None
        try:
            if not self.has(kind, key):
                raise HarnessError(f"no {kind}/{key} in the cache {self.root}", step="run the command again")
            self._used(kind, key)
            yield self._path(kind, key)
        finally:
            lock.release()

    def folder(self, kind: str) -> Path:
        """A plain folder, such as ccache's, which no prune takes while this object lives.

        Its content is not recorded: its readers must cope with files that a power cut left incomplete.
        """
        path = self._path(FOLDER, kind)
        make_folder(path.parent)
        if (FOLDER, kind) not in self._held:
            lock = acquire(self._meta(FOLDER, kind, "use"), shared=True)
            assert lock is not None
            self._held[FOLDER, kind] = lock
        make_folder(path)
        with contextlib.suppress(OSError):  # on a full disk it counts as used when it was last made
            self._meta(FOLDER, kind, "used").touch()
        return path

    @contextlib.contextmanager
    def locked(self, kind: str, key: str, *, what: str, say: Say) -> Iterator[None]:
        """One process at a time within the block for this kind and key; says which process it waits for."""

        def waiting(holder: str) -> None:
            say(f"{what}: waiting for {holder}, which is doing the same")

        lock = acquire(self._meta(kind, key, "make"), on_wait=waiting)
        assert lock is not None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def workplace(self, kind: str, key: str, *, what: str, say: Say) -> Iterator[Path]:
        """An entry that is worked on in place: empty if it was not there, exclusive within the block.

        Other processes wait, and say for which one; no prune takes it meanwhile. Whether its content is whole is for
        the caller to check. Its size is measured after the block.
        """
        with self.locked(kind, key, what=what, say=say):
            use = acquire(self._meta(kind, key, "use"), shared=True)
            assert use is not None
            path = self._path(kind, key)
            try:
                make_folder(path.parent)
                make_folder(path)
                yield path
            finally:
                self._measured(kind, key, disk_bytes(path))
                use.release()

    def _make(self, kind: str, key: str, maker: Callable[[Path], None]) -> None:
        """Fill a staging folder and rename it, once it and its record are on the disk; the caller holds its lock."""
        with self.scratch(kind, key) as staging:
            maker(staging)
            with self._storing(kind, key):
                record, seen = contents.take(staging, tidy=kind not in TOOLS)
                write_atomically(self._meta(kind, key, "json"), record.text(), synced=True)
                place = self._path(kind, key)
                make_folder(place.parent)
                use = acquire(self._meta(kind, key, "use"), shared=True)  # before another process can prune it
                assert use is not None
                try:
                    if os.path.lexists(place):  # damaged; a process that uses it nevertheless finds the new one there
                        place.rename(self._staging(kind, key))
                    staging.rename(place)
                    sync(place.parent)
                    sync(self.root)
                except BaseException:
                    use.release()
                    raise
                self._held[kind, key] = use
                self._entry_at(kind, key).seen_whole(seen, record)
        self._sweep(kind, key)

    @contextlib.contextmanager
    def _storing(self, kind: str, key: str) -> Iterator[None]:
        """Turn an OSError within the block into an error of the disk."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            what = f"cannot store {kind}/{key} in the cache {self.root}: {error.strerror}"
            raise HarnessError(what, step="see the kernel's log (dmesg)") from error

    def _complain(self, kind: str, key: str, say: Say) -> None:
        """Say what is wrong with an entry that is there."""
        self.release(kind, key)
        if os.path.lexists(self._path(kind, key)):
            why = self._entry_at(kind, key).damage() or "it could not be read"
            say(f"cache entry {kind}/{key}: {why}: made again")

    @contextlib.contextmanager
    def scratch(self, kind: str, key: str) -> Iterator[Path]:
        """An empty folder, removed after the block or, if we are killed, by the next sweep.

        The caller is within :meth:`locked` of the same kind and key. Raises DiskFull naming the cache.
        """
        self._sweep(kind, key)
        staging = self._staging(kind, key)
        try:
            staging.mkdir()
            staging.chmod(0o755)  # whatever the umask: programs in the sandbox have another user id
            yield staging
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFull(self.root) from error
            if error.errno in _HOSTS_FAULT:
                what = f"cannot make {kind}/{key} in the cache {self.root}: {error.strerror}"
                raise HarnessError(what, step="see the kernel's log (dmesg) and 'ulimit -n'") from error
            raise
        except DiskFull as error:
            raise DiskFull(self.root, detail=error.detail) from error
        finally:
            if staging.exists():
                remove(staging)

    def _measured(self, kind: str, key: str, size: int) -> None:
        """Record only the size, of something that :meth:`get` does not return."""
        write_atomically(self._meta(kind, key, "json"), json.dumps({"size": size}) + "\n")

    # --- listing and pruning ----------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All entries, least recently used first."""
        found = []
        for folder in sorted(self.root.iterdir()):
            if folder.name.startswith(".") or folder.name == FOLDER or not is_folder(folder):
                continue
            found += self._of_kind(folder.name)
        return sorted(found, key=lambda entry: entry.used)

    def folders(self) -> list[Entry]:
        """The plain folders, measured now."""
        top = self.root / FOLDER
        found = [self._entry(FOLDER, path) for path in sorted(top.iterdir())] if is_folder(top) else []
        return [entry for entry in found if entry is not None]

    def _of_kind(self, kind: str) -> list[Entry]:
        found = [self._entry(kind, path) for path in sorted((self.root / kind).iterdir())]
        return [entry for entry in found if entry is not None]

    def _entry(self, kind: str, path: Path) -> Entry | None:
        """The entry at this place; None if it is not a folder, or has just been pruned."""
        if not (is_folder(path) and _NAME.fullmatch(path.name)):
            return None
        try:
            size = self._size(kind, path)
            lock = acquire(self._meta(kind, path.name, "use"), wait=False)
            if lock is not None:
                lock.release()
            return Entry(kind, path.name, path, size, self._last_used(kind, path), lock is None)
        except FileNotFoundError:
            return None

    def _size(self, kind: str, path: Path) -> int:
        meta = self._meta(kind, path.name, "json")
        if kind == FOLDER:
            return disk_bytes(path)
        # The Makefile's entries have no record, nor have damaged ones and those of versions that kept none.
        with contextlib.suppress(OSError, *contents.MALFORMED):
            return contents.size_of(meta)
        size = disk_bytes(path)
        make = acquire(self._meta(kind, path.name, "make"), wait=False)
        if make is not None:  # else its maker is just about to record it
            try:
                if not meta.exists():
                    self._measured(kind, path.name, size)
            except DiskFull:
                return size  # lists and prunes must work on a full disk
            finally:
                make.release()
        return size

    def _last_used(self, kind: str, path: Path) -> float:
        marks = (self._meta(kind, path.name, "used" if kind == FOLDER else "json"), path)
        for mark in marks:
            with contextlib.suppress(FileNotFoundError):  # not made yet, or the entry is just being removed
                used = mark.lstat().st_mtime
                return used if used <= time.time() + SKEW_SECONDS else 0.0
        return 0.0

    def prune(self, keep: Collection[tuple[str, str]] | None = None, cap: int | None = None) -> list[Entry]:
        """Remove least recently used entries until at most `cap` bytes are left (None: the cache's own cap).

        Plain folders count, and those of REMADE_FOLDERS are removed, too. Entries in `keep` (kind, key) and those a
        live process uses stay; TOOLS are removed last, entries whose time of use is in the future first. Leftovers of
        dead processes are removed. Returns what was removed.
        """
        self.sweep(lambda line: None)
        limit = self.cap_bytes if cap is None else cap
        if self._folders is None:  # measured once: the walk through ccache's takes half a second
            self._folders = self.folders()
        entries = self.entries()
        total = sum(entry.size for entry in (*entries, *self._folders))
        idle = [folder for folder in self._folders if folder.key.startswith(REMADE_FOLDERS)]
        gone = []
        for entry in sorted([*entries, *idle], key=lambda entry: (entry.kind in TOOLS, entry.used)):
            if total <= limit:
                break
            if not entry.live and (entry.kind, entry.key) not in (keep or ()) and self._remove(entry):
                total -= entry.size
                gone.append(entry)
        self._folders = [folder for folder in self._folders if folder not in gone]
        return gone

    def trim(self, kind: str, most: int) -> list[Entry]:
        """Removes the least recently used entries of a kind beyond `most`, none in use. Returns what was removed."""
        entries = sorted(self._of_kind(kind), key=lambda entry: entry.used)
        idle = [entry for entry in entries if not entry.live]
        return [entry for entry in idle[: max(0, len(entries) - most)] if self._remove(entry)]

    def _remove(self, entry: Entry) -> bool:
        use = acquire(self._meta(entry.kind, entry.key, "use"), wait=False)
        if use is None:
            return False
        try:
            # One rename removes it atomically; deleting 100,000 files takes a while.
            trash = self._staging(entry.kind, entry.key)
            with contextlib.suppress(FileNotFoundError):
                entry.path.rename(trash)
                for suffix in ("json", "seen", "used"):
                    self._meta(entry.kind, entry.key, suffix).unlink(missing_ok=True)
                use.path.unlink()
        finally:
            use.release()
        remove(trash)
        return True

    def sweep(self, say: Say) -> None:
        """Remove the staging folders of dead makers, whose locks are free, and say how much it was."""
        for draft in (self.root / ".meta").glob("*/.*"):
            with contextlib.suppress(FileNotFoundError):
                if abs(time.time() - draft.lstat().st_mtime) > DRAFT_SECONDS:
                    draft.unlink()
        stagings = self._stagings()
        names = (path.name.split("@") for path in stagings)
        locks = (acquire(self._meta(kind, key, "make"), wait=False) for kind, key, _ in names)
        remove_dead(self.root, zip(stagings, locks, strict=True), remove, say)

    def _sweep(self, kind: str, key: str) -> None:
        """Remove the staging folders of one entry; the caller holds its lock."""
        for staging in self._stagings():
            if staging.name.split("@")[:2] == [kind, key]:
                remove(staging)

    def _stagings(self) -> list[Path]:
        return [path for path in sorted((self.root / ".staging").iterdir()) if path.name.count("@") == 2]

    # --- names --------------------------------------------------------------------------------

    def _path(self, kind: str, key: str) -> Path:
        for name in (kind, key):
            if not _NAME.fullmatch(name):
                raise UsageError(f"not a name for a cache entry: {name!r}", step="use letters, digits and ._+~-")
        return self.root / kind / key

    def _staging(self, kind: str, key: str) -> Path:
        return self.root / ".staging" / f"{kind}@{key}@{uuid.uuid4().hex}"

    def _meta(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / ".meta" / kind / f"{key}.{suffix}"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        step = "set HOME, or XDG_CACHE_HOME to a folder of yours"
        raise HarnessError("your home folder, for the cache, is not known", step=step) from error
