# SPDX-License-Identifier: GPL-2.0-only
"""The text of one diff: what it names, and one form for all: forward, with a/ and b/, lines ended by newlines alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from harness.core.errors import UsageError

_HEADER = re.compile(r"^(?:diff --git |--- \S|\+\+\+ \S|@@ -\d)")
_RANGE = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$")
_COMBINED = re.compile(r"^(?:diff --(?:cc|combined) |@@@ -)", re.MULTILINE)
_EMPTY_BINARY = re.compile(r"^Binary files .+ and .+ differ$", re.MULTILINE)
_PREFIX = re.compile(r"(?:[abciow12]|old|new|orig)$|.*(?:linux|kernel-|\.orig$|\.old$|\.new$)")
"""How the folder before the names of a diff is called: git's prefixes, or a tree's own name."""

_HAS_DIFF = re.compile(rb"^(?:diff --(?:git|cc|combined) |--- \S.*\n\+\+\+ \S|Index: \S)", re.MULTILINE)


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
    """One patch: `name` is how the user knows it, `data` the diff as git apply takes it, `message` what its mail says
    before the diff, with the trailers of replies. `damage` is what git finds wrong with it: then the tree must repair
    it before it can be applied."""

    name: str
    data: bytes
    changes: tuple[Change, ...]
    message: str = ""
    damage: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path of the tree that it names."""
        return tuple(dict.fromkeys(path for c in self.changes for path in (c.old, c.new) if path))


@dataclass(frozen=True)
class Line:
    """One line of a diff: `kind` is ``git``, ``old``, ``new``, ``hunk``, ``body`` (of a hunk) or ``text``."""

    kind: str
    text: str


class DamagedPatch(UsageError):
    """A diff that lines, blanks or tabs are missing of; the tree may know them."""


