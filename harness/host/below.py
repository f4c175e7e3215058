# SPDX-License-Identifier: GPL-2.0-only
"""Access to files below an untrusted folder: a kernel tree, a build's output, a colleague's files.

Each function takes the folder, which is trusted as a name, and a path below it, which is not. No symbolic link on the
way is followed, or with ``links`` only links that stay below the folder; only regular files are opened, so that no FIFO
blocks and no device is read; sizes are capped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import HarnessError
from harness.host import resolve

FILE_MOST = 8 << 30
"""Bytes of one file that is taken, if nothing else is said; a vmlinux with debug information has up to 2 GiB."""

TEXT_MOST = 64 << 20
"""Bytes of one file that is read into memory, if nothing else is said; the largest header of Linux has 20 MB."""

DEEPEST = 128
"""Folders within each other. Linux has 14; Python's own walks end in a RecursionError at some 1000."""

_CHUNK = 1 << 24
_PATH = os.O_PATH | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a file",
}


class Unsafe(HarnessError):
    """Something below an untrusted folder that is not opened: `name` is its path there, `why` what it is.

    ``name why`` makes a sentence, for callers that blame a tree, a patch or a build.
    """

    def __init__(self, top: Path, name: str, why: str) -> None:
        self.name = ascii(name)[1:-1][:200]
        self.why = why
        super().__init__(f"{top}/{self.name} {why}", step="remove it there")


def _parts(top: Path, name: str) -> tuple[str, ...]:
    """The parts of a path below `top`; none for the folder itself. Raises Unsafe for a path that says it leads out."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name or not _encodable(name):
        raise Unsafe(top, name, "is no path below this folder")
    if len(parts) > DEEPEST:
        raise Unsafe(top, name, f"is deeper than {DEEPEST} folders")
    return parts


@contextlib.contextmanager
def _open(top: Path, name: str, flags: int, links: bool = False, goal: str = "") -> Iterator[int]:
    """A descriptor of something below `top`, on the way to `goal`.

    Raises Unsafe, which names the goal, for what is not followed, OSError for the rest.
    """
    parts = _parts(top, name)
    base = os.open(top, _PATH | os.O_DIRECTORY)
    try:
        try:
            opened = resolve.resolver()(base, parts, flags, links)
        except OSError as error:
            why = _why(base, parts, error, links, bool(goal))
            if why:
                raise Unsafe(top, goal or name, why) from error
            raise
    finally:
        os.close(base)
    try:
        yield opened
    finally:
        os.close(opened)


def _encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _why(base: int, parts: tuple[str, ...], error: OSError, links: bool, further: bool) -> str:
    """Why a path was not opened, where that is because of a link or of its length; else empty."""
    if error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM):
        return "has a name that is too long" if error.errno == errno.ENAMETOOLONG else "cannot be opened by this user"
    if error.errno not in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
        return ""
    for count in range(1, len(parts) + 1):
        if _refused(base, parts[:count], links):
            shown = ascii("/".join(parts[:count]))[1:-1][:200]
            if further or count < len(parts):
                return f"leads {'out ' if links else ''}through the link {shown}"
            return "is a link that leads out of its folder" if links else "is a symbolic link"
    return "" if error.errno == errno.ENOTDIR else "leads out of its folder"


def _refused(base: int, parts: tuple[str, ...], links: bool) -> bool:
    """Whether it is the last of these parts that is not followed."""
    try:
        found = resolve.by_steps(base, parts, _PATH, links)
    except OSError as error:
        return error.errno in (errno.ELOOP, errno.EXDEV)
    try:
        return stat.S_ISLNK(os.fstat(found).st_mode)
    finally:
        os.close(found)


# --- looking and reading ----------------------------------------------------------------------


def inspect(top: Path, name: str, *, links: bool = False) -> os.stat_result | None:
    """The lstat of a path, or with `links` of what a link leads to; None where nothing is there.

    Raises Unsafe where the path leads through a link, or with `links` out of the folder.
    """
    try:
        with _open(top, name, _PATH, links) as opened:
            return os.fstat(opened)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_file(top: Path, name: str, *, links: bool = False) -> bool:
    """Whether the path is a regular file; False where that cannot be found out without following a link."""
    try:
        found = inspect(top, name, links=links)
    except Unsafe:
        return False
    return found is not None and stat.S_ISREG(found.st_mode)


@contextlib.contextmanager
def opened(top: Path, name: str, *, links: bool = False, most: int = FILE_MOST) -> Iterator[int]:
    """A descriptor to read a regular file of at most `most` bytes. Raises Unsafe for anything else, OSError."""
    with _open(top, name, _PATH, links) as found:
        _regular(top, name, os.fstat(found), most)
    # Only now: opening some devices has effects.
    with _open(top, name, _FILE, links) as file:
        _regular(top, name, os.fstat(file), most)
        yield file


def _regular(top: Path, name: str, found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unsafe(top, name, f"is {kind(found)}, no regular file")
    if found.st_size > most:
        raise Unsafe(top, name, f"has {found.st_size} bytes, more than the {most} that are taken")


def kind(found: os.stat_result) -> str:
    """The kind of an entry in words: ``a FIFO``."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "a special file")


