# SPDX-License-Identifier: GPL-2.0-only
"""Owns what gcov's counters say of the functions under test: which error branches a run took, and which it did not.

gcov counts lines and branches, and does not know which way of a branch is the error: that is read from the source. An
error branch is the arm of an if statement that leaves with an error or tests for one. Assertions (WARN_ON) are none.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.oracles.csource import Arm, Function, Source
from harness.records import Line

_ASSERTION = re.compile(r"\b(?:VM_)?(?:WARN|BUG)(?:_ON)?(?:_ONCE|_RATELIMIT)?\s*\(")
_FAILED = re.compile(r"(?:unlikely\()?\s*(?:ret|err|error|rc)(?:\s*(?:<|!=)\s*0)?\s*\)?|.*\bIS_ERR\w*\(.*")
_LEAVES = re.compile(
    r"\bgoto\s+\w*(?:err|fail|abort|undo|unwind|free)\w*|\breturn\s+(?:-E[A-Z]|ERR_(?:PTR|CAST)\b|NULL\s*;|(?:ret|err|rc)\s*;)"
    r"|=\s*-E[A-Z]|\w_error\s*\("
)
_ASSIGNED = re.compile(r"([\w>.\[\]-]+)\s*=$")
_TEXT = 100


@dataclass(frozen=True)
class Covered:
    """One function under test. `errors` counts its error branches that were built, of which some were taken."""

    function: str
    file: str
    line: int
    lines: int
    lines_run: int
    branches: int
    branches_taken: int
    errors: int
    errors_taken: int
    errors_not_taken: tuple[Line, ...] = ()
    branches_not_taken: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Call:
    """A call, after boot, of what may fail. `failed` is how often the caller's error branch was taken.

    `why` tells what is wrong with a call that has no error branch to be taken.
    """

    callee: str
    function: str
    file: str
    line: int
    text: str
    failed: int = 0
    why: str = ""


@dataclass(frozen=True)
class Coverage:
    """What all tests of a run took on one kernel. `tests` is how many gave counters, `why` why none did."""

    kernel: str
    arch: str
    tests: int = 0
    functions: tuple[Covered, ...] = ()
    calls: tuple[Call, ...] = ()
    why: str = ""

    @property
    def errors(self) -> int:
        """How many error branches the functions under test have."""
        return sum(row.errors for row in self.functions)

    @property
    def errors_taken(self) -> int:
        return sum(row.errors_taken for row in self.functions)


@dataclass
class Counts:
    """gcov's counters of one file: how often each line was run, and each of its branches taken."""

    lines: dict[int, int] = field(default_factory=dict)
    branches: dict[int, list[int]] = field(default_factory=dict)


def counts(gcov: Mapping[str, Any], roots: Sequence[str]) -> dict[str, Counts]:
    """gcov's JSON by file, whose names are made relative to the first of `roots` that they lie in.

    A line that is there several times, for it was inlined, is added up.
    """
    found: dict[str, Counts] = {}
    for file in gcov["files"]:
        path = posixpath.normpath(posixpath.join(gcov["current_working_directory"], file["file"]))
        root = next((root for root in roots if path.startswith(f"{root}/")), "")
        mine = found.setdefault(path.removeprefix(f"{root}/"), Counts())
        for line in file["lines"]:
            number, ways = line["line_number"], [branch["count"] for branch in line["branches"]]
            mine.lines[number] = mine.lines.get(number, 0) + line["count"]
            known = mine.branches.get(number, [])
            alike = len(known) == len(ways)
            mine.branches[number] = [a + b for a, b in zip(known, ways, strict=True)] if alike else [*known, *ways]
    return found


def functions(
    names: Sequence[str], sources: Mapping[str, Source], counted: Mapping[str, Counts]
) -> tuple[Covered, ...]:
    """The functions of these names, in the order of files and lines; those that were not built are left out."""
    rows = []
    for file, source in sources.items():
        for name in names:
            function = source.functions.get(name)
            row = _covered(function, file, source, counted[file]) if function else None
            if row is not None:
                rows.append(row)
    return tuple(sorted(rows, key=lambda row: (row.file, row.line)))


def _covered(function: Function, file: str, source: Source, counted: Counts) -> Covered | None:
    span = _span(function, source)
    lines = [counted.lines[number] for number in span if number in counted.lines]
    if not lines:
        return None
    ways = {number: counted.branches[number] for number in span if counted.branches.get(number)}
    partly = [number for number, branches in ways.items() if counted.lines[number] and not all(branches)]
    errors = [(arm, taken(arm, source, counted)) for arm in error_arms(function, source)]
    built = [(arm, times) for arm, times in errors if times is not None]
    return Covered(
        function.name, file, source.line(function.at), len(lines), sum(map(bool, lines)),
        sum(map(len, ways.values())), sum(sum(map(bool, branches)) for branches in ways.values()),
        len(built), sum(bool(times) for _, times in built),
        tuple(Line(source.line(arm.at), _told(arm, source)) for arm, times in built if not times),
        tuple(Line(number, source.text(number)) for number in partly),
    )  # fmt: skip


