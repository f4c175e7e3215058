# SPDX-License-Identifier: GPL-2.0-only
"""The lines that a patch adds: which of them ran, in which tests, and what each of the others waits for."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.core.definition import load
from harness.core.records import Kernel
from harness.core.words import plural
from harness.coverage.branches import Counts, error_arms, taken
from harness.coverage.csource import Arm, Function, Source
from harness.host.below import text_of
from harness.kbuild import kconfig, unbuilt
from harness.kbuild.unbuilt import Built

MOST_OBJECTS = 40
"""Objects of a patch that are counted: of a release there are thousands."""

MOST_TESTS = 8
"""Tests that are named for one line."""

_FORBIDDEN = r"^\s*GCOV_PROFILE(?:_{name}\.o)?\s*:?=\s*n\b"
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"\n]+)"', re.MULTILINE)
_LEAVES = re.compile(r"\s*(?:return|goto|break|continue)\b")
_CALLED = re.compile(r"(\w+)\s*\(")


class State(enum.StrEnum):
    """What became of a line."""

    RAN = "ran"
    NEVER = "never"
    NOT_BUILT = "not built"
    NOT_COUNTED = "not counted"
    NO_CODE = "no code"
    """Nothing is executed there: a comment, a declaration, a part of a statement that began above."""


@dataclass(frozen=True)
class PatchLine:
    """A line that the patch adds; lines are counted from 1. `times` is how often it was executed, by how many `tests`,
    `named` the first of them. `why` says what a line that did not run waits for, or why it cannot run."""

    file: str
    line: int
    text: str
    state: State
    times: int = 0
    tests: int = 0
    named: tuple[str, ...] = ()
    why: str = ""


# --- what is counted ----------------------------------------------------------------------------


def objects_of(tree: Path, file: str) -> tuple[str, ...]:
    """The objects that a source may be compiled into: its own, and those of the sources that include it, as
    kernel/sched/build_policy.c does. None for a header, and for a folder whose Makefile forbids gcov."""
    path = PurePosixPath(file)
    if path.suffix != ".c":
        return ()
    found = [path, *_including(tree, path)]
    return tuple(str(one.with_suffix(".o")) for one in found if not _forbidden(tree, one))


def _including(tree: Path, path: PurePosixPath) -> Iterator[PurePosixPath]:
    """The sources near this one that include it."""
    for folder in (path.parent, path.parent.parent):
        for other in sorted((tree / folder).glob("*.c")):
            name = folder / other.name
            wanted = (folder / found[1] for found in _INCLUDE.finditer(text_of(tree, str(name))))
            if name != path and path in wanted:
                yield name


def _forbidden(tree: Path, path: PurePosixPath) -> bool:
    if "boot" in path.parts:  # runs before there is a kernel that counts
        return True
    rule = re.compile(_FORBIDDEN.format(name=re.escape(path.stem)), re.MULTILINE)
    return bool(rule.search(text_of(tree, str(path.parent / "Makefile"))))


# --- what ran -----------------------------------------------------------------------------------


class Ran:
    """Which tests executed which of the lines `added`, test by test."""

    def __init__(self, added: Mapping[str, Sequence[int]]) -> None:
        self._added = {file: frozenset(lines) for file, lines in added.items()}
        self._tests: dict[tuple[str, int], list[str]] = {}

    def count(self, test: str, counted: Mapping[str, Counts]) -> None:
        """Take the counters of one test."""
        for file, lines in self._added.items():
            for number, times in counted[file].lines.items() if file in counted else ():
                mine = self._tests.setdefault((file, number), []) if times and number in lines else None
                if mine is not None and test not in mine:
                    mine.append(test)

    def table(self) -> dict[str, dict[str, list[str]]]:
        """The tests by file and line, as plain values."""
        files = sorted({file for file, _ in self._tests})
        return {file: {str(line): list(self.of(file, line)) for line in sorted(self._added[file])} for file in files}

    def of(self, file: str, line: int) -> Sequence[str]:
        """The tests that executed a line."""
        return self._tests.get((file, line), ())


def of_patch(
    built: Built, added: Mapping[str, Sequence[int]], counted: Mapping[str, Counts], ran: Ran
) -> tuple[PatchLine, ...]:
    """Each line of `added`, by file and line. `counted` are the sums of all tests."""
    return tuple(line for file, lines in added.items() for line in _of_file(built, file, lines, counted, ran))


def built_of(kernel: Kernel, tree: Path) -> Built:
    """A kernel's build, of this source."""
    objects = frozenset((Path(kernel.path) / "objects").read_text().split())
    return Built(tree, load(kernel.arch).kernel.srcarch, kconfig.read(Path(kernel.config)), objects)


def _of_file(
    built: Built, file: str, lines: Sequence[int], counted: Mapping[str, Counts], ran: Ran
) -> Iterator[PatchLine]:
    text = text_of(built.tree, file)
    source, mine = Source(text), counted.get(file)
    code = PurePosixPath(file).suffix in (".c", ".h", ".S")
    blank = source.code.splitlines()
    for number in lines:
        shown = source.lines[number - 1].rstrip() if number <= len(source.lines) else ""
        empty = number > len(blank) or not blank[number - 1].strip(" \t{};")
        if not code or (empty and (mine is None or number not in mine.lines)):
            yield PatchLine(file, number, shown, State.NO_CODE)
        elif mine is not None and number in mine.lines:
            times, tests = mine.lines[number], ran.of(file, number)
            if times:
                yield PatchLine(file, number, shown, State.RAN, times, len(tests), tuple(tests[:MOST_TESTS]))
            elif (early := _around(source, number)) is not None and early.of_boot:
                why = f"{early.name}() runs during boot, before tests are counted"
                yield PatchLine(file, number, shown, State.NOT_COUNTED, why=why)
            else:
                yield PatchLine(file, number, shown, State.NEVER, why=waits_for(source, number, mine))
        elif off := built.off(unbuilt.conditions(text, number)):
            yield PatchLine(file, number, shown, State.NOT_BUILT, why=f"only with {unbuilt.named(off)}")
        elif mine is None:
            yield PatchLine(file, number, shown, *_uncounted(built, file, number))
        elif _LEAVES.match(shown) and (why := closed(source, number, mine)):
            yield PatchLine(file, number, shown, State.NEVER, why=why)  # the compiler has made it a part of the branch
        else:
            yield PatchLine(file, number, shown, State.NO_CODE)


