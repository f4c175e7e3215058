# SPDX-License-Identifier: GPL-2.0-only
"""Patches as they are given: a diff, a mail, a thread, a folder with a series; each becomes one Patch or several."""

from __future__ import annotations

import re
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from harness.core.errors import HarnessError, UsageError
from harness.host import below
from harness.host.scratch import private_folder
from harness.source import hunks, mails, threads
from harness.source.diffs import Change, DamagedPatch, Patch, has_diff, patch_of
from harness.source.hunks import is_page, page_text

SUFFIXES = (".patch", ".diff", ".mbox", ".eml")
"""What counts as a patch in a folder that has no quilt ``series`` file."""

STANDARD_INPUT = "-"
MOST = 256 << 20
"""Bytes of one patch, mailbox or thread that are read; the largest patch of a Linux release has some 60 MB."""

_MESSAGE_ID = re.compile(r"<[^<>\s]+@[^<>\s]+>|[^<>\s/]+@[^<>\s/]+|https?://\S+@\S+")
_BASE = re.compile(r"^base-commit: ([0-9a-f]{12,64})\s*$", re.MULTILINE)
_PACKED = {b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


@dataclass(frozen=True)
class Wanted:
    """How patches are to be read: of a thread its `version` (0: the newest), with `replies` their diffs, too."""

    version: int = 0
    replies: bool = False


@dataclass(frozen=True)
class Given:
    """What was read: the `patches` in the order in which they are applied, a line for each thing worth saying, and the
    commit that the series says it is for."""

    patches: tuple[Patch, ...] = ()
    remarks: tuple[str, ...] = ()
    base_commit: str = ""


@dataclass
class _Found:
    patches: list[Patch] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)


def read(places: Iterable[str]) -> tuple[Patch, ...]:
    """The patches of :func:`gather`."""
    return gather(places).patches


def gather(places: Iterable[str], wanted: Wanted | None = None) -> Given:
    """The patches of files and folders, of standard input or of a message-id, in the order they are to be applied.

    A folder is a maildir, a quilt series (its ``series`` file) or its patches sorted by name. Mails without a diff,
    such as cover letters, are passed over. Raises UsageError for what is missing, unreadable or no patch.
    """
    found = _Found()
    for place in places:
        before = len(found.patches)
        _place(place, wanted or Wanted(), found)
        if len(found.patches) == before:
            raise UsageError(f"{place}: no diff in it", step="give a patch, a mailbox, or a folder of them")
    commits = list(dict.fromkeys(found.bases))
    if len(commits) > 1:
        found.remarks.append(f"base-commit: {len(commits)} of them, of which none is taken")
    return Given(tuple(found.patches), tuple(found.remarks), commits[0] if len(commits) == 1 else "")


def no_file(place: str) -> bool:
    """Whether a place is standard input or a message-id, and so no name of a file."""
    if place == STANDARD_INPUT:
        return True
    return _MESSAGE_ID.fullmatch(place) is not None and not Path(place).expanduser().exists()


def _place(place: str, wanted: Wanted, found: _Found) -> None:
    path = Path(place).expanduser()
    if place == STANDARD_INPUT:
        _text(_whole(sys.stdin.buffer), "standard input", wanted, found)
    elif no_file(place):
        with private_folder() as folder:
            _text(threads.fetch(place, folder), place, wanted, found)
    elif not path.is_dir():
        _text(_file(path), str(path), wanted, found)
    elif all((path / name).is_dir() for name in ("cur", "new")):
        _maildir(path, wanted, found)
    elif (path / "series").is_file():
        _quilt(path, found)
    else:
        _folder(path, wanted, found)


@lru_cache(maxsize=1)
def _whole(stream: BinaryIO) -> bytes:
    """What a stream gives. It gives that once, and a series is read again for each architecture."""
    return stream.read(MOST + 1)


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(path.stat().st_mode) and not stat.S_ISFIFO(path.stat().st_mode):
                raise UsageError(f"{path} is no file", step="check --patch")
            return stream.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"cannot read the patch {path}: {error.strerror}", step="check --patch") from error


