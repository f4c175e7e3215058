# SPDX-License-Identifier: GPL-2.0-only
"""Tells whether a cache entry still holds what it held when it was made: names, sizes and hashes.

A power cut may leave files of an entry empty, short or absent that its name promises whole. So an entry reaches the
disk before its name does, with a record beside it, and is compared with the record before it is used. What is dear is
done once per boot of the host: hashes of files whose inode, size and times have not changed since, and the walk through
an entry of many files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError
from harness.host.files import sync, sync_file_system, write_atomically
from harness.host.process import DiskFull

FEW = 256
"""Files of an entry up to which all are hashed, and looked at on each use; of one with more, those at its top."""

SYNCED_ALONE = 16
"""Files up to which each is synced by itself (fsync(2), some 4 ms); for more the whole file system is (syncfs(2))."""

RACY_NS = 50_000_000
"""Files changed so shortly before they were looked at may change once more without another time (it has ticks of up to
10 ms): what was seen of them is not remembered."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_HOLES, _BLOCK = "data:", 1 << 16
"""What the hash of a file of holes begins with, and the bytes of a block. A guest's memory has 1 GiB, of which 0.1 are
data."""

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of ours when resources run out, which say nothing about an entry."""

MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading JSON raises that others wrote, or that was written incompletely."""

Seen = dict[str, os.stat_result]
Item = tuple[str, int, str]
"""Type (``file``, ``link``, ``folder``), bytes, and of a file the SHA-256 (empty: not taken), of a link the target."""


@dataclass(frozen=True)
class Record:
    """The content of an entry: `size` is its bytes on disk, `items` its files, links and folders by path."""

    size: int
    items: Mapping[str, Item]

    def text(self) -> str:
        """Two lines: a short one with size, number and the hash of the other one; and the items."""
        items = json.dumps(self.items, separators=(",", ":"), sort_keys=True)
        return json.dumps({"size": self.size, "count": len(self.items), "sha256": _hash(items)}) + f"\n{items}\n"


def take(top: Path, *, tidy: bool) -> tuple[Record, Seen]:
    """Prepare what was made in the folder `top` to be an entry, bring it to the disk, and record it.

    All files become readable by all, whatever the umask (the cache folder itself is closed to others). With `tidy` they
    become the user's own and lose set-user-ID bits. Also returns the entries, by :func:`scan`. Raises OSError, and
    with `tidy` HarnessError for what is neither file, folder nor link.
    """
    seen: Seen = {}
    for name, found in scan(top):
        seen[name] = _normal(top / name, found, tidy)
    os.chmod(top, 0o755)
    _sync(top, seen)
    few = len(seen) <= FEW
    items = {name: _item(top, name, found, few) for name, found in seen.items()}
    size = sum(found.st_blocks * 512 // _links(found) for found in seen.values()) + top.lstat().st_blocks * 512
    return Record(size, items), seen


def _links(found: os.stat_result) -> int:
    return 1 if stat.S_ISDIR(found.st_mode) else max(1, found.st_nlink)


def scan(top: Path, *, deep: bool = True) -> Iterator[tuple[str, os.stat_result]]:
    """All below a folder, by path; links are not followed. Not `deep`: only its direct entries."""
    left = [""]
    while left:
        inside = left.pop()
        with os.scandir(top / inside) as entries:
            for entry in entries:
                name = inside + entry.name
                yield name, entry.stat(follow_symlinks=False)
                if deep and entry.is_dir(follow_symlinks=False):
                    left.append(f"{name}/")


def _normal(path: Path, found: os.stat_result, tidy: bool) -> os.stat_result:
    """Normalise mode and owner. Its maker has ended, so that no link can appear there meanwhile."""
    mode, kind = stat.S_IMODE(found.st_mode), _kind(found)
    if tidy and not kind:
        raise HarnessError(f"{path.name} is neither file nor folder nor link", step="see what was built")
    if kind in ("", "link"):
        return found
    wanted = mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0)
    if tidy:
        wanted &= 0o755
    foreign = tidy and found.st_uid != os.geteuid() == 0
    if foreign:
        os.chown(path, 0, 0, follow_symlinks=False)
    if foreign or wanted != mode:
        os.chmod(path, wanted)
        return path.lstat()
    return found


def _kind(found: os.stat_result) -> str:
    tests = (("file", stat.S_ISREG), ("link", stat.S_ISLNK), ("folder", stat.S_ISDIR))
    return next((name for name, test in tests if test(found.st_mode)), "")


def _item(top: Path, name: str, found: os.stat_result, few: bool) -> Item:
    kind = _kind(found)
    if kind == "link":
        return kind, found.st_size, os.readlink(top / name)
    if kind == "file":
        return kind, found.st_size, _file_hash(top / name) if few or "/" not in name else ""
    return kind, 0, ""