def _uncounted(built: Built, file: str, line: int) -> tuple[State, int, int, tuple[str, ...], str]:
    """Of a file of which gcov knows nothing."""
    if PurePosixPath(file).suffix == ".h":
        return State.NO_CODE, 0, 0, (), ""
    why = unbuilt.explain(built, file, (line,))
    if why.symbols or "not built" in why.why or "is not part" in why.why:
        return State.NOT_BUILT, 0, 0, (), why.why
    return State.NOT_COUNTED, 0, 0, (), "gcov counts nothing in this file"


# --- what a line waits for ----------------------------------------------------------------------


def waits_for(source: Source, line: int, counted: Counts) -> str:
    """What must come before a line that never ran does: that its function is called, a condition, a failure."""
    function = _around(source, line)
    if function is None:
        return ""
    span = range(source.line(function.start), source.line(function.end - 1) + 1)
    if not any(counted.lines.get(number) for number in span):
        return _uncalled(source, function, counted)
    return closed(source, line, counted) or f"{function.name}() runs, and leaves before this line"


def closed(source: Source, line: int, counted: Counts) -> str:
    """The condition around a line that was tested and never opened the way to it; empty where there is none."""
    function = _around(source, line)
    arms = [arm for arm in source.arms(function) if _covers(source, arm.start, arm.end, line)] if function else []
    shut = [arm for arm in arms if taken(arm, source, counted) == 0]
    if function is None or not shut:
        return ""
    outer = min(shut, key=lambda arm: arm.start)
    tested = counted.lines.get(source.line(outer.at), 0)
    holds = "always held" if outer.otherwise else "never held"
    words = f"'{outer.condition}' in line {source.line(outer.at)}, tested {plural(tested, 'time')}, {holds}"
    failing = _failing(source, function, outer)
    return f"{words}; a fault in {failing}() leads here (--faults, within: [{function.name}])" if failing else words


def _around(source: Source, line: int) -> Function | None:
    """The function that a line is in."""
    return next((one for one in source.functions.values() if _covers(source, one.at, one.end, line)), None)


def _covers(source: Source, start: int, end: int, line: int) -> bool:
    return source.line(start) <= line <= source.line(max(start, end - 1))


def _uncalled(source: Source, function: Function, counted: Counts) -> str:
    """That a function was not called, and who would call it."""
    callers = [
        one.name
        for one in source.functions.values()
        if one.name != function.name and any(True for _ in source.calls(one, function.name))
    ]
    known = f"; it is called by {', '.join(f'{name}()' for name in callers[:3])}" if callers else ""
    return f"no test calls {function.name}(){known}"


def _failing(source: Source, function: Function, arm: Arm) -> str:
    """The function whose failure an arm handles, where it is one that handles an error; else empty."""
    if not any(one.at == arm.at and one.otherwise == arm.otherwise for one in error_arms(function, source)):
        return ""
    inside = _CALLED.findall(arm.condition)
    names = [name for name in inside if name not in ("unlikely", "likely", "IS_ERR", "IS_ERR_OR_NULL", "PTR_ERR")]
    if names:
        return str(names[0])
    looked = re.search(r"\w[\w.>-]*", re.sub(r"\b(?:unlikely|likely|IS_ERR\w*)\b", "", arm.condition))
    if looked is None:
        return ""
    before = source.code[function.start : arm.at]
    assigned = list(re.finditer(rf"{re.escape(looked[0])}\s*=\s*(\w+)\s*\(", before))
    return str(assigned[-1][1]) if assigned else ""


# --- in words -----------------------------------------------------------------------------------

_MARGIN = {State.NEVER: "never", State.NOT_BUILT: "not built", State.NOT_COUNTED: "?", State.NO_CODE: ""}
CONTEXT = 3


def margin(patch: Sequence[PatchLine], tree: Path) -> str:
    """The added lines with a few around them, and in the margin how many tests executed each."""
    files = dict.fromkeys(line.file for line in patch)
    return "".join(_margin_of(file, [line for line in patch if line.file == file], tree) for file in files)


def _margin_of(file: str, patch: Sequence[PatchLine], tree: Path) -> str:
    text = text_of(tree, file).splitlines()
    mine = {line.line: line for line in patch}
    near = {line + offset for line in mine for offset in range(-CONTEXT, CONTEXT + 1)}
    shown = sorted(number for number in near if 0 < number <= len(text))
    rows = [f"--- {file}"]
    for place, number in enumerate(shown):
        if place and number != shown[place - 1] + 1:
            rows.append("")
        line = mine.get(number)
        mark = "" if line is None else _MARGIN.get(line.state, plural(line.tests, "test"))
        rows.append(f"{mark:>10} {number:>6} {'+' if line else ' '}{text[number - 1]}")
        if line is not None and line.why:
            rows.append(f"{'':>18} ^ {line.why}")
    return "\n".join(rows) + "\n\n"
