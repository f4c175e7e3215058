# SPDX-License-Identifier: GPL-2.0-only
"""The hunks of a diff that may have lost white space: as a web page, a mail program or a clipboard leaves one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

from harness.source.diffs import bare

_RANGE = re.compile(r"^\s*@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)$")
_PAGE = re.compile(rb"^\s*(?:<!doctype html|<html|<\?xml)", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_ADDRESS = re.compile(r"[\w.+*-]+(?:@|\(at\)|\[at\])[\w.*-]+")
_BLOCKS = frozenset({"p", "br", "div", "tr", "li", "pre", "h1", "h2", "h3", "hr", "table", "ul", "title"})
MOST_SIGNED = 500
LOST = 3
"""Blank lines at the end of a hunk that a page may have lost: as many as there is context."""


@dataclass(frozen=True)
class Hunk:
    """One hunk: `lines` as they stand there, each with its sign (blank, ``+`` or ``-``) apart. `first` is the line of
    the text at which its header is, `start` its first line in the old file, `whole` whether all its lines are there."""

    number: int
    first: int
    start: int
    section: str
    lines: tuple[tuple[str, str], ...]
    whole: bool = True

    def side(self, sign: str) -> list[str]:
        """The lines of the old file (``-``), or of the new one (``+``)."""
        return [text for kind, text in self.lines if kind in (" ", sign)]

    def changed(self, sign: str) -> list[str]:
        """The lines that it adds (``+``) or removes (``-``)."""
        return [text for kind, text in self.lines if kind == sign]


@dataclass(frozen=True)
class FileHunks:
    """What a diff does to one file: its names (empty for none), and its hunks."""

    old: str
    new: str
    hunks: tuple[Hunk, ...]


def squeezed(line: str) -> str:
    """A line without white space, and with each address as one word: what a page leaves of it as it was."""
    return _ADDRESS.sub("@", _SPACE.sub("", line)) if "@" in line or "at" in line else _SPACE.sub("", line)


def is_page(data: bytes) -> bool:
    """Whether a text is HTML."""
    return _PAGE.match(data[:4096]) is not None


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.hidden = 0
        self.plain = 0
        """Within how many <pre>, where alone a line end is one."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")
        self.plain += tag == "pre"
        if tag in _BLOCKS:
            self.out.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style") and self.hidden > 0
        self.plain -= tag == "pre" and self.plain > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.out.append(data if self.plain else data.strip("\n").replace("\n", " "))


def page_text(data: bytes) -> str:
    """The text of a page, one line for each of its lines."""
    reader = _Text()
    reader.feed(data.decode(errors="replace").replace("\r\n", "\n"))
    reader.close()
    return "".join(reader.out).replace("\xa0", " ")


def read(text: str) -> tuple[FileHunks, ...]:
    """The files and hunks of a diff, however much white space it lost. Nothing is raised: see Hunk.whole."""
    rows = text.split("\n")
    out: list[FileHunks] = []
    old = ""
    at = 0
    while at < len(rows):
        row = rows[at].rstrip("\r")
        if row.startswith("--- ") and at + 1 < len(rows) and rows[at + 1].startswith("+++ "):
            old, new = bare(row[4:].rstrip()), bare(rows[at + 1][4:].rstrip())
            out.append(FileHunks(old, new, ()))
            at += 2
        elif out and (found := _RANGE.match(row)):
            hunk, at = _hunk(rows, at, found, len(out[-1].hunks) + 1)
            out[-1] = FileHunks(out[-1].old, out[-1].new, (*out[-1].hunks, hunk))
        else:
            at += 1
    return tuple(one for one in out if one.hunks)


def _hunk(rows: list[str], at: int, header: re.Match[str], number: int) -> tuple[Hunk, int]:
    """The hunk whose header is at `at`, and where it ends.

    A line of context that lost its blank may begin with a sign of its own: where the counts of the header do not come
    out, one such line is looked for.
    """
    body = list(_rows(rows, at + 1))
    counts = int(header[2] or 1), int(header[4] or 1)
    lines, whole = _counted(body, *counts, -1)
    signed = [index for index, row in enumerate(body[: sum(counts)]) if row[:1] in ("+", "-")]
    for index in () if whole else signed[:MOST_SIGNED]:
        other, whole = _counted(body, *counts, index)
        if whole:
            lines = other
            break
    end = at + 1 + min(len(lines), len(body))
    return Hunk(number, at + 1, int(header[1]), header[5].strip(), tuple(lines), whole), end


def _counted(body: list[str], old: int, new: int, plain: int) -> tuple[list[tuple[str, str]], bool]:
    """The lines of a hunk of so many old and new lines, and whether they are all there; row `plain` has no sign."""
    lines: list[tuple[str, str]] = []
    for index, row in enumerate(body):
        if old <= 0 and new <= 0:
            break
        sign, text = _signed(row, old, new) if index != plain else (" ", row)
        if sign != "\\":
            lines.append((sign, text))
            old -= sign != "+"
            new -= sign != "-"
    if old == new and 0 < old <= LOST:
        return [*lines, *[(" ", "")] * old], True
    return lines, old == 0 and new == 0


def _rows(rows: list[str], at: int) -> Iterator[str]:
    """The rows from `at` to the next header."""
    for number in range(at, len(rows)):
        row = rows[number].rstrip("\r")
        named = row.startswith("--- ") and number + 1 < len(rows) and rows[number + 1].startswith("+++ ")
        if row.startswith("diff --git ") or _RANGE.match(row) or named:
            return
        yield row


def _signed(row: str, old: int, new: int) -> tuple[str, str]:
    """A row's sign and text, where so many old and new lines are to come."""
    sign = row[:1]
    if sign == "+" and new > 0:
        return "+", row[1:]
    if sign == "-" and old > 0:
        return "-", row[1:]
    if sign == "\\" and row.startswith("\\ No newline"):
        return "\\", row
    return " ", row[1:] if sign == " " else row
