# SPDX-License-Identifier: GPL-2.0-only
"""Writes and measures files and folders of ours, and brings them to the disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import HarnessError
from harness.host.below import walk
from harness.host.process import NO_SPACE, DiskFull


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Raise DiskFull, naming the folder that the block writes to, where its disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(folder) from error
        raise


def write_atomically(path: Path, text: str, *, synced: bool = False) -> None:
    """Write a small file so that a reader sees the old text or the new one, with `synced` also after a power cut.

    Raises DiskFull, OSError.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with filling(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text)
            if synced:
                sync(draft)
            draft.replace(path)
            if synced:
                sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def make_folder(path: Path) -> None:
    """Make a folder, if it is not there. Raises DiskFull, and HarnessError for a link or anything else in its place."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(path.parent) from error
        step = "remove it" if os.path.lexists(path) else f"see who owns it: ls -ld {path.parent}"
        raise HarnessError(f"cannot make the folder {path}: {error.strerror}", step=step) from error
    if path.is_symlink():
        raise HarnessError(f"{path} is a link, and the cache follows none", step="remove it")


def disk_bytes(folder: Path) -> int:
    """The bytes that a folder takes on disk, symlinks not followed.

    A file with n hard links counts as 1/n: snapshots share files, so that the sum of all is right.
    """
    total = 0
    with contextlib.suppress(FileNotFoundError):  # it is being removed
        total = os.lstat(folder).st_blocks * 512
        for _, seen in walk(folder, skip=True):
            total += seen.st_blocks * 512 // (1 if stat.S_ISDIR(seen.st_mode) else max(1, seen.st_nlink))
    return total


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk (fsync(2)). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Brings the whole file system of `folder` to the disk, by syncfs(2), which Python lacks. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
