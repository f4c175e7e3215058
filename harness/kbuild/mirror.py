# SPDX-License-Identifier: GPL-2.0-only
"""The source tree of a build folder that stays: brought up to date by difference, so mtimes say what changed.

Snapshots are hard links whose mtimes say nothing, and make decides by mtimes. Here a file keeps its mtime for as long
as its content stays, and what changes or comes becomes a file of its own, written now.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.host import below
from harness.source.tree import linked

_CHUNK = 1 << 18


@dataclass
class Changes:
    """Paths of files and symlinks, relative to the tree: new, removed, and with another content or mode.

    `links` are those among them that are or were symlinks.
    """

    new: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        return self.new | self.gone | self.changed


def fill(snapshot: Path, mirror: Path) -> None:
    """Fill `mirror` with hard links to a snapshot. Raises HarnessError when it cannot be linked."""
    mirror.mkdir()
    linked(snapshot, mirror)


def update(snapshot: Path, mirror: Path) -> Changes:
    """Bring `mirror` to the content of the snapshot; returns the differences.

    A file that is the same inode in both, or has the same bytes and the same executable bit, stays as it is. Nothing is
    ever written through a link: another content takes the place of the old file by a rename. Raises OSError.
    """
    changes = Changes()
    same_device = os.stat(snapshot).st_dev == os.stat(mirror).st_dev
    todo = [""]
    while todo:
        inside = todo.pop()
        theirs, ours = _scan(snapshot / inside), _scan(mirror / inside)
        for name, entry in ours.items():
            if name not in theirs or _kind(theirs[name]) != _kind(entry):
                _drop(mirror, _join(inside, name), changes)
        for name, entry in theirs.items():
            path = _join(inside, name)
            there = ours.get(name)
            there = there if there is not None and _kind(there) == _kind(entry) else None
            if entry.is_dir(follow_symlinks=False):
                (mirror / path).mkdir(exist_ok=True)
                todo.append(path)
            elif there is None:
                _put(snapshot, mirror, path)
                # A folder or a symlink of this name has been removed before.
                (changes.changed if path in changes.gone else changes.new).add(path)
                changes.gone.discard(path)
                if entry.is_symlink():
                    changes.links.add(path)
            elif not (same_device and there.inode() == entry.inode()) and _differ(entry, there):
                _put(snapshot, mirror, path)
                changes.changed.add(path)
                if entry.is_symlink():
                    changes.links.add(path)
    return changes


def freshen(mirror: Path, path: str) -> None:
    """Give a file a mtime of now, and for that an inode of its own."""
    _put(mirror, mirror, path)


def files(mirror: Path) -> Iterator[str]:
    """All files and symlinks of a tree, relative to it."""
    return (name for name, found in below.walk(mirror) if not stat.S_ISDIR(found.st_mode))


def namesakes(mirror: Path, paths: Iterable[str]) -> set[str]:
    """The files of a tree with the same name, in another folder, as one of `paths`; without these themselves."""
    mine = set(paths)
    names = {path.rpartition("/")[2] for path in mine}
    return {path for path in files(mirror) if path.rpartition("/")[2] in names} - mine


def _join(inside: str, name: str) -> str:
    return f"{inside}/{name}" if inside else name


def _scan(folder: Path) -> dict[str, os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries}


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def _drop(mirror: Path, path: str, changes: Changes) -> None:
    """Removes a file, or a folder with all that is in it."""
    target = mirror / path
    if target.is_symlink() or not target.is_dir():
        if target.is_symlink():
            changes.links.add(path)
        target.unlink()
        changes.gone.add(path)
        return
    for name in files(target):
        changes.gone.add(_join(path, name))
        if (target / name).is_symlink():
            changes.links.add(_join(path, name))
    shutil.rmtree(target)


def _differ(one: os.DirEntry[str], other: os.DirEntry[str]) -> bool:
    """Whether two entries of one kind, no folders, differ in content or in the executable bit."""
    if one.is_symlink():
        return os.readlink(one.path) != os.readlink(other.path)
    first, second = one.stat(follow_symlinks=False), other.stat(follow_symlinks=False)
    if first.st_size != second.st_size or (first.st_mode ^ second.st_mode) & stat.S_IXUSR:
        return True
    with open(one.path, "rb") as left, open(other.path, "rb") as right:
        while chunk := left.read(_CHUNK):
            if chunk != right.read(_CHUNK):
                return True
    return False


def _put(source: Path, mirror: Path, path: str) -> None:
    """A copy of one file or symlink, whole at once, with an inode of its own and a mtime of now."""
    draft = mirror.with_name(f"{mirror.name}.draft")
    draft.unlink(missing_ok=True)
    origin = source / path
    if origin.is_symlink():
        draft.symlink_to(os.readlink(origin))
    else:
        shutil.copyfile(origin, draft)
        draft.chmod(stat.S_IMODE(origin.stat().st_mode) | stat.S_IWUSR)
    draft.replace(mirror / path)