class Damaged(Exception):
    """A diff that is not whole: `line` is where, counted from 1, and `why` what is wrong there."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why


def has_diff(data: bytes) -> bool:
    """Whether there is a diff of files in a text."""
    return _HAS_DIFF.search(data) is not None


def patch_of(name: str, data: bytes, where: str, strip: int | None = None, reverse: bool = False) -> Patch:
    """A diff as a Patch. `where` is the file (and mail) for error lines, `strip` the number of folders before its
    names (None: as they look), `reverse`: it is meant to be taken out.

    Raises UsageError, with the line, for one that is damaged or that nothing can apply.
    """
    text = data.decode("utf-8", "surrogateescape")
    if _COMBINED.search(text):
        raise UsageError(f"{where} is the combined diff of a merge, which cannot be applied", step=_MERGE)
    text = _unix(text)
    if found := _EMPTY_BINARY.search(text):
        what = f"{where} changes a binary file without its content: {found[0][:100]!a}"
        raise UsageError(what, step="make it with git diff --binary, or leave that out")
    try:
        lines = tuple(parsed(text))
    except Damaged as error:
        raise DamagedPatch(f"{where} is damaged: {error}", step=_RAW) from error
    count = _prefix(lines) if strip is None else strip
    if count != 1:
        lines = tuple(_renamed(line, count) for line in lines)
    if reverse:
        lines = tuple(reversed_lines(lines, where))
    if count != 1 or reverse:
        text = "\n".join(line.text for line in lines)
    changes = _changes(text, where)
    if not changes:
        raise UsageError(f"{where} holds no diff of a file", step="give the output of git format-patch or git diff")
    return Patch(name, text.encode("utf-8", "surrogateescape"), changes)


_MERGE = "give 'git diff COMMIT^1 COMMIT', or the commits that were merged, one by one"
_RAW = "take the raw mail or git format-patch's output: copying and web pages lose tabs, blanks and lines"


def _unix(text: str) -> str:
    """A text whose diff headers all end in CR LF, without the CRs: it was a mailer's or an editor's doing. CRs of the
    files themselves stay: git writes none into headers."""
    headers = [line for line in text.split("\n") if _HEADER.match(line)]
    if headers and all(line.endswith("\r") for line in headers):
        return text.replace("\r\n", "\n")
    return text


def _changes(text: str, where: str) -> tuple[Change, ...]:
    try:
        found = PatchSet(text)
    except UnidiffParseError as error:
        raise DamagedPatch(f"{where} is damaged: {str(error).partition(chr(10))[0]}", step=_RAW) from error
    out = []
    for item in found:
        hunks = tuple(Hunk(hunk.source_start, hunk.section_header) for hunk in item)
        out.append(Change(bare(item.source_file), bare(item.target_file), hunks))
    return tuple(out)


def bare(name: str) -> str:
    """``a/kernel/fork.c`` as ``kernel/fork.c``; empty for /dev/null."""
    plain = re.sub("//+", "/", unquoted(name.split("\t")[0]))
    return "" if plain == "/dev/null" else plain.partition("/")[2]


# --- lines --------------------------------------------------------------------------------


def parsed(text: str) -> Iterator[Line]:
    """The lines of a diff, each with what it is. Raises Damaged for a hunk that its file does not hold whole."""
    old = new = 0
    began = number = 0
    file = ""
    for number, line in enumerate(text.split("\n"), 1):
        if old > 0 or new > 0:
            sign = line[:1]
            if sign not in ("", " ", "+", "-", "\\"):
                raise Damaged(number, f"{line[:60]!a} does not begin with a blank, + or -, in the hunk of line {began}")
            old -= sign in ("", " ", "-")
            new -= sign in ("", " ", "+")
            if old < 0 or new < 0:
                raise Damaged(number, f"{line[:60]!a} is more than the hunk of line {began} may have")
            yield Line("body", line)
        elif line.startswith("\\ "):
            yield Line("body", line)
        elif found := _RANGE.match(line):
            old, new, began = int(found[2] or 1), int(found[4] or 1), number
            yield Line("hunk", line)
        else:
            kind = _kind(line)
            file = line if kind in ("git", "new") else file
            yield Line(kind, line)
    if old > 0 or new > 0:
        missing = f"{old} of its old and {new} of its new lines"
        raise Damaged(number, f"the diff ends within the hunk of line {began}, of which {missing} are missing")


def _kind(line: str) -> str:
    for start, kind in (("diff --git ", "git"), ("--- ", "old"), ("+++ ", "new")):
        if line.startswith(start):
            return kind
    return "text"


def _git_names(text: str) -> tuple[str, str] | None:
    """The two names of a ``diff --git`` line; None where they cannot be told apart."""
    rest = text.removeprefix("diff --git ")
    if quoted := re.fullmatch(r'("(?:[^"\\]|\\.)*"|\S+) ("(?:[^"\\]|\\.)*"|\S+)', rest):
        return quoted[1], quoted[2]
    half = len(rest) // 2
    if rest[:half] == rest[half + 1 :]:
        return rest[:half], rest[:half]
    middle = next(
        (at for at in range(len(rest)) if rest[at] == " " and _tail(rest[:at]) == _tail(rest[at + 1 :])), None
    )
    return (rest[:middle], rest[middle + 1 :]) if middle is not None else None


def _tail(name: str) -> str:
    return name.partition("/")[2]


def _pairs(lines: tuple[Line, ...]) -> Iterator[tuple[str, str]]:
    """The old and new names of a diff as they stand there."""
    old = ""
    for line in lines:
        if line.kind == "git" and (names := _git_names(line.text)):
            yield names
        elif line.kind == "old":
            old = line.text[4:].split("\t")[0].rstrip()
        elif line.kind == "new" and old:
            yield old, line.text[4:].split("\t")[0].rstrip()
            old = ""


def _prefix(lines: tuple[Line, ...]) -> int:
    """0 where the names of a diff have no folder before them that is not the tree's (diff.noprefix, -p0), else 1."""
    return int(any(_prefixed(unquoted(old), unquoted(new)) for old, new in _pairs(lines)) or not any(_pairs(lines)))


def _prefixed(old: str, new: str) -> bool:
    names = [name for name in (old, new) if name != "/dev/null"]
    firsts = {name.partition("/")[0] for name in names}
    return any(_PREFIX.match(first) for first in firsts) or (len(firsts) > 1 and _tail(old) == _tail(new))


def _renamed(line: Line, count: int) -> Line:
    """A header with `count` folders taken off its names, and a/ or b/ put before them."""

    def changed(name: str, prefix: str) -> str:
        plain = unquoted(name)
        if plain == "/dev/null":
            return name
        parts = re.sub("//+", "/", plain).split("/")
        return quoted("/".join([prefix, *(parts[count:] or parts[-1:])]))

    if line.kind == "git" and (names := _git_names(line.text)):
        return Line("git", f"diff --git {changed(names[0], 'a')} {changed(names[1], 'b')}")
    if line.kind in ("old", "new"):
        name, tab, rest = line.text[4:].partition("\t")
        return Line(line.kind, f"{line.text[:4]}{changed(name, 'a' if line.kind == 'old' else 'b')}{tab}{rest}")
    moved = re.match(r"((?:rename|copy) (?:from|to) )(.+)$", line.text) if line.kind == "text" and count > 1 else None
    if moved:
        return Line("text", moved[1] + "/".join(moved[2].split("/")[count - 1 :]))
    return line


