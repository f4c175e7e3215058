# SPDX-License-Identifier: GPL-2.0-only
"""What gcov's counters say of the functions under test: which error branches a run took, and which it did not.

gcov counts lines and branches, and does not know which way of a branch is the error: that is read from the source. An
error branch is the arm of an if statement that leaves with an error or tests for one. Assertions (WARN_ON) are none.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.core.records import Line
from harness.coverage.csource import Arm, Function, Source

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

    `why` says what is wrong with a call that has no error branch to be taken.
    """

    callee: str
    function: str
    file: str
    line: int
    text: str
    failed: int = 0
    why: str = ""


@dataclass
class Counts:
    """gcov's counters of one file: how often each line was run, and each of its branches taken."""

    lines: dict[int, int] = field(default_factory=dict)
    branches: dict[int, list[int]] = field(default_factory=dict)


def counts(gcov: Mapping[str, Any], roots: Sequence[str]) -> dict[str, Counts]:
    """gcov's JSON by file; names are made relative to the first of `roots` that contains the file.

    The counts of a line that is listed several times, because it was inlined, are added up.
    """
    found: dict[str, Counts] = {}
    for file in gcov["files"]:
        path = posixpath.normpath(posixpath.join(gcov["current_working_directory"], file["file"]))
        root = next((root for root in roots if path.startswith(f"{root}/")), "")
        mine = found.setdefault(path.removeprefix(f"{root}/"), Counts())
        for line in file["lines"]:
            number, ways = line["line_number"], [branch["count"] for branch in line.get("branches", ())]
            mine.lines[number] = mine.lines.get(number, 0) + line["count"]
            mine.branches[number] = _together(mine.branches.get(number, []), ways)
    return found


def _together(known: list[int], ways: list[int]) -> list[int]:
    """The branches of a line that is there twice."""
    if len(known) == len(ways):
        return [a + b for a, b in zip(known, ways, strict=True)]
    return [*known, *ways]


def summed(objects: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """The counters of several objects as one: a header is in each that includes it."""
    found: dict[str, Counts] = {}
    for files in objects:
        for file, counts_of_file in files.items():
            mine = found.setdefault(file, Counts())
            for number, times in counts_of_file.lines.items():
                mine.lines[number] = mine.lines.get(number, 0) + times
                ways = counts_of_file.branches.get(number, [])
                mine.branches[number] = _together(mine.branches.get(number, []), ways)
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
        function.name,
        file,
        source.line(function.at),
        len(lines),
        sum(map(bool, lines)),
        sum(map(len, ways.values())),
        sum(sum(map(bool, branches)) for branches in ways.values()),
        len(built),
        sum(bool(times) for _, times in built),
        tuple(Line(source.line(arm.at), one_line(arm, source)) for arm, times in built if not times),
        tuple(Line(number, source.text(number)) for number in partly),
    )


def error_arms(function: Function, source: Source) -> Iterator[Arm]:
    """The error branches of a function."""
    arms = list(source.arms(function))
    for arm in arms:
        if _ASSERTION.search(arm.condition):
            continue
        own = source.code[arm.start : arm.end]
        for inner in arms:  # nested arms are error branches of their own
            if arm.start < inner.at and inner.end <= arm.end:
                own = own.replace(source.code[inner.at : inner.end], "")
        if _LEAVES.search(own) or (not arm.otherwise and _FAILED.fullmatch(arm.condition)):
            yield arm


