# SPDX-License-Identifier: GPL-2.0-only
"""What the runner of the sched_ext selftests prints: one result a test, and the totals at its end.

Its form is that of tools/testing/selftests/sched_ext/runner.c: each test is reported between ``===== START =====`` and
``=====  END  =====``, with what it printed itself, last a line of KTAP (Documentation/dev-tools/ktap.rst) without the
plan that KTAP has. A test may print KTAP of its own (rt_stall does): only the line before END is the runner's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

START, END, RESULTS = "===== START =====", "=====  END  =====", "RESULTS:"
_NAME, _DESCRIPTION, _OUTPUT = "TEST: ", "DESCRIPTION: ", "OUTPUT:"
_TOTAL = re.compile(r"(PASSED|SKIPPED|FAILED): +(\d+)")
_ERROR = re.compile(r"ERR: .+:\d+")
_GIVEN_UP = re.compile(r"\[SCX_BUG\] .+:\d+.*")


class Word(StrEnum):
    """The runner's result of a test."""

    OK = "ok"
    NOT_OK = "not ok"
    SKIP = "skip"


@dataclass(frozen=True)
class Said:
    """One test in the runner's output: `word` is None where no known result followed its beginning.

    `output` is what the test printed, without its end.
    """

    name: str
    word: Word | None
    output: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it failed, gave up or was skipped, from its own output.

        The selftests' macros (SCX_ERR() in scx_test.h, SCX_BUG_ON() of tools/sched_ext) print a place and then what
        was wrong; whoever skips says so last.
        """
        lines = [line.strip() for line in self.output if line.strip()]
        for number, line in enumerate(lines):
            if _GIVEN_UP.fullmatch(line) or _ERROR.fullmatch(line):
                place = short(line.removeprefix("ERR: "))
                return ": ".join([place, *lines[number + 1 : number + 2]])
        return lines[-1] if lines else ""

    @property
    def gave_up(self) -> bool:
        """Whether the test ended the whole runner by SCX_BUG_ON(): its way of failing where there is no other."""
        return self.word is None and any(_GIVEN_UP.fullmatch(line.strip()) for line in self.output)


@dataclass(frozen=True)
class Report:
    """Everything that one call of the runner printed. `totals` are its own (PASSED, SKIPPED, FAILED), if it came to
    them."""

    tests: tuple[Said, ...] = ()
    totals: dict[str, int] | None = None


def short(place: str) -> str:
    """``/src/tools/testing/selftests/sched_ext/exit.c:31`` without the folder that every one is in."""
    return re.sub(r"^((?:\[SCX_BUG\] )?)\S*/", r"\1", place)


def parse(text: str) -> Report:
    """What the runner printed, whole or cut off anywhere. Never raises: what is not its form is a test's output."""
    lines = text.split("\n")
    tests: list[Said] = []
    end = 0
    starts = [number for number, line in enumerate(lines) if _begins(lines, number)]
    for start, following in zip(starts, [*starts, len(lines)][1:], strict=True):
        name = lines[start + 1].removeprefix(_NAME)
        said, end = _test(name, lines, start + 2, following)
        tests.append(said)
    return Report(tuple(tests), _totals(lines[end:]))


def _begins(lines: Sequence[str], number: int) -> bool:
    return lines[number] == START and number + 1 < len(lines) and lines[number + 1].startswith(_NAME)


def _test(name: str, lines: Sequence[str], start: int, following: int) -> tuple[Said, int]:
    """One test from the line after its name, and where its lines end."""
    first = start
    if first < following and lines[first].startswith(_DESCRIPTION):
        first += 1
    if first < following and lines[first] == _OUTPUT:
        first += 1
    pattern = re.compile(rf"(?P<word>ok|not ok|<UNKNOWN>) \d+ {re.escape(name)} # (?P<skip>SKIP )?\Z")
    for number in range(first + 1, following):
        # The runner's line is whole; what the test printed before it may lack its end of line.
        if lines[number] == END and (result := pattern.search(lines[number - 1])):
            before = lines[number - 1][: result.start()]
            output = (*lines[first : number - 1], *([before] if before else []))
            return Said(name, _word(result), output), number + 1
    return Said(name, None, tuple(lines[first:following])), following


def _word(result: re.Match[str]) -> Word | None:
    if result["word"] == "ok":
        return Word.SKIP if result["skip"] else Word.OK
    return Word.NOT_OK if result["word"] == "not ok" else None


def _totals(lines: Sequence[str]) -> dict[str, int] | None:
    """The runner's own count; None unless all three are there."""
    if RESULTS not in lines:
        return None
    found = [_TOTAL.fullmatch(line) for line in lines[lines.index(RESULTS) :]]
    totals = {match[1]: int(match[2]) for match in found if match}
    return totals if len(totals) == 3 else None


def contradiction(report: Report, name: str, status: int) -> str:
    """Why what the runner printed cannot be the result of the one test `name`, in one line; empty if it can.

    `status` is its exit status, or 128 + the signal that ended it.
    """
    if [said.name for said in report.tests] != [name]:
        ran = ", ".join(said.name for said in report.tests) or "no test"
        return f"{name} alone was to run, and the runner tells of {ran}"
    (said,) = report.tests
    if said.gave_up and status == 1:
        return ""
    if said.word is None:
        last = f" ({said.reason})" if said.reason else ""
        return f"the runner ended with status {status} and no result of {name}{last}"
    if report.totals is None:
        return f"the runner ended with status {status} before its totals"
    key = {Word.OK: "PASSED", Word.SKIP: "SKIPPED", Word.NOT_OK: "FAILED"}[said.word]
    if +Counter(report.totals) != Counter({key: 1}):
        return f"the runner says {said.word} of {name}, and counts {_counted(report.totals)}"
    if status != (said.word is Word.NOT_OK):
        return f"the runner says {said.word} of {name}, and ends with status {status}"
    return ""


def _counted(totals: dict[str, int]) -> str:
    return ", ".join(f"{number} {key.lower()}" for key, number in totals.items())
