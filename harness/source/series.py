# SPDX-License-Identifier: GPL-2.0-only
"""Owns patches as they are given: a diff, a mail, a mailbox, a folder with a series; each becomes one Patch."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from harness.errors import UsageError
from harness.host.process import run
from harness.source.repository import environment

SUFFIXES = (".patch", ".diff", ".mbox", ".eml")
"""What counts as a patch in a folder that has no quilt ``series`` file."""

_MAIL = re.compile(rb"(From \S+ |[A-Za-z][A-Za-z-]*: \S)")
_MAILINFO = 'exec git mailinfo --encoding=UTF-8 --quoted-cr=strip "$1" "$2" <"$0"'


@dataclass(frozen=True)
class Hunk:
    """One hunk: its first line in the old file, counted from 1, and the function its header names."""

    old: int
    section: str


@dataclass(frozen=True)
class Change:
    """One file of a patch: `old` and `new` are paths in the tree, empty for a file that is made or removed."""

    old: str
    new: str
    hunks: tuple[Hunk, ...] = ()


@dataclass(frozen=True)
class Patch:
    """One patch: `name` is how the user knows it, `data` the diff as git apply takes it."""

    name: str
    data: bytes
    changes: tuple[Change, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path of the tree that it names."""
        return tuple(dict.fromkeys(path for c in self.changes for path in (c.old, c.new) if path))


def read(places: Iterable[str]) -> tuple[Patch, ...]:
    """The patches of files and folders, in the order they are to be applied.

    A folder is a quilt series (its ``series`` file) or its patches sorted by name. Mails without a diff, such as
    cover letters, are passed over. Raises UsageError for what is missing, unreadable or no patch.
    """
    found: list[Patch] = []
    for place in places:
        path = Path(place).expanduser()
        mine = [patch for file in _files(path) for patch in _messages(file)]
        if not mine:
            raise UsageError(f"{place}: no diff in it", step="give a patch, a mailbox, or a folder of them")
        found += mine
    return tuple(found)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    series = path / "series"
    if series.is_file():
        lines = (line.partition("#")[0].split() for line in series.read_text(errors="replace").splitlines())
        return [path / words[0] for words in lines if words]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise UsageError(f"{path}: no patch in this folder", step=f"their names must end in {', '.join(SUFFIXES)}")
    return files


def _messages(file: Path) -> list[Patch]:
    """The patches of one file: one, or one for each mail of a mailbox that has a diff."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the patch {file}: {error.strerror}", step="check --patch") from error
    if not _MAIL.match(data):
        return [_patch(file.name, data, file)] if _has_diff(data) else []
    return _mails(file)


def _mails(file: Path) -> list[Patch]:
    """Git's own reading of mails: transfer encodings undone, one patch a mail."""
    out = []
    with tempfile.TemporaryDirectory(prefix="kharness-") as folder:
        split = ["git", "mailsplit", "-b", f"-o{folder}", "--", str(file.resolve())]
        done = run(split, what=f"reading {file}", env=environment(), check=False)
        if done.status:
            raise UsageError(f"{file} is no mailbox that git can read", step="give a diff", detail=done.stderr)
        for mail in sorted(Path(folder).iterdir()):
            text, diff = f"{mail}.text", Path(f"{mail}.diff")
            argv = ["sh", "-c", _MAILINFO, str(mail), text, str(diff)]
            told = run(argv, what=f"reading {file}", env=environment(), check=False)
            subject = re.search(r"^Subject: (.+)$", told.stdout, re.MULTILINE)
            data = diff.read_bytes() if diff.is_file() else b""
            if told.status or not _has_diff(data):
                continue
            out.append(_patch(subject[1] if subject else file.name, data, file))
    return out


def _has_diff(data: bytes) -> bool:
    return re.search(rb"^(diff --git |--- \S)", data, re.MULTILINE) is not None


def _patch(name: str, data: bytes, file: Path) -> Patch:
    """Checks the diff and reads what it names. Raises UsageError, with the line, for a broken one."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        parsed = PatchSet(text)
    except UnidiffParseError as error:
        said = str(error).partition("\n")[0]
        raise UsageError(
            f"{file} is damaged: {said}",
            step="a mail archive's page loses tabs and blanks: take the raw mail or git format-patch's output",
        ) from error
    changes = []
    for item in parsed:
        hunks = tuple(Hunk(hunk.source_start, hunk.section_header) for hunk in item)
        changes.append(Change(_path(item.source_file), _path(item.target_file), hunks))
    if not changes:
        raise UsageError(f"{file} holds no diff of a file", step="give the output of git format-patch or git diff")
    return Patch(name, data, tuple(changes))


def _path(name: str) -> str:
    """``a/kernel/fork.c`` as ``kernel/fork.c``; empty for /dev/null."""
    bare = name.strip('"').split("\t")[0]
    return "" if bare == "/dev/null" else bare.partition("/")[2]
