# SPDX-License-Identifier: GPL-2.0-only
"""Files that QEMU leaves in a machine's folder, where it may write anything: a guest may have taken it over.

So nothing there is believed to be what its name says. A name is resolved once and never through a link, a file is a
plain one, and no larger than was asked for.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.core.errors import MachineLost
from harness.host.process import NO_SPACE, DiskFull


def connect(path: Path) -> socket.socket:
    """Connect to a socket of QEMU's. Raises OSError where there is none; a link to another socket does not count."""
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(path))
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(f"/proc/self/fd/{place}")
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(place)


@contextmanager
def _plain(path: Path, most: int) -> Iterator[BinaryIO]:
    """A plain file of at most so many bytes, open for reading. Raises MachineLost for anything else."""
    try:
        place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MachineLost(f"QEMU wrote no {path.name}: {error.strerror}") from error
    try:
        known = os.fstat(place)
        if not stat.S_ISREG(known.st_mode):
            raise MachineLost(f"QEMU wrote no {path.name}: what is there is no file")
        if known.st_size > most:
            raise MachineLost(f"QEMU wrote a {path.name} of {known.st_size} bytes, {most} were asked for at most")
        with open(place, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(place)


def read(path: Path, size: int) -> bytes:
    """A file of exactly so many bytes. Raises MachineLost for anything else."""
    with _plain(path, size) as file:
        data = file.read(size)
    if len(data) != size:
        raise MachineLost(f"QEMU wrote a {path.name} of {len(data)} bytes, {size} were asked for")
    return data


def check(path: Path, size: int) -> None:
    """Raise MachineLost unless this is a plain file of so many bytes."""
    with _plain(path, size) as file:
        found = os.fstat(file.fileno()).st_size
    if found != size:
        raise MachineLost(f"QEMU wrote a {path.name} of {found} bytes, {size} were asked for")


def take(path: Path, target: Path, most: int) -> None:
    """Move a file of at most so many bytes out of the folder. Raises MachineLost for anything else, DiskFull."""
    with _plain(path, most) as file:
        try:
            path.rename(target)
            same = os.path.samestat(os.fstat(file.fileno()), target.lstat())
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            same = _copied(file, target, most)
    clear(path)
    if not same:  # replaced while we looked
        clear(target)
        raise MachineLost(f"QEMU wrote no {path.name}: what is there is no file")


def clear(path: Path) -> None:
    """Remove the entry of this name, if there is one. Raises MachineLost where that fails."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise MachineLost(f"QEMU left a {path.name} that cannot be removed: {error.strerror}") from error


def _copied(file: BinaryIO, target: Path, most: int) -> bool:
    """Copy a file to another file system; False if it grew beyond `most` bytes meanwhile."""
    try:
        with open(target, "xb") as copy:
            while copy.tell() <= most and (data := file.read(1 << 20)):
                copy.write(data)
            return copy.tell() <= most
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(target.parent) from error
        raise
