# SPDX-License-Identifier: GPL-2.0-only
"""The indentation of lines of C that lost it, by the kernel's coding style (Documentation/process/coding-style.rst).

It is for the reader: the compiler does not mind. What is before a line, as it is in the tree, says where it belongs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TAB = 8
_LABEL = re.compile(r"(?!default\b)[A-Za-z_]\w*:(?!:)\s*$")
_CASE = re.compile(r"(?:case\b.*|default\s*):")
_CONTROL = re.compile(r"(?:\}\s*)?(?:if|for|while|switch|else|do|\w*for_each\w*)\b")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)+'|/\*.*?\*/|//.*")


def indented(text: str, before: Sequence[str]) -> str:
    """A line with the indentation that it has after the lines `before`."""
    words = text.strip()
    if not words or words.startswith("#"):
        return words
    known = [line for line in before if line.strip() and not line.startswith("#")]
    if not known:
        return words
    last = known[-1]
    if inside := _comment(last, words):
        return inside + words
    if _LABEL.match(words):
        return words
    column = _open(known)
    if column is not None:
        return _width(column) + words
    start = _statement(known)
    level = _column(known[start])
    if last.rstrip().endswith("{") or _labels(last) or _bare_control(known[start:]):
        level += TAB
    else:
        level = _unwound(known, start, level, words)
    if words.startswith("}") or (_CASE.match(words) and not last.rstrip().endswith("{")):
        level -= TAB if words.startswith("}") or not _labels(known[start]) else 0
    if _CASE.match(words) and last.rstrip().endswith("{"):
        level -= TAB
    return _width(max(0, level)) + words


def _comment(last: str, words: str) -> str:
    """The indentation within a comment; empty where none is open."""
    lead = last[: len(last) - len(last.lstrip())]
    body = last.strip()
    if body.endswith("*/") or not words.startswith("*"):
        return ""
    if body.startswith("/*"):
        return lead + " "
    return lead if body.startswith("*") else ""


def _column(line: str) -> int:
    """How far in a line begins; the lines of a comment as the comment."""
    wide = line.expandtabs(TAB)
    column = len(wide) - len(wide.lstrip())
    return column // TAB * TAB if wide.lstrip().startswith("*") else column


def _width(column: int) -> str:
    return "\t" * (column // TAB) + " " * (column % TAB)


def _code(line: str) -> str:
    """A line with strings and comments blanked, so that their signs do not count; its length stays."""
    return _QUOTED.sub(lambda found: "_" * len(found[0]), line.expandtabs(TAB))


def _open(lines: Sequence[str]) -> int | None:
    """The column after the innermost bracket that is open at the end; None where none is."""
    stack: list[int] = []
    for line in lines[_statement(lines) :]:
        for column, letter in enumerate(_code(line)):
            if letter in "([":
                stack.append(column + 1)
            elif letter in ")]" and stack:
                stack.pop()
    return stack[-1] if stack else None


def _ends(line: str) -> bool:
    """Whether a statement, a block, a label or a comment ends with a line."""
    code = re.sub(r"/\*.*?\*/", "", line).rstrip()
    return not code or code.endswith((";", "{", "}", ":", "*/")) or code.lstrip().startswith(("*", "/*", "#"))


def _statement(lines: Sequence[str]) -> int:
    """Where the statement begins that the last line belongs to or ends."""
    at = len(lines) - 1
    if lines[at].lstrip().startswith("}"):
        return at
    while at > 0 and not _ends(lines[at - 1]) and not (_control(lines[at - 1]) and _closed(lines, at - 1)):
        at -= 1
    return at


def _closed(lines: Sequence[str], at: int) -> bool:
    code = _code(lines[at])
    return code.count("(") == code.count(")")


def _control(line: str) -> bool:
    return _CONTROL.match(line.strip()) is not None


def _bare_control(statement: Sequence[str]) -> bool:
    """Whether a statement is a condition or a loop whose body, one statement without braces, is to come."""
    last = re.sub(r"/\*.*?\*/", "", statement[-1]).rstrip()
    return _control(statement[0]) and last.endswith((")", "else", "do"))


def _labels(line: str) -> bool:
    words = line.strip()
    return _LABEL.match(words) is not None or _CASE.match(words) is not None


def _unwound(lines: Sequence[str], start: int, level: int, words: str) -> int:
    """The level of what follows a statement: that of the conditions without braces around it."""
    at = start
    while at > 0 and _bare_control(lines[_statement(lines[:at]) : at]):
        at = _statement(lines[:at])
        level = _column(lines[at])
        if words.startswith("else") and lines[at].strip().startswith("if"):
            break
    return level
