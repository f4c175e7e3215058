# SPDX-License-Identifier: GPL-2.0-only
"""What a patch claims by its code, and what showed it: that a function may fail, that its callers handle that, and that
a new function is called where the patch has it called."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harness.coverage import branches
from harness.coverage.branches import Counts, Site
from harness.coverage.csource import Arm, Function, Source
from harness.coverage.lines import MOST_TESTS
from harness.host.below import text_of

_NO_ERROR = re.compile(r"\b(?:void|bool)\s+\w+$")
"""The head of a function up to its name whose answer is no error."""


class Kind(enum.StrEnum):
    """What is claimed of a function."""

    FAILS = "may fail"
    HANDLED = "failure is handled"
    CALLED = "is called"


@dataclass(frozen=True)
class Claim:
    """One claim: that `function` may fail, or that `caller` handles its failure, or calls it, at this place.

    `times` is how often it was shown, by how many `tests`, `named` the first of them. `why` says what is wrong with a
    place where it cannot be shown.
    """

    kind: Kind
    function: str
    file: str
    line: int
    text: str
    caller: str = ""
    times: int = 0
    tests: int = 0
    named: tuple[str, ...] = ()
    why: str = ""

    @property
    def sentence(self) -> str:
        """The claim itself."""
        match self.kind:
            case Kind.FAILS:
                return f"{self.function}() may fail"
            case Kind.HANDLED:
                return f"{self.caller}() handles a failure of {self.function}()"
            case Kind.CALLED:
                return f"{self.caller}() calls {self.function}()"


@dataclass
class _Open:
    """A claim, how often counters of its file show it (None where they cannot), and the tests that did."""

    claim: Claim
    shown: Callable[[Counts], int | None]
    tests: list[str] = field(default_factory=list)

    def judged(self, counted: Counts) -> Claim:
        times = self.shown(counted)
        why = self.claim.why or ("gcov knows no line of it" if times is None else "")
        tests = tuple(dict.fromkeys(self.tests))
        return replace(self.claim, times=times or 0, tests=len(tests), named=tests[:MOST_TESTS], why=why)


class Claims:
    """The claims of the lines that a patch `added`, in the files that were counted, held against test after test."""

    def __init__(self, tree: Path, added: Mapping[str, Sequence[int]], counted: Mapping[str, Counts]) -> None:
        self._counted = counted
        texts = {file: text_of(tree, file) for file in counted if file.endswith(".c")}
        changed = {file: Source(texts[file]) for file in added if file in texts}
        touched = [(file, one) for file, source in changed.items() for one in _touched(source, frozenset(added[file]))]
        names = "|".join(sorted({one.name for _, one in touched}))
        self._open: list[_Open] = []
        if not names:
            return
        called = re.compile(rf"\b(?:{names})\s*\(")
        sources = {file: changed.get(file) or Source(text) for file, text in texts.items() if called.search(text)}
        self._open += _failures(touched, sources, added, counted)
        known = {one.claim.function for one in self._open}
        for file, one in touched:
            if one.name not in known and changed[file].line(one.at) in added[file]:
                self._open += _calls(one.name, sources, counted)

    def count(self, test: str, counted: Mapping[str, Counts]) -> None:
        """Take the counters of one test."""
        for one in self._open:
            mine = counted.get(one.claim.file)
            if mine is not None and one.shown(mine):
                one.tests.append(test)

    def judged(self) -> tuple[Claim, ...]:
        """Each claim, with how often all tests have shown it."""
        return tuple(one.judged(self._counted[one.claim.file]) for one in self._open)


def _touched(source: Source, added: frozenset[int]) -> Iterator[Function]:
    """The functions to which a line was added."""
    for function in source.functions.values():
        if added.intersection(range(source.line(function.at), source.line(function.end - 1) + 1)):
            yield function


def _failures(
    touched: Sequence[tuple[str, Function]],
    sources: Mapping[str, Source],
    added: Mapping[str, Sequence[int]],
    counted: Mapping[str, Counts],
) -> Iterator[_Open]:
    """The error branches that the patch adds, and who calls the functions that they are in.

    A branch that handles such a call is told once, with the call.
    """
    arms = [(file, one, arm) for file, one in touched for arm in _new_arms(one, sources.get(file), added[file])]
    sites: list[Site] = []
    for name in dict.fromkeys(one.name for _, one, _ in arms):
        sites += branches.call_sites((name,), sources, counted)
    handled = {(site.call.file, site.arm) for site in sites}
    for file, one, arm in arms:
        if (file, arm) not in handled:
            source = sources[file]
            claim = Claim(Kind.FAILS, one.name, file, source.line(arm.at), branches.one_line(arm, source))
            yield _Open(claim, partial(branches.taken, arm, source))
    for site in {(site.call.file, site.call.line, site.call.callee): site for site in sites}.values():
        call = site.call
        yield _Open(
            Claim(Kind.HANDLED, call.callee, call.file, call.line, call.text, call.function, why=site.why), site.failed
        )


def _new_arms(function: Function, source: Source | None, added: Sequence[int]) -> Iterator[Arm]:
    """The error branches of a function whose answer may be an error, of which the patch adds a line."""
    if source is None or _NO_ERROR.search(function.head.partition(f"{function.name}(")[0] + function.name):
        return
    for arm in branches.error_arms(function, source):
        if set(added).intersection(range(source.line(arm.at), source.line(arm.end - 1) + 1)):
            yield arm


def _calls(name: str, sources: Mapping[str, Source], counted: Mapping[str, Counts]) -> Iterator[_Open]:
    """Where a new function is called."""
    for file, source in sources.items():
        for function in source.functions.values():
            for line in sorted({source.line(at) for at in source.calls(function, name)}):
                if function.name != name and line in counted[file].lines:
                    yield _Open(
                        Claim(Kind.CALLED, name, file, line, source.text(line), function.name), partial(_executed, line)
                    )


def _executed(line: int, counted: Counts) -> int | None:
    return counted.lines.get(line)