def _file_hash(path: Path, like: str = "") -> str:
    """The SHA-256 of a file, or of its data if it consists mostly of holes. `like` is an earlier answer for it."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        holes = like.startswith(_HOLES) if like else found.st_blocks * 512 < found.st_size // 2
        if holes:
            return _HOLES + _hash_of_data(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_data(file: int) -> str:
    """The SHA-256 of a file's blocks that are not all zeros, each with its place: the same wherever it has holes."""
    digest, zeros = hashlib.sha256(), bytes(_BLOCK)
    place = _data_from(file, 0)
    while block := os.pread(file, _BLOCK, place):
        if block != zeros[: len(block)]:
            digest.update(place.to_bytes(8, "little") + block)
        place = _data_from(file, place + len(block))
    return digest.hexdigest()


def _data_from(file: int, place: int) -> int:
    """The start of the first block from `place` on that is no hole; behind the last one the file's size (lseek(2))."""
    try:
        return os.lseek(file, place, os.SEEK_DATA) // _BLOCK * _BLOCK
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(file).st_size


# --- comparing --------------------------------------------------------------------------------


class Entry:
    """A folder with its record in the file `record`, and `stamp`, a file that says what was found whole and when."""

    def __init__(self, top: Path, record: Path, stamp: Path) -> None:
        self.top = top
        self._record = record
        self._stamp = stamp

    def damage(self) -> str:
        """What is wrong with the entry, as a clause; empty when it is whole."""
        try:
            if not stat.S_ISDIR(self.top.lstat().st_mode):
                return "it is no folder"
            head = json.loads(self._head())
            few, sha256 = int(head["count"]) <= FEW, str(head["sha256"])
            now = _glance(dict(scan(self.top, deep=few)), sha256)
            return "" if self._known(now) else self._compare(few, sha256)
        except OSError as error:
            if error.errno in _OURS:
                raise HarnessError(f"cannot look at {self.top}: {error.strerror}", step="raise 'ulimit -n'") from error
            return f"{error.filename or self.top} cannot be read: {error.strerror}"
        except MALFORMED:
            return "there is no record of what it held"

    def seen_whole(self, seen: Seen, record: Record) -> None:
        """Note that the files `seen`, of an entry that was just made, match its record."""
        few = len(record.items) <= FEW
        looked = {name: found for name, found in seen.items() if few or "/" not in name}
        self._note(looked, json.loads(record.text().partition("\n")[0])["sha256"])

    def _head(self) -> str:
        try:
            with open(self._record, encoding="utf-8") as file:
                return file.readline()
        except FileNotFoundError:
            return ""

    def _compare(self, few: bool, sha256: str) -> str:
        text = self._record.read_text(encoding="utf-8").partition("\n")[2].rstrip("\n")
        if _hash(text) != sha256:
            return "its record is damaged"
        items = json.loads(text)
        seen = dict(scan(self.top))
        for name, (kind, size, word) in items.items():
            found = seen.get(name)
            if found is None:
                return f"{name} is gone"
            if _kind(found) != kind:
                return f"{name} is no {kind or 'special file'} any more"
            if kind == "file" and found.st_size != size:
                return f"{name} has {found.st_size} of {size} bytes"
            if (kind == "file" and word and _file_hash(self.top / name, word) != word) or (
                kind == "link" and os.readlink(self.top / name) != word
            ):
                return f"{name} has another content than it was made with"
        # In a toolchain root mount points appear; in a small entry nothing may.
        more = seen.keys() - items.keys() if few else ()
        if more:
            return f"{min(more)} was not made with it"
        self._note({name: found for name, found in seen.items() if few or "/" not in name}, sha256)
        return ""

    def _known(self, now: str) -> bool:
        """Whether exactly this was found whole since the host was booted; earlier writes may have been lost."""
        boot = boot_id()
        try:
            return bool(boot) and self._stamp.read_text().split() == [boot, now]
        except (OSError, ValueError):
            return False

    def _note(self, seen: Seen, sha256: str) -> None:
        newest = max((max(found.st_ctime_ns, found.st_mtime_ns) for found in seen.values()), default=0)
        boot = boot_id()
        if boot and abs(time.time_ns() - newest) > RACY_NS:
            with contextlib.suppress(OSError, DiskFull):  # then it is compared once more next time
                write_atomically(self._stamp, f"{boot} {_glance(seen, sha256)}\n")


def size_of(record: Path) -> int:
    """The size in a record. Raises OSError where there is none, MALFORMED where it is damaged."""
    with open(record, encoding="utf-8") as file:
        return int(json.loads(file.readline())["size"])


def boot_id() -> str:
    """The id of the host's boot; empty where it is not known."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _glance(seen: Seen, record: str) -> str:
    """A hash over the stat(2) data of these files, in which a change shows, and their record."""
    digest = hashlib.sha256(record.encode())
    for name, found in sorted(seen.items()):
        facts: tuple[object, ...] = (name, _kind(found))
        if not stat.S_ISDIR(found.st_mode):  # a folder's times do not change with the content of its files
            facts += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(ascii(facts).encode())
    return digest.hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- to the disk ------------------------------------------------------------------------------


def _sync(top: Path, seen: Seen) -> None:
    files = [name for name, found in seen.items() if _kind(found) == "file"]
    if len(files) > SYNCED_ALONE:
        sync_file_system(top)
        return
    for name in [*files, *(name for name, found in seen.items() if _kind(found) == "folder"), "."]:
        sync(top / name)