def _unpacked(data: bytes, what: str) -> bytes:
    """The text of a file that gzip may have packed, as archives give threads. Raises UsageError for other packers, and
    for more than MOST bytes."""
    kind = next((name for magic, name in _PACKED.items() if data.startswith(magic)), "")
    if kind:
        raise UsageError(f"{what} is packed with {kind}", step="unpack it, and give what was in it")
    if data.startswith(b"\x1f\x8b"):
        data = _gunzipped(data, what)
    if len(data) > MOST:
        raise UsageError(f"{what} has more than the {MOST >> 20} MiB that are read", step="save one thread, or a patch")
    return data


def _gunzipped(data: bytes, what: str) -> bytes:
    out, rest = b"", data
    try:
        while rest.startswith(b"\x1f\x8b") and len(out) <= MOST:
            inflate = zlib.decompressobj(wbits=31)
            out += inflate.decompress(rest, MOST + 1 - len(out))
            if not inflate.eof and len(out) <= MOST:
                raise UsageError(f"{what} is packed with gzip, and cut off", step="fetch it again")
            rest = inflate.unused_data
    except zlib.error as error:
        raise UsageError(f"{what} is packed with gzip, and damaged", step="fetch it again") from error
    return out


# --- texts ----------------------------------------------------------------------------------


def _text(data: bytes, what: str, wanted: Wanted, found: _Found) -> None:
    """The patches of a diff, a mail or a mailbox."""
    data = _unpacked(data, what)
    if not mails.is_mail(data):
        if has_diff(data) or is_page(data):
            found.patches.append(_patch(what.rpartition("/")[2], data, what))
        return
    with private_folder() as folder:
        _mailbox(mails.split(data, folder, what), what, wanted, found)


def _mailbox(files: list[Path], what: str, wanted: Wanted, found: _Found) -> None:
    """The patches of mails, each a file: of one the diff in it, of several the series that they are."""
    if len(files) == 1:
        found.patches += _mail(files[0], what, what.rpartition("/")[2])
        found.bases += _BASE.findall(files[0].read_text(errors="replace"))[:1]
        return
    thread = threads.read(files[0].parent, what, wanted.version, wanted.replies)
    for member in thread.members:
        where = f"{what}, mail {member.mail + 1} ({member.subject!a})"
        found.patches += _mail(files[member.mail], where, member.subject, member.trailers)
    if len(files) > len(thread.members) or len(thread.versions) > 1 or any(one.reply for one in thread.members):
        found.remarks.append(f"{what}: {thread.line(len(files))}")
    found.bases += [thread.base_commit] if thread.base_commit else []


def _mail(file: Path, where: str, name: str, trailers: tuple[str, ...] = ()) -> Iterator[Patch]:
    mail = mails.info(file, where)
    if mail is not None and has_diff(mail.diff):
        patch = _patch(mail.subject or name, mail.diff, where)
        yield replace(patch, message=mails.with_trailers(mail.message, trailers))


def _patch(name: str, data: bytes, where: str) -> Patch:
    """A diff, or what is left of one on a page of an archive, which the tree must repair.

    Raises UsageError for one of which lines are missing, or that nothing can apply.
    """
    page = is_page(data)
    if page:
        data = page_text(data).encode("utf-8", "surrogateescape")
    try:
        return patch_of(name, data, where)
    except UsageError as error:
        lost = page or isinstance(error, DamagedPatch)
        found = hunks.read(data.decode("utf-8", "surrogateescape")) if lost else ()
        if not found or not all(hunk.whole for file in found for hunk in file.hunks):
            raise
        changes = tuple(Change(file.old, file.new) for file in found)
        subject = re.match(r"\s*\[PATCH[^]]*\] *(.+)", data.decode(errors="replace"))
        return Patch(subject[1].strip() if subject else name, data, changes, damage=error.what)


# --- folders --------------------------------------------------------------------------------


