# SPDX-License-Identifier: GPL-2.0-only
"""C source as far as coverage needs it: functions, the arms of their if statements, and calls.

No parser: comments, literals and preprocessor lines are blanked, brackets are matched, and names are looked for.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

BLANK = re.compile(
    r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:[^\n\\]|\\\n|\\.)*",
    re.DOTALL | re.MULTILINE,
)
"""Comments, literals and preprocessor lines."""

_IF = re.compile(r"\bif\s*\(")
_ELSE = re.compile(r"\s*else\b(?!\s*if\b)")
_ELSE_IF = re.compile(r"\s*else(?=\s+if\b)")
_NAME = re.compile(r"(\w+)\s*$")
_ANNOTATION = re.compile(r"__(?:acquires|releases|must_hold|cond_acquires|printf|attribute__)\w*|__attribute__")
_PAIRS = {"(": ")", "{": "}", "[": "]"}


@dataclass(frozen=True)
class Function:
    """A definition: its whole head as one line, where its name is, and the span of its body, brackets included.

    Places are characters of the file.
    """

    name: str
    head: str
    at: int
    start: int
    end: int

    @property
    def of_boot(self) -> bool:
        """Whether it is called during boot only."""
        return re.search(r"\b__init\b", self.head) is not None


@dataclass(frozen=True)
class Arm:
    """What an if statement does when `condition` holds, or (`otherwise`) when it does not.

    Its keyword is `at`, its condition is over at `tested`, and `start` to `end` is the statement itself.
    """

    condition: str
    at: int
    tested: int
    start: int
    end: int
    otherwise: bool = False


class Source:
    """One C file."""

    def __init__(self, text: str) -> None:
        self.whole = text
        self.lines = text.splitlines()
        self.code = BLANK.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def line(self, offset: int) -> int:
        """The number of the line that holds a character."""
        return bisect_right(self._starts, offset)

    def text(self, line: int) -> str:
        """A line as it stands in the file, without its indentation."""
        return self.lines[line - 1].strip()

    def shown(self, start: int, end: int) -> str:
        """A piece of the file as one line, without comments."""
        return " ".join(re.sub(r"/\*.*?\*/|//[^\n]*", " ", self.whole[start:end], flags=re.DOTALL).split())

    def closing(self, opening: int) -> int:
        """One past the bracket that closes the one at `opening`; the end of the file where none does."""
        wanted: list[str] = []
        for at in range(opening, len(self.code)):
            char = self.code[at]
            if char in _PAIRS:
                wanted.append(_PAIRS[char])
            elif wanted and char == wanted[-1]:
                wanted.pop()
                if not wanted:
                    return at + 1
        return len(self.code)

    # --- functions ------------------------------------------------------------------------

    @cached_property
    def functions(self) -> dict[str, Function]:
        """The functions that are defined here, by name; of two of one name (#ifdef) the longer one."""
        found: dict[str, Function] = {}
        at = head = 0
        while (at := self.code.find("{", at)) >= 0:
            end = self.closing(at)
            head = max(head, self.code.rfind(";", head, at) + 1)
            text = self.code[head:at]
            name = _function_name(text)
            if name:
                one = Function(name, " ".join(text.split()), self.code.rfind(name, head, at), at, end)
                known = found.get(name)
                if known is None or known.end - known.start < one.end - one.start:
                    found[name] = one
            at = head = end
        return found

    # --- statements -----------------------------------------------------------------------

    def arms(self, function: Function) -> Iterator[Arm]:
        """The arms of each if statement of a function, in order."""
        for found in _IF.finditer(self.code, function.start, function.end):
            condition_end = self.closing(found.end() - 1)
            condition = " ".join(self.code[found.end() : condition_end - 1].split())
            start, end = self._statement(condition_end)
            yield Arm(condition, found.start(), condition_end, start, end)
            other = _ELSE.match(self.code, end)
            if other:
                span = self._statement(other.end())
                yield Arm(condition, other.end() - len("else"), other.end(), *span, otherwise=True)

    def _statement(self, at: int) -> tuple[int, int]:
        """The statement that begins at or behind `at`: a block, an if with its else, or all up to its semicolon."""
        while at < len(self.code) and self.code[at].isspace():
            at += 1
        start = at
        if inner := _IF.match(self.code, at):
            _, end = self._statement(self.closing(inner.end() - 1))
            other = _ELSE.match(self.code, end) or _ELSE_IF.match(self.code, end)
            return start, self._statement(other.end())[1] if other else end
        while at < len(self.code):
            char = self.code[at]
            if char == "{":
                return start, self.closing(at)
            if char == ";":
                return start, at + 1
            at = self.closing(at) if char in "([" else at + 1
        return start, at

    def statement_before(self, at: int) -> str:
        """The text before a character within its statement, as one line."""
        start = max(self.code.rfind(char, 0, at) for char in ";{}")
        return " ".join(self.code[start + 1 : at].split())

    def calls(self, function: Function, name: str) -> Iterator[int]:
        """Where a function calls another by its name."""
        for found in re.finditer(rf"\b{re.escape(name)}\s*\(", self.code[function.start : function.end]):
            yield function.start + found.start()


def _function_name(head: str) -> str:
    """The function whose body follows this head; empty where another kind of bracket does."""
    if not head.rstrip().endswith(")") and not re.search(r"\)\s*(?:__\w+\s*)+$", head):
        return ""
    depth, names = 0, []
    for at, char in enumerate(head):
        if char == "(":
            if not depth and (name := _NAME.search(head[:at])):
                names.append(name[1])
            depth += 1
        elif char == ")":
            depth -= 1
    names = [name for name in names if not _ANNOTATION.fullmatch(name)]
    return names[-1] if names and names[-1] not in ("if", "for", "while", "switch", "do") else ""
