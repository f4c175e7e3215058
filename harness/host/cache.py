# SPDX-License-Identifier: GPL-2.0-only
"""Owns the cache folder: complete entries under content keys, locked, capped, least recently used go first.

Layout under the root: ``KIND/KEY/`` is an entry's content, ``.meta/KIND/`` its size (``KEY.json``, whose
mtime is the last use) and its locks (``KEY.make``, ``KEY.use``), ``.staging/`` what is being made.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.host.locks import Lock, acquire
from harness.host.process import NO_SPACE, DiskFull

TOOLS = ("venv", "toolchain", "guest")
"""Kinds without which nothing can be made again: a network is needed to have them back."""

Say = Callable[[str], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


@dataclass(frozen=True)
class Entry:
    """One complete entry. `size` is bytes on disk, `used` seconds since the epoch."""

    kind: str
    key: str
    path: Path
    size: int
    used: float
    live: bool


class Cache:
    """Content-addressed entries below `root`, together at most `cap_bytes` (0: no cap).

    What this process got from :meth:`produce` or :meth:`get` counts as in use until the process ends or
    calls :meth:`release`; no prune by anyone removes it.
    """

    def __init__(self, root: Path, cap_bytes: int) -> None:
        self.root = root.absolute()
        self.cap_bytes = cap_bytes
        self._held: dict[tuple[str, str], Lock] = {}
        try:
            (self.root / ".staging").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HarnessError(
                f"cannot use the cache folder {root}: {error.strerror}",
                step="set XDG_CACHE_HOME to a folder that can be written",
            ) from error

    @classmethod
    def default(cls, cap_bytes: int) -> Cache:
        """The user's cache: $XDG_CACHE_HOME/kharness, or ~/.cache/kharness. The environment of this Python counts as in
        use, if it lies there."""
        base = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG base directory specification says to ignore a relative path.
        cache = cls((Path(base) if base.startswith("/") else Path.home() / ".cache") / "kharness", cap_bytes)
        # What we run by is an entry too, which the Makefile made: for a prune it would be the one used least.
        if Path(sys.prefix).parent == cache.root / "venv":
            cache.get("venv", Path(sys.prefix).name)
        return cache

    # --- making and finding ---------------------------------------------------------------

    def produce(
        self, kind: str, key: str, maker: Callable[[Path], None], *, what: str, say: Say
    ) -> tuple[Path, bool]:
        """The entry's path, and whether it was there already.

        `maker` fills the empty folder it is given; the entry appears in one rename when it returns, and
        not at all when it raises. `what` names the work for the line that says whom we wait for.
        Raises DiskFull, and whatever `maker` raises.
        """
        found = self.get(kind, key)
        if found is not None:
            return found, True
        with self.locked(kind, key, what=what, say=say):
            found = self.get(kind, key)
            if found is not None:
                return found, True
            self._make(kind, key, maker)
        found = self.get(kind, key)
        if found is None:
            raise HarnessError(f"{what}: its cache entry {kind}/{key} vanished", step="run the command again")
        if self.cap_bytes:
            self.prune(None, self.cap_bytes)
        return found, False

    def get(self, kind: str, key: str) -> Path | None:
        """The complete entry's path, marked as used now and kept until this process ends; or None."""
        path = self._path(kind, key)
        if (kind, key) not in self._held:
            if not path.is_dir():
                return None
            lock = acquire(self._meta(kind, key, "use"), shared=True)
            assert lock is not None
            if not path.is_dir():  # pruned while we took the lock
                lock.release()
                return None
            self._held[kind, key] = lock
        with contextlib.suppress(FileNotFoundError):  # no size known: prune measures it again
            os.utime(self._meta(kind, key, "json"))
        return path

    def has(self, kind: str, key: str) -> bool:
        """Whether the entry is there, without marking it as used."""
        return self._path(kind, key).is_dir()

    def release(self, kind: str, key: str) -> None:
        """Says that this process no longer needs the entry, so that a prune may take it."""
        lock = self._held.pop((kind, key), None)
        if lock is not None:
            lock.release()

    @contextlib.contextmanager
    def hold(self, kind: str, key: str) -> Iterator[Path]:
        """Keeps an entry from being pruned within the block. Raises HarnessError if there is none."""
        lock = acquire(self._meta(kind, key, "use"), shared=True)
        assert lock is not None
        try:
            path = self._path(kind, key)
            if not path.is_dir():
                raise HarnessError(f"no {kind}/{key} in the cache {self.root}", step="run the command again")
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._meta(kind, key, "json"))
            yield path
        finally:
            lock.release()

    def folder(self, kind: str) -> Path:
        """A plain folder that is neither capped nor locked, such as ccache's."""
        path = self._path("folder", kind)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def locked(self, kind: str, key: str, *, what: str, say: Say) -> Iterator[None]:
        """One process at a time within the block for this kind and key; says for whom it waits."""

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
        """An entry that is worked on where it lies: empty if it was not there, ours alone within the block.

        Whoever wants the same one waits, and says for whom; no prune takes it meanwhile. Whether its content is whole
        is the caller's to know. Its size is measured after the block.
        """
        with self.locked(kind, key, what=what, say=say):
            use = acquire(self._meta(kind, key, "use"), shared=True)
            assert use is not None
            path = self._path(kind, key)
            try:
                path.mkdir(parents=True, exist_ok=True)
                yield path
            finally:
                self._record(kind, key, disk_bytes(path))
                use.release()

    def _make(self, kind: str, key: str, maker: Callable[[Path], None]) -> None:
        """Fills a staging folder and renames it; the caller holds the entry's lock."""
        with self.scratch(kind, key) as staging:
            maker(staging)
            self._record(kind, key, disk_bytes(staging))
            self._path(kind, key).parent.mkdir(exist_ok=True)
            staging.rename(self._path(kind, key))

    @contextlib.contextmanager
    def scratch(self, kind: str, key: str) -> Iterator[Path]:
        """An empty folder that is gone after the block, or, if we are killed, with the next sweep.

        The caller is within :meth:`locked` of the same kind and key. Raises DiskFull naming the cache.
        """
        self._sweep(kind, key)
        staging = self.root / ".staging" / f"{kind}@{key}@{uuid.uuid4().hex}"
        try:
            staging.mkdir()
            staging.chmod(0o755)
            yield staging
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFull(self.root) from error
            raise
        except DiskFull as error:
            raise DiskFull(self.root, detail=error.detail) from error
        finally:
            if staging.exists():
                remove(staging)

    def _record(self, kind: str, key: str, size: int) -> None:
        meta = self._meta(kind, key, "json")
        write_atomically(meta, json.dumps({"size": size}))

    # --- listing and pruning ----------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All complete entries, least recently used first."""
        found = []
        for folder in sorted(self.root.iterdir()):
            if folder.name.startswith(".") or folder.name == "folder" or not folder.is_dir():
                continue
            found += self._of_kind(folder.name)
        return sorted(found, key=lambda entry: entry.used)

    def _of_kind(self, kind: str) -> list[Entry]:
        return [self._entry(kind, entry) for entry in sorted((self.root / kind).iterdir()) if entry.is_dir()]

    def _entry(self, kind: str, path: Path) -> Entry:
        meta = self._meta(kind, path.name, "json")
        try:
            size = int(json.loads(meta.read_text())["size"])
        except (OSError, ValueError, KeyError, TypeError):
            size = disk_bytes(path)
            self._record(kind, path.name, size)
        lock = acquire(self._meta(kind, path.name, "use"), wait=False)
        if lock is not None:
            lock.release()
        return Entry(kind, path.name, path, size, meta.stat().st_mtime, lock is None)

    def prune(self, keep: Collection[tuple[str, str]] | None = None, cap: int | None = None) -> list[Entry]:
        """Removes least recently used entries until at most `cap` bytes are left (None: the cache's own cap).

        Entries in `keep` (kind, key) and those a live process uses stay; TOOLS go when all others are gone. Leftovers
        of dead processes go. Returns what was removed.
        """
        self._sweep()
        limit = self.cap_bytes if cap is None else cap
        entries = sorted(self.entries(), key=lambda entry: entry.kind in TOOLS)  # within each, as they were
        total = sum(entry.size for entry in entries)
        gone = []
        for entry in entries:
            if total <= limit:
                break
            if not entry.live and (entry.kind, entry.key) not in (keep or ()) and self._remove(entry):
                total -= entry.size
                gone.append(entry)
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
            # One rename makes it vanish for all; deleting 100,000 files takes a while.
            trash = self.root / ".staging" / f"{entry.kind}@{entry.key}@{uuid.uuid4().hex}"
            with contextlib.suppress(FileNotFoundError):
                entry.path.rename(trash)
                self._meta(entry.kind, entry.key, "json").unlink(missing_ok=True)
                use.path.unlink()
        finally:
            use.release()
        remove(trash)
        return True

    def _sweep(self, kind: str | None = None, key: str | None = None) -> None:
        """Removes staging folders whose maker is dead: those whose lock is free, or is our own."""
        for staging in (self.root / ".staging").iterdir():
            owner = staging.name.split("@")
            if len(owner) != 3:
                continue
            if (owner[0], owner[1]) == (kind, key):
                remove(staging)
            elif kind is None:
                lock = acquire(self._meta(owner[0], owner[1], "make"), wait=False)
                if lock is not None:
                    try:
                        remove(staging)
                    finally:
                        lock.release()

    # --- names --------------------------------------------------------------------------------

    def _path(self, kind: str, key: str) -> Path:
        for name in (kind, key):
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"not a name for a cache entry: {name!r}", step="use letters, digits and ._+~-"
                )
        return self.root / kind / key

    def _meta(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / ".meta" / kind / f"{key}.{suffix}"


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file so that a reader sees the old text or the new one. Raises DiskFull, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(text)
        draft.replace(path)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(path.parent) from error
        raise
    finally:
        draft.unlink(missing_ok=True)


def disk_bytes(folder: Path) -> int:
    """The bytes that a folder takes on disk, symlinks not followed.

    A file with n links counts as a n-th: snapshots are links to one another, and so their sum is near what they take.
    """
    total = 0
    for where, _, files in os.walk(folder):
        total += os.lstat(where).st_blocks * 512
        for name in files:
            seen = os.lstat(os.path.join(where, name))
            total += seen.st_blocks * 512 // max(1, seen.st_nlink)
    return total


def remove(folder: Path) -> None:
    """Deletes a folder also where parts of it are read-only. Raises HarnessError naming what stays."""

    def retry(
        function: Callable[..., object], path: str, error: tuple[object, BaseException, object]
    ) -> None:
        if isinstance(error[1], FileNotFoundError):
            return
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path, onerror=retry) if function is not os.rmdir else os.rmdir(path)
        else:
            os.unlink(path)

    try:
        shutil.rmtree(folder, onerror=retry)
    except OSError as error:
        raise HarnessError(
            f"cannot remove {error.filename or folder}: {error.strerror}", step="remove it by hand"
        ) from error