def taken(arm: Arm, source: Source, counted: Counts) -> int | None:
    """How often an arm was entered; None where it was not built.

    That is how often its first line was run. Where gcov knows no line of it, because it only returns a constant, it
    was entered if each branch of its condition was taken, or if the condition was tested more often than the statement
    that follows was run.
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
    """How often a condition was tested and the statement behind an arm that leaves was not run; 0 where unknown.

    A label or loop that follows is run more often, so that the number may be too small, but is never too large.
    """
    own = source.code[arm.start : arm.end]
    behind = re.compile(r"\s*(?=[^\s}])").match(source.code, arm.end)
    if arm.otherwise or behind is None or not re.search(r"\b(?:return\b[^;]*|goto\s+\w+);[\s}]*$", own):
        return 0
    tested, following = source.line(arm.at), source.line(behind.end())
    if tested not in counted.lines or following not in counted.lines:
        return 0
    return max(0, counted.lines[tested] - counted.lines[following])


def one_line(arm: Arm, source: Source) -> str:
    """An arm in one line, cut at _TEXT characters, which is marked."""
    text = source.shown(arm.at, arm.end)
    return text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."


# --- callers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """Where a call is written: the `arm` that looks at its answer, which is that of success if `success`."""

    call: Call
    source: Source
    arm: Arm | None = None
    success: bool = False

    @property
    def why(self) -> str:
        """What is wrong with a call that has no such arm."""
        return "" if self.arm else "its answer is not looked at"

    def failed(self, counted: Counts) -> int | None:
        """How often the caller saw a failure; None where gcov knows no line of it."""
        times = taken(self.arm, self.source, counted) if self.arm else None
        if times is None or self.call.line not in counted.lines:
            return None
        return max(0, counted.lines[self.call.line] - times if self.success else times)

    def judged(self, counted: Counts) -> Call:
        """The call, with what the counters say of it."""
        if self.why:
            return replace(self.call, why=self.why)
        times = self.failed(counted)
        return replace(self.call, why="gcov knows no line of it") if times is None else replace(self.call, failed=times)


def calls(fallible: Sequence[str], sources: Mapping[str, Source], counted: Mapping[str, Counts]) -> tuple[Call, ...]:
    """Each call of these functions that can be made after boot and survived, by file and line."""
    return tuple(site.judged(counted[site.call.file]) for site in call_sites(fallible, sources, counted))


def call_sites(
    fallible: Sequence[str], sources: Mapping[str, Source], counted: Mapping[str, Counts]
) -> tuple[Site, ...]:
    """Where these functions are called after boot by a caller that survives it, by file and line.

    A caller that returns the result is as fallible: its callers are included too. A function that returns nothing has
    none.
    """
    names = answering(fallible, sources)
    every = [one for source in sources.values() for one in source.functions.values()]
    pointers = {one.name for one in every if "*" in one.head.partition(f"{one.name}(")[0]}
    found: list[Site] = []
    for name in names:  # grows
        for file, source in sources.items():
            for function in source.functions.values():
                if function.of_boot:
                    continue
                for at in source.calls(function, name):
                    before = source.statement_before(at)
                    if _ASSERTION.search(before):
                        continue
                    if before == "return":
                        names += [function.name] if function.name not in names else []
                        continue
                    if _built(function, source, counted[file]):
                        found.append(_site(name, name in pointers, function, file, source, at))
    return tuple(sorted(found, key=lambda site: (site.call.file, site.call.line)))


def _span(function: Function, source: Source) -> range:
    return range(source.line(function.start), source.line(function.end - 1) + 1)


def _built(function: Function, source: Source, counted: Counts) -> bool:
    return any(number in counted.lines for number in _span(function, source))


def answering(names: Sequence[str], sources: Mapping[str, Source]) -> list[str]:
    """Those of these functions that return something; all of them where none is defined, as nothing is known then."""
    found = [source.functions[name] for source in sources.values() for name in names if name in source.functions]
    mute = [one.name for one in found if re.search(rf"\bvoid\s+{one.name}\b", one.head)]
    return [one.name for one in found if one.name not in mute] if found else list(names)


def _site(name: str, pointer: bool, function: Function, file: str, source: Source, at: int) -> Site:
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
        return Site(call, source)
    return Site(call, source, arm, _of_success(arm.condition, tested, pointer))


def _of_success(condition: str, tested: str, pointer: bool) -> bool:
    """Whether a condition holds when what was tested is no failure: of a number 0 is none, of a pointer NULL is one."""
    condition = re.sub(r"^(?:un)?likely\((.*)\)$", r"\1", condition)
    known = re.escape(tested)
    if pointer:
        return bool(re.match(rf"(?:!\s*IS_ERR\w*\(\s*)?{known}(?!\w)(?!\s*==)", condition))
    return bool(re.match(rf"!\s*{known}(?!\w)|.*(?<!\w){known}(?:\(.*\))?\s*(?:==|>=)\s*0\b", condition))
