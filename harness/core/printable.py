# SPDX-License-Identifier: GPL-2.0-only
"""What may be printed: text of a guest, a tree or a patch made safe for terminals, CI logs, XML and HTML.

What is taken out stays visible as an escape (``\\x1b``, ``\\u202e``), so that nothing vanishes without a word.
"""

from __future__ import annotations

import re

LONGEST = 4000
"""Characters of one line that are shown: about what the longest path has (PATH_MAX, include/uapi/linux/limits.h)."""

LAST = 200
"""Lines of a long text that :func:`quoted` shows: its last ones."""

# Printable by Python's tables, and yet invisible: Default_Ignorable_Code_Point of Unicode's
# DerivedCoreProperties.txt, as far as the code points are letters and marks, and the blank of Braille.
_UNSEEN = frozenset(
    (
        0x034F,
        0x115F,
        0x1160,
        0x17B4,
        0x17B5,
        0x2800,
        0x3164,
        0xFFA0,
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0000, 0xE1000),
    )
)

# What a CI's runner takes for a command. GitHub, Gitea and Forgejo: "::" after any blanks at the beginning
# of a line (actions/runner, ActionCommand.TryParseV2), which is where wrapping may put any word. GitHub ("##["), Azure
# ("##vso[", "##[") and TeamCity: anywhere in a line, in either case. GitLab: its markers of sections.
_COMMAND = re.compile(r"(?<!\S):(?=:)|#(?=#(?:vso|teamcity)?\[)|(?<!\S)section_(?:start|end)(?=:)", re.IGNORECASE)


class _Shown(dict[int, str]):
    """How each code point is printed, for str.translate(); filled as they are met."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        fine = char in "\t\n" or (char.isprintable() and point not in _UNSEEN)
        shown = self[point] = char if fine else _escaped(point)
        return shown


def _escaped(point: int) -> str:
    """``\\x1b``, ``\\u202e``, ``\\U000e0041``; what is no character (a surrogate, U+FFFE) is ``\\xd800``."""
    if point < 0x100 or 0xD800 <= point < 0xE000 or point & 0xFFFF >= 0xFFFE:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


_SHOWN = _Shown()


def clean(text: str) -> str:
    """Make text of a guest, a tree or a patch safe to print; its lines stay lines.

    Escapes all that is not printable but tab and newline (controls, marks of writing direction, what has no width,
    other line ends, surrogates, unassigned and private code points), breaks what a CI would take for a command,
    and cuts lines at LONGEST characters with a note. A second call changes nothing.
    """
    if not text.isascii() or not text.isprintable():
        text = text.translate(_SHOWN)
    if "##" in text or "::" in text or "section_" in text:
        text = _COMMAND.sub(_broken, text)
    if len(text) > LONGEST:
        text = "\n".join(_cut(line) for line in text.split("\n"))
    return text


def one_line(text: str) -> str:
    """Make text safe to print as one line: :func:`clean`, with its line ends escaped as well."""
    return clean(text.replace("\n", "\\x0a"))


def quoted(text: str) -> str:
    """Make a longer text safe to print as evidence: :func:`clean`, each line behind ``| ``, and the last LAST lines."""
    lines = clean(text).split("\n")
    left = len(lines) - LAST
    shown = [f"[{left} lines before]", *lines[left:]] if left > 0 else lines
    return "\n".join(f"| {shown_line}" for shown_line in shown)


def _broken(found: re.Match[str]) -> str:
    """Defuse a command: its first mark, or the colon behind it, becomes an escape."""
    word = found[0]
    return f"\\x{ord(word):02x}" if len(word) == 1 else f"{word[:-1]}\\x{ord(word[-1]):02x}"


def _cut(line: str) -> str:
    if len(line) <= LONGEST:
        return line
    note = f" [{len(line)} characters]"
    return line[: LONGEST - len(note)] + note