# --- the other way round --------------------------------------------------------------------


def reversed_lines(lines: tuple[Line, ...], where: str) -> Iterator[Line]:
    """The lines of a diff that takes out what this one brings. Raises UsageError for a copy, or a binary part."""
    for line in lines:
        if re.match(r"(?:copy (?:from|to) |GIT binary patch|Binary files )", line.text) and line.kind == "text":
            said = line.text[:40]
            raise UsageError(f"{where} cannot be taken out (-R): it has {said!a}", step="make it with git diff -R")
    pending: list[Line] = []
    for line in _flipped(lines):
        # The old name, mode and name of a move come first in each pair; what was second is now what is old.
        if _second(line):
            yield line
            yield from pending
            pending = []
        elif _first(line):
            pending.append(line)
        else:
            yield from pending
            pending = []
            yield line
    yield from pending


def _second(line: Line) -> bool:
    return line.kind == "old" or (line.kind == "text" and line.text.startswith(("old mode ", "rename from ")))


def _first(line: Line) -> bool:
    return line.kind == "new" or (line.kind == "text" and line.text.startswith(("new mode ", "rename to ")))


_WORDS = {
    "old mode ": "new mode ",
    "new mode ": "old mode ",
    "new file mode ": "deleted file mode ",
    "deleted file mode ": "new file mode ",
    "rename from ": "rename to ",
    "rename to ": "rename from ",
}


def _flipped(lines: tuple[Line, ...]) -> Iterator[Line]:
    """Each line turned, in the order in which they were."""
    by_kind: dict[str, Callable[[str], Line]] = {
        "git": _flipped_git,
        "old": lambda text: Line("new", f"+++ {_under('b', text[4:])}"),
        "new": lambda text: Line("old", f"--- {_under('a', text[4:])}"),
        "hunk": lambda text: Line("hunk", re.sub(r"^@@ -(\S+) \+(\S+) @@", r"@@ -\2 +\1 @@", text)),
        "body": lambda text: Line("body", {"+": "-", "-": "+"}.get(text[:1], text[:1]) + text[1:]),
        "text": _flipped_text,
    }
    return (by_kind[line.kind](line.text) for line in lines)


def _flipped_git(text: str) -> Line:
    names = _git_names(text)
    return Line("git", f"diff --git {_under('a', names[1])} {_under('b', names[0])}" if names else text)


def _flipped_text(text: str) -> Line:
    start = next((word for word in _WORDS if text.startswith(word)), "")
    if start:
        return Line("text", _WORDS[start] + text.removeprefix(start))
    return Line("text", re.sub(r"^index ([0-9a-f]+)\.\.([0-9a-f]+)", r"index \2..\1", text))


def _under(prefix: str, name: str) -> str:
    """A name as it stands in a diff, with another prefix."""
    head, tab, rest = name.partition("\t")
    plain = unquoted(head)
    return name if plain == "/dev/null" else quoted(f"{prefix}/{_tail(plain)}") + tab + rest


# --- names ----------------------------------------------------------------------------------

_ESCAPE = re.compile(rb'\\([0-3][0-7]{2}|[abtnvfr"\\])')
_LETTERS = dict(zip(b"abtnvfr", b"\a\b\t\n\v\f\r", strict=True))


def unquoted(name: str) -> str:
    """A file name of a diff as it is: git quotes odd ones as C does strings (quote.c), ``"a/\\303\\251.h"``."""
    if len(name) < 2 or not name[0] == name[-1] == '"':
        return name

    def plain(found: re.Match[bytes]) -> bytes:
        said = found[1]
        return bytes([int(said, 8) if len(said) == 3 else _LETTERS.get(said[0], said[0])])

    return _ESCAPE.sub(plain, name[1:-1].encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def quoted(name: str) -> str:
    """A file name as git writes it into a diff."""
    if not re.search(r'[\x00-\x1f"\\\x7f]', name):
        return name
    return '"' + re.sub(r'[\x00-\x1f"\\\x7f]', lambda found: f"\\{ord(found[0]):03o}", name) + '"'
