# SPDX-License-Identifier: GPL-2.0-only
"""Lines of a plain-text mail: wrapped at 72 columns, but for those that must not be broken.

What stands in them came out of guests, trees and patches. So each line is printable, and none of them is what a tool
that reads mails would act on: a trailer that b4 collects, or a patch that begins in the first column.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.core.printable import clean, one_line

WIDTH = 72
"""Columns of a mail (Documentation/process/email-clients.rst, submitting-patches.rst)."""

LABEL = 10
INDENT = " " * LABEL

LONGEST_NAME = 200
"""Letters of a test's id, a path or a hash that are kept together in one line."""

_SPARE = 8
"""Columns that :func:`clean` may add to a part of a word that was broken."""

_NAME = re.compile(r"[\w.,;:/=()\[\]-]*(?:/|::)[\w.,;:/=()\[\]-]*")

# What b4 takes for a trailer, indented or not (LoreMessage.find_trailers).
_TRAILER = re.compile(r"^(\s*\w[\w-]*(?:-by|-to|-id)|\s*(?:fixes|closes|link|buglink|cc)):(?=\s)", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One line. `whole`: it is to be pasted or compared (a command, a frame, a log line), so it is never wrapped."""

    text: str
    whole: bool = False


BLANK = Line("")


def render(lines: Iterable[Line]) -> str:
    """The text, with no blanks at the ends of lines."""
    return "\n".join(line.text.rstrip() for line in lines) + "\n"


def prose(text: str, first: str = "", later: str | None = None) -> list[Line]:
    """Text, wrapped; `first` and `later` begin its first line and the others. None where there is no text."""
    later = first if later is None else later
    room = WIDTH - max(len(first), len(later))
    words = [part for word in clean(text.replace("\n", " ")).split() for part in _parts(word, room)]
    lines = textwrap.wrap(
        clean(" ".join(words)),
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [Line(shown, whole=len(shown) > WIDTH) for shown in map(_harmless, lines)]


def entry(label: str, text: str) -> list[Line]:
    """Text behind a label of its own column."""
    return prose(text, f"{label:<{LABEL}}", INDENT)


def entries(label: str, texts: Iterable[str]) -> Iterator[Line]:
    """Several of them, the label before the first one only."""
    for number, text in enumerate(texts):
        yield from entry("" if number else label, text)


def whole(text: str, indent: str = "  ") -> Line:
    """A line that is never wrapped."""
    return Line(_harmless(one_line(indent + text.expandtabs())), whole=True)


def quoted(text: str) -> Line:
    """A line of a log."""
    return Line(one_line("  | " + text.expandtabs()), whole=True)


def title(text: str) -> list[Line]:
    """The heading of a section."""
    return [BLANK, Line(text), Line("-" * len(text)), BLANK]


def _parts(word: str, room: int) -> list[str]:
    """A word, in parts if it does not fit and is no name."""
    if len(word) <= room - _SPARE or (len(word) <= LONGEST_NAME and _NAME.fullmatch(word)):
        return [word]
    size = room - _SPARE
    return [word[at : at + size] for at in range(0, len(word), size)]


def _harmless(line: str) -> str:
    """The line, no trailer: its colon as an escape."""
    return _TRAILER.sub(r"\1\\x3a", line)
