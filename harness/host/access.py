# SPDX-License-Identifier: GPL-2.0-only
"""What the user id of the sandbox may read and write, where that is not the caller's: as root.

A folder that is bound writable is given to that id. What is bound read-only must be readable for it, whatever umask it
was made under: files of the cache are made so where they lie, our own are copied into the cache, and of a user's folder
that is closed to others the sources in it are shown one by one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from harness.core.checkout import CHECKOUT
from harness.core.errors import HarnessError
from harness.host.cache import Cache
from harness.host.sandbox import UID

SOURCES = (".c", ".h", ".S", ".inc")
"""The files in a user's folder that are shown although only the user may read them."""
MOST_SHOWN = 1000
"""Entries of a user's folder that are shown one by one."""
LARGEST_COPY = 64 << 20
"""Of a folder; a single file, such as a kept guest's state, has whatever size it has."""


def give(folder: Path) -> None:
    """Give the sandbox a folder and all in it; of one that is already the sandbox's, only its direct entries.

    Links are not followed, and a file with further hard links keeps its owner. Raises HarnessError.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HarnessError(f"{folder} cannot be given to the sandbox: {error.strerror}") from error
    try:
        if os.fstat(top).st_uid == UID:
            for name in os.listdir(top):
                _give_one(name, top)
            return
        for _, folders, files, here in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            for name in [*folders, *files]:
                _give_one(name, here)
        os.fchown(top, UID, UID)
    finally:
        os.close(top)


def _give_one(name: str, folder: int) -> None:
    try:
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if state.st_uid != UID and (state.st_nlink == 1 or stat.S_ISDIR(state.st_mode)):
            os.chown(name, UID, UID, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return  # a build that is running there took it away


class Readable:
    """Read-only binds that the sandbox's user id can read. Copies are in `cache`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._known: set[Path] = set()

    def shown(self, host: Path, inside: str) -> list[tuple[Path, str]]:
        """The binds by which `host` can be read at `inside`. Raises OSError, HarnessError."""
        if host in self._known:
            return [(host, inside)]
        place = host.resolve()
        if place.stat().st_uid == UID:
            pass  # made in the sandbox, or given to it
        elif place.is_relative_to(self._cache.root.resolve()):
            _open_up(place)
        elif place.is_relative_to(CHECKOUT):
            if any(not _readable(state) for _, state in _all(place)):
                return [(self._copy(place), inside)]
        elif not place.is_dir():
            if not _readable(place.stat()):
                return [(self._copy(place), inside)]
        elif not _readable(place.stat()) or any(_hidden(entry) for entry in os.scandir(place)):
            return self._one_by_one(place, inside)
        self._known.add(host)
        return [(host, inside)]

    def _one_by_one(self, folder: Path, inside: str) -> list[tuple[Path, str]]:
        found: list[tuple[Path, str]] = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)[:MOST_SHOWN]:
            path = Path(entry.path)
            if not entry.is_symlink() and _readable(entry.stat(follow_symlinks=False)):
                found.append((path, f"{inside}/{entry.name}"))
            elif _hidden(entry):
                found.append((self._copy(path), f"{inside}/{entry.name}"))
        return found

    def _copy(self, place: Path) -> Path:
        """Copy a file or folder of ours or the user's to the cache, for all to read."""
        files = [(path, state) for path, state in _all(place) if stat.S_ISREG(state.st_mode)]
        if place.is_dir() and sum(state.st_size for _, state in files) > LARGEST_COPY:
            raise HarnessError(
                f"{place} cannot be read by user id {UID}, which builds run as", step=f"chmod -R o+rX {place}"
            )
        content = hashlib.sha256()
        for path, state in files:
            name = str(path.relative_to(place)).encode()
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            content.update(b"%d %s %o %s" % (len(name), name, state.st_mode & 0o111, digest))

        def maker(staging: Path) -> None:
            if place.is_dir():
                shutil.copytree(place, staging / place.name, symlinks=True)
            else:
                shutil.copy2(place, staging / place.name)
            _open_up(staging)

        key = hashlib.sha256(f"{place.name}\n{content.hexdigest()}".encode()).hexdigest()[:40]
        entry, _ = self._cache.produce("readable", key, maker, what=f"a copy of {place.name}", say=lambda line: None)
        return entry / place.name


def _hidden(entry: os.DirEntry[str]) -> bool:
    """Whether this is a source that only its owner may read."""
    file = entry.name.endswith(SOURCES) and entry.is_file(follow_symlinks=False)
    return file and not _readable(entry.stat(follow_symlinks=False))


def _readable(state: os.stat_result) -> bool:
    """Whether the sandbox's user id may read a file, or list and enter a folder."""
    wanted = 0o5 if stat.S_ISDIR(state.st_mode) else 0o4
    own = 6 if state.st_uid == UID else 3 if state.st_gid == UID else 0
    return stat.S_ISLNK(state.st_mode) or (state.st_mode >> own) & wanted == wanted


def _all(place: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A path and, of a folder, all below it; links are not followed."""
    yield place, place.lstat()
    for where, folders, files in os.walk(place):
        for name in [*folders, *files]:
            path = Path(where, name)
            yield path, path.lstat()


def _open_up(place: Path) -> None:
    """Make a path of ours readable for all."""
    if stat.S_ISDIR(place.lstat().st_mode) or stat.S_ISREG(place.lstat().st_mode):
        _let_read(str(place), None)
    if place.is_dir():
        for _, folders, files, here in os.fwalk(place, follow_symlinks=False):
            for name in [*folders, *files]:
                _let_read(name, here)


def _let_read(name: str, folder: int | None) -> None:
    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if _readable(state) or not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        return
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchmod(file, stat.S_IMODE(state.st_mode) | (0o555 if state.st_mode & 0o111 else 0o444))
    finally:
        os.close(file)