def _maildir(folder: Path, wanted: Wanted, found: _Found) -> None:
    with private_folder() as place:
        into = place / "mails"
        into.mkdir()
        try:
            files = _copied(folder, into)
        except FileNotFoundError as error:  # read mails go to another folder, and a flag changes a mail's name
            what = f"{folder} changes while it is read"
            raise HarnessError(what, step="run again when no mail program moves its mails") from error
        _mailbox(files, str(folder), wanted, found)


def _copied(folder: Path, into: Path) -> list[Path]:
    """The mails of a maildir, copied in their order. One that moves on meanwhile is not overlooked, but missed."""
    entries = [below.walk(folder, name) for name in ("new", "cur")]
    names = [name for entry in entries for name, told in entry if stat.S_ISREG(told.st_mode)]
    if len(names) > mails.MOST:
        raise UsageError(
            f"{folder} has {len(names)} mails, more than the {mails.MOST} that are read", step="save one thread"
        )
    if not names:
        raise UsageError(f"{folder}: no mail in this maildir", step="check --patch")
    files = [into / f"{number:06}" for number in range(len(names))]
    for name, file in zip(sorted(names, key=lambda one: one.rpartition("/")[2]), files, strict=True):
        file.write_bytes(below.read_bytes(folder, name, most=MOST))
    return files


def _folder(folder: Path, wanted: Wanted, found: _Found) -> None:
    """A folder of patches, by their names. Mails among which are replies or several versions are one thread."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise UsageError(f"{folder}: no patch in this folder", step=f"their names must end in {', '.join(SUFFIXES)}")
    texts = {file: _unpacked(_file(file), str(file)) for file in files}
    subjects = [mails.subject_of(data) for data in texts.values()]
    if mails.are_a_thread(subjects):
        with private_folder() as place:
            (place / "mails").mkdir()
            for number, data in enumerate(texts.values()):
                (place / "mails" / f"{number:06}").write_bytes(data)
            _mailbox(sorted((place / "mails").iterdir()), str(folder), wanted, found)
        return
    for file, data in texts.items():
        _text(data, str(file), wanted, found)


def _quilt(folder: Path, found: _Found) -> None:
    """A quilt series: each line a patch, and how it is applied (-pN, -R)."""
    place = folder / "series"
    for number, line in enumerate(below.text_of(folder, "series").splitlines(), 1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        strip, reverse = _options(words[1:], f"{place}, line {number}")
        data = _unpacked(_file(_of_folder(folder, words[0])), f"{folder}/{words[0]}")
        where = f"{folder}/{words[0]}"
        if not mails.is_mail(data):
            if not has_diff(data):
                raise UsageError(f"{where}: no diff in it", step="take it out of the series file")
            found.patches.append(patch_of(words[0], data, where, strip, reverse))
            continue
        with private_folder() as scratch:
            for file in mails.split(data, scratch, where):
                mail = mails.info(file, where)
                if mail is not None and has_diff(mail.diff):
                    patch = patch_of(mail.subject or words[0], mail.diff, where, strip, reverse)
                    found.patches.append(Patch(patch.name, patch.data, patch.changes, mail.message))


def _options(words: list[str], where: str) -> tuple[int | None, bool]:
    """How many folders a line of a ``series`` file takes off the names (None: as they look), and whether it turns."""
    strip: int | None = None
    reverse = False
    todo = list(words)
    while todo:
        word = todo.pop(0)
        if word == "-p" and todo:
            word += todo.pop(0)
        if word in ("-R", "--reverse"):
            reverse = True
        elif word == "-pab":
            strip = 1
        elif re.fullmatch(r"-p\d", word):
            strip = int(word[2:])
        else:
            raise UsageError(f"{where}: {word!a} is no option that is known", step="-pN and -R are")
    return strip, reverse


def _of_folder(folder: Path, name: str) -> Path:
    """A patch that a ``series`` file names. Raises UsageError for one outside of its folder, or that is no file."""
    try:
        found = below.inspect(folder, name, links=True)
    except below.Unsafe as error:
        raise UsageError(f"{folder}/series: {error.name} {error.why}", step="keep patches beside it") from error
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{folder}/series: {name} is {below.kind(found)}, no patch", step="correct the series file")
    return folder / name