def error_arms(function: Function, source: Source) -> Iterator[Arm]:
    """The error branches of a function."""
    arms = list(source.arms(function))
    for arm in arms:
        if _ASSERTION.search(arm.condition):
            continue
        own = source.code[arm.start : arm.end]
        for inner in arms:  # what is nested speaks for itself
            if arm.start < inner.at and inner.end <= arm.end:
                own = own.replace(source.code[inner.at : inner.end], "")
        if _LEAVES.search(own) or (not arm.otherwise and _FAILED.fullmatch(arm.condition)):
            yield arm


def taken(arm: Arm, source: Source, counted: Counts) -> int | None:
    """How often an arm was entered; None where it was not built.

    That is how often its first line was run. Where gcov knows no line of it, for a constant is all that it returns, it
    was entered if each way of its condition was, or if the condition was tested more often than what follows was run.
    """
    tested = source.line(arm.tested - 1)
    inside = range(max(source.line(arm.start), tested + 1), source.line(arm.end - 1) + 1)
    first = next((counted.lines[number] for number in inside if number in counted.lines), None)
    if first is not None:
        return first
    numbers = range(source.line(arm.at), tested + 1)
    ways = [times for number in numbers for times in counted.branches.get(number, ())]
    return max(min(ways), _missed(arm, source, counted)) if ways else None


def _missed(arm: Arm, source: Source, counted: Counts) -> int:
    """How often a condition was tested and what follows an arm that leaves was not run; 0 where that cannot be told.

    A label or loop that follows is run more often, which hides some: it is never too much.
    """
    own = source.code[arm.start : arm.end]
    behind = re.compile(r"\s*(?=[^\s}])").match(source.code, arm.end)
    if arm.otherwise or behind is None or not re.search(r"\b(?:return\b[^;]*|goto\s+\w+);[\s}]*$", own):
        return 0
    tested, following = source.line(arm.at), source.line(behind.end())
    if tested not in counted.lines or following not in counted.lines:
        return 0
    return max(0, counted.lines[tested] - counted.lines[following])


def _told(arm: Arm, source: Source) -> str:
    """An arm in one line, as far as one takes it."""
    text = source.shown(arm.at, arm.end)
    return text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."


# --- callers ------------------------------------------------------------------------------


def calls(
    fallible: Sequence[str], sources: Mapping[str, Source], counted: Mapping[str, Counts]
) -> tuple[Call, ...]:
    """Each call of these functions that can be made after boot and survived, by file and line.

    A caller that hands the answer on is as fallible: its callers are looked at too. None for a function that
    answers nothing.
    """
    names = answering(fallible, sources)
    found: list[Call] = []
    for name in names:  # grows
        for file, source in sources.items():
            for function in source.functions.values():
                if re.search(r"\b__init\b", function.head):
                    continue
                for at in source.calls(function, name):
                    before = source.statement_before(at)
                    if _ASSERTION.search(before):
                        continue
                    if before == "return":
                        names += [function.name] if function.name not in names else []
                        continue
                    if _built(function, source, counted[file]):
                        found.append(_called(name, function, file, source, counted[file], at))
    return tuple(sorted(found, key=lambda call: (call.file, call.line)))


def _span(function: Function, source: Source) -> range:
    return range(source.line(function.start), source.line(function.end - 1) + 1)


def _built(function: Function, source: Source, counted: Counts) -> bool:
    return any(number in counted.lines for number in _span(function, source))


def answering(names: Sequence[str], sources: Mapping[str, Source]) -> list[str]:
    """Those of these functions that answer something; all of them where none is defined, for then nothing is known."""
    found = [source.functions[name] for source in sources.values() for name in names if name in source.functions]
    mute = [one.name for one in found if re.search(rf"\bvoid\s+{one.name}\b", one.head)]
    return [one.name for one in found if one.name not in mute] if found else list(names)


def _called(name: str, function: Function, file: str, source: Source, counted: Counts, at: int) -> Call:
    line = source.line(at)
    call = Call(name, function.name, file, line, source.text(line))
    arms = [arm for arm in source.arms(function) if not arm.otherwise]
    arm = next((arm for arm in arms if arm.at < at < arm.tested), None)
    tested = name
    if arm is None:  # the next if statement that looks at what it was assigned to
        assigned = _ASSIGNED.search(source.statement_before(at))
        tested = assigned[1] if assigned else ""
        looks = re.compile(rf"(?<!\w){re.escape(tested)}(?!\w)")
        arm = next((arm for arm in arms if arm.at > at and looks.search(arm.condition)), None)
    if not tested or arm is None:
        return _with(call, why="its answer is not looked at")
    times = taken(arm, source, counted)
    if times is None or line not in counted.lines:
        return _with(call, why="gcov knows no line of it")
    if re.match(rf"!\s*{re.escape(tested)}(?!\w)", arm.condition):  # the arm of success
        times = counted.lines[line] - times
    return _with(call, failed=max(0, times))


def _with(call: Call, **changes: Any) -> Call:
    return Call(**(vars(call) | changes))
