# SPDX-License-Identifier: GPL-2.0-only
"""The removal of untrusted folders: no link is followed, and none is too deep or locked."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from harness.core.errors import HarnessError

_PATH = os.O_PATH | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

TRIES = 1000
"""How often the removal of a folder starts again that others change at the same time."""


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it, however deep and whatever its modes, if it is there.

    Folders are moved up to the top one first: so no path gets too long, and few files are open at once. Raises
    HarnessError naming what could not be removed.
    """
    try:
        parent = os.open(path.parent, _PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _remove(parent, path.name)
    except OSError as error:
        raise HarnessError(f"cannot remove {path}: {error.strerror}", step="remove it by hand") from error
    finally:
        os.close(parent)


def _remove(parent: int, name: str) -> None:
    """Remove the entry of this name; start again where another process moved folders meanwhile."""
    for left in reversed(range(TRIES)):
        try:
            found = os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return
        try:
            if stat.S_ISDIR(found.st_mode):
                _remove_folder(parent, name)
            else:
                _drop(parent, name)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not left:
                raise


def _remove_folder(parent: int, name: str) -> None:
    top = _enter(parent, name)
    fresh = f".{os.getpid()}-{os.urandom(8).hex()}-"
    try:
        todo, made = _empty(top, top, fresh, 0)
        while todo:
            folder = todo.pop()
            inner = _enter(top, folder)
            try:
                more, made = _empty(inner, top, fresh, made)
            finally:
                os.close(inner)
            todo += more
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(folder: int, top: int, fresh: str, made: int) -> tuple[list[str], int]:
    """Removes the files in a folder and moves its folders into `top`; their names there, and how many were made up."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    folders = []
    for name, inner in found:
        if not inner:
            _drop(folder, name)
        elif folder == top:
            folders.append(name)
        else:
            os.close(_enter(folder, name))  # which makes it ours to move
            new = f"{fresh}{made}"
            made += 1
            try:
                os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _remove(folder, name)  # a folder of a lower layer of overlayfs cannot be moved
            else:
                folders.append(new)
    return folders, made


def _drop(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _enter(folder: int, name: str) -> int:
    """A folder to be emptied, as a descriptor; made readable and writable first where it is not."""
    found = os.open(name, _PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        if os.fstat(found).st_mode & 0o700 != 0o700 and os.geteuid() == os.fstat(found).st_uid:
            os.chmod(f"/proc/self/fd/{found}", 0o700)  # fchmod(2) does not take such a descriptor
        return os.open(".", _FOLDER, dir_fd=found)
    finally:
        os.close(found)