def read_bytes(top: Path, name: str, *, links: bool = False, most: int = TEXT_MOST) -> bytes:
    """The content of a regular file. Raises Unsafe for anything else or for more than `most` bytes, OSError."""
    with opened(top, name, links=links, most=most) as file, open(file, "rb", closefd=False) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise Unsafe(top, name, f"has more than the {most} bytes that are taken")
    return data


def read_text(top: Path, name: str, *, links: bool = False, most: int = TEXT_MOST) -> str:
    """As :func:`read_bytes`, as UTF-8 text with lines ended by newlines alone; what is no UTF-8 shows as U+FFFD."""
    data = read_bytes(top, name, links=links, most=most)
    return data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def text_of(top: Path, name: str) -> str:
    """The text of a file of a kernel tree, through links that stay in it; empty for what is no such file, or unsafe."""
    try:
        return read_text(top, name, links=True)
    except (OSError, Unsafe):
        return ""


def read_link(top: Path, name: str) -> bytes:
    """Where a link points to. Raises Unsafe, OSError."""
    with _open(top, name, _PATH) as found:
        return os.readlink(b"", dir_fd=found)


@contextlib.contextmanager
def folder(top: Path, name: str) -> Iterator[int]:
    """A descriptor of a folder, to be listed. Raises Unsafe for a link, OSError."""
    with _open(top, name, _FOLDER) as opened:
        yield opened


def _listed(folder: int) -> list[tuple[str, os.stat_result]]:
    """The names in a folder that is open, sorted, each with its lstat."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)


def walk(top: Path, inside: str = "", *, skip: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """All below a folder, each as path relative to `top` and lstat; a folder comes before its entries.

    Raises Unsafe for folders nested deeper than DEEPEST, and OSError; with `skip` such folders are skipped.
    """
    todo = [inside]
    while todo:
        inner = todo.pop()
        try:
            with folder(top, inner) as opened:
                found = _listed(opened)
        except (OSError, Unsafe):
            if not skip:
                raise
            continue
        for name, facts in found:
            path = f"{inner}/{name}" if inner else name
            yield path, facts
            if stat.S_ISDIR(facts.st_mode):
                todo.append(path)


# --- writing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _parent(top: Path, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
    """The parent folder of `name`, as a descriptor, and its name there; with `make` missing parents are made."""
    parts = _parts(top, name)
    if not parts:
        raise Unsafe(top, name, "is this folder itself")
    for count in range(1, len(parts)) if make else ():
        with _open(top, "/".join(parts[: count - 1]), _PATH | os.O_DIRECTORY, goal=name) as folder:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parts[count - 1], 0o755, dir_fd=folder)
    with _open(top, "/".join(parts[:-1]), _PATH | os.O_DIRECTORY, goal=name) as folder:
        yield folder, parts[-1]


def write(top: Path, name: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file, replacing any entry but a folder: never into an existing file, which may have other hard links.

    Missing parent folders are made. Raises Unsafe, OSError.
    """
    with _parent(top, name, make=True) as (folder, last):
        _clear(top, name, folder, last)
        file = os.open(last, _FRESH, 0o600, dir_fd=folder)
        with open(file, "wb") as stream:
            stream.write(data)
            os.fchmod(file, mode)


def link(top: Path, name: str, target: bytes) -> None:
    """Make a symbolic link, as :func:`write` makes a file; its target is not checked."""
    with _parent(top, name, make=True) as (folder, last):
        _clear(top, name, folder, last)
        os.symlink(target, os.fsencode(last), dir_fd=folder)


def _clear(top: Path, name: str, folder: int, last: str) -> None:
    try:
        os.unlink(last, dir_fd=folder)
    except FileNotFoundError:
        return
    except IsADirectoryError as error:
        raise Unsafe(top, name, "is a folder") from error


def unlink(top: Path, name: str, *, prune: bool = False) -> bool:
    """Remove a file or link, with `prune` also the folders that this leaves empty; returns whether there was one.

    Raises Unsafe, OSError.
    """
    try:
        with _parent(top, name) as (folder, last):
            found = os.lstat(last, dir_fd=folder)
            if stat.S_ISDIR(found.st_mode):
                raise Unsafe(top, name, "is a folder")
            os.unlink(last, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    parts = _parts(top, name)
    for count in range(len(parts) - 1, 0, -1) if prune else ():
        try:
            with _parent(top, "/".join(parts[:count])) as (folder, last):
                os.rmdir(last, dir_fd=folder)
        except OSError:
            break  # not empty
    return True


def touch(top: Path, name: str) -> None:
    """Set the mtime of a regular file, or of one that a link leads to within the folder, to now.

    Raises Unsafe, OSError.
    """
    with opened(top, name, links=True) as file:
        os.utime(file)


# --- taking -------------------------------------------------------------------------------------


def take(top: Path, name: str, target: Path, *, links: bool = False, most: int = FILE_MOST) -> None:
    """Copy a regular file to a new file `target`, which is ours: of its mode only the executable bit is kept.

    Raises Unsafe for what is no regular file or larger than `most`, OSError.
    """
    with opened(top, name, links=links, most=most) as source:
        _copy(source, target)


def _copy(source: int, target: Path) -> None:
    found = os.fstat(source)
    file = os.open(target, _FRESH, 0o600)
    try:
        offset = 0
        while offset < found.st_size:
            try:
                start = os.lseek(source, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    break
                raise
            offset = min(os.lseek(source, start, os.SEEK_HOLE), found.st_size)
            os.lseek(file, start, os.SEEK_SET)
            while start < offset:
                sent = os.sendfile(file, source, start, min(offset - start, _CHUNK))
                if not sent:
                    break
                start += sent
        os.ftruncate(file, found.st_size)
        os.fchmod(file, 0o755 if found.st_mode & 0o111 else 0o644)
    finally:
        os.close(file)


def take_folder(top: Path, name: str, target: Path, *, most: int, count: int) -> None:
    """Copy a folder of regular files, folders and links that cannot lead out of it to a new folder `target`.

    At most `count` entries and `most` bytes. Raises Unsafe naming the entry that is none of these, OSError.
    """
    inside, todo = "/".join(_parts(top, name)), [""]
    while todo:
        own = todo.pop()
        with folder(top, f"{inside}/{own}".strip("/")) as opened:
            (target / own).mkdir()
            for entry, found in _listed(opened):
                path = f"{own}/{entry}".lstrip("/")
                count -= 1
                if count < 0:
                    raise Unsafe(top, inside, "has too many files in it")
                if stat.S_ISDIR(found.st_mode):
                    todo.append(path)
                elif stat.S_ISLNK(found.st_mode):
                    points = os.readlink(os.fsencode(entry), dir_fd=opened)
                    if not stays(path, points):
                        raise Unsafe(top, f"{inside}/{path}", f"is a link that leads out of {inside}")
                    os.symlink(points, os.fsencode(target / path))
                else:
                    _regular(top, f"{inside}/{path}", found, most)
                    with _opened(top, f"{inside}/{path}", entry, opened) as source:
                        _copy(source, target / path)
                    most -= found.st_size


@contextlib.contextmanager
def _opened(top: Path, name: str, entry: str, folder: int) -> Iterator[int]:
    """A regular file in a folder that is open. Raises Unsafe where it cannot be opened."""
    try:
        file = os.open(entry, _FILE | os.O_NOFOLLOW, dir_fd=folder)
    except PermissionError as error:
        raise Unsafe(top, name, "cannot be opened by this user") from error
    try:
        yield file
    finally:
        os.close(file)


def stays(name: str, target: bytes) -> bool:
    """Whether a link called `name` in a folder cannot lead out of it, whatever other such links it leads through.

    So ``..`` may stand only at its beginning, and no more often than there are folders above it.
    """
    words = [word for word in target.split(b"/") if word not in (b"", b".")]
    up = next((number for number, word in enumerate(words) if word != b".."), len(words))
    return bool(words) and not target.startswith(b"/") and b".." not in words[up:] and up <= name.count("/")
