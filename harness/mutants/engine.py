# SPDX-License-Identifier: GPL-2.0-only
"""The mutants of a patch, one after the other: built on what is kept, run with the tests that execute the broken line,
ended at the first finding."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.bisect.state import State
from harness.bisect.steps import carry_out
from harness.core.errors import KernelFailure
from harness.core.plan import KernelRequest, Plan
from harness.core.records import Kernel, decode, encode
from harness.core.words import plural
from harness.host.progress import duration
from harness.kbuild.sections import differing
from harness.mutants import judge
from harness.mutants.judge import Fate, Seen
from harness.mutants.operators import Mutant
from harness.mutants.rows import Row
from harness.report import results

BASELINE = "baseline"
"""The run on the unbroken patch, which tells which tests execute which line; the state has a note of it."""

FIRST = 6
"""Tests of the first run on a mutant; the others that execute its line come after these have passed."""

ABOVE = 3
"""Lines above one without code of its own, the nearest of which that was executed stands for it; else those below."""

MOST = 40
"""Functions in pytest's -k at most: of a line that more tests execute, those that tell most."""


@dataclass(frozen=True)
class Reach:
    """Which tests execute which line: by file and line, as OUT/coverage/*/coverage.json has it. `never` are lines, by
    file, that are known to be executed by none."""

    ran: Mapping[str, Mapping[str, Sequence[str]]]
    never: Mapping[str, Collection[int]] = field(default_factory=dict)

    def tests(self, mutant: Mutant) -> tuple[str, ...]:
        """The tests that execute the mutant's line; for a line without code of its own those of the nearest above, and
        of a condition that was made a part of what is above it and not asked about, those of its arm below."""
        lines = self.ran.get(mutant.file, {})
        above = range(mutant.line, max(0, mutant.line - 1 - ABOVE), -1)
        for number in (*above, *range(mutant.line + 1, mutant.line + 1 + ABOVE)):
            if number in self.never.get(mutant.file, ()):
                return ()
            if found := lines.get(str(number)):
                return tuple(found)
        return ()

    def breadth(self) -> Counter[str]:
        """How many lines each test executes."""
        return Counter(test for lines in self.ran.values() for tests in lines.values() for test in tests)


class Engine:
    """Tries mutants. `plan` is that of the patched kernel alone, `build` makes a kernel of a request.

    `state` has the rows of a former call; what is built and run goes to its folder.
    """

    def __init__(
        self,
        plan: Plan,
        reach: Reach,
        state: State,
        build: Callable[[KernelRequest], Kernel],
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._reach = reach
        self._state = state
        self._out = state.path.parent
        self._build = build
        self._say = say
        self._telling: Counter[str] = Counter()
        self._breadth = reach.breadth()

    def run(self, mutants: Sequence[Mutant], equivalent: Mapping[str, str], seconds: float | None) -> tuple[Row, ...]:
        """Each mutant's row; those of a former call are taken as they are. After `seconds` no other is begun.

        Those that are `equivalent`, each with the reason, are not tried, whatever a former call found of them.

        In an order that the plan's seed decides, so that what is done is a fair sample of all.
        """
        done_before = (decode(data, Row) for name, data in self._state.notes.items() if name != BASELINE)
        known = {row.mutant.id: row for row in done_before if row.seen.fate is not Fate.UNREACHED}
        for row in known.values():
            self._learn(row)
        order = list(mutants)
        random.Random(self._plan.seed).shuffle(order)
        plain: Kernel | None = None
        start, done = time.monotonic(), 0
        for number, mutant in enumerate(order, 1):
            if mutant.id in equivalent:
                row = Row(mutant, Seen(Fate.EQUIVALENT, why=equivalent[mutant.id]), 0.0, len(self._reach.tests(mutant)))
                known[mutant.id] = row
            if mutant.id in known:
                continue
            if seconds is not None and time.monotonic() - start > seconds:
                left = plural(len(order) - len(known), "mutant")
                self._say(f"mutants: the budget of {duration(seconds)} is over, {left} left")
                break
            tests = self._reach.tests(mutant)
            if not tests:
                row = Row(mutant, Seen(Fate.UNREACHED), 0.0, 0)
            else:
                if plain is None:
                    plain = self._build(self._plan.kernels[0])
                row = self._one(mutant, tests, plain)
                done += 1
                spent = time.monotonic() - start
                self._say(
                    f"mutants: {number} of {len(order)}, {mutant.operator} in {mutant.function}():{mutant.line}"
                    f" {row.seen.fate} after {duration(row.seconds)}; {duration(spent / done)} each so far"
                )
                self._state.note(mutant.id, encode(row))
            known[mutant.id] = row
            self._learn(row)
        return tuple(known[mutant.id] for mutant in mutants if mutant.id in known)

    def _one(self, mutant: Mutant, tests: Sequence[str], plain: Kernel) -> Row:
        """Build one mutant, and run it if that changes anything."""
        start = time.monotonic()
        request = self._request(mutant)
        try:
            kernel = self._build(request)
        except KernelFailure as failure:
            return Row(mutant, Seen(Fate.UNBUILT, why=failure.what), time.monotonic() - start, len(tests))
        if not differing(Path(plain.vmlinux), Path(kernel.vmlinux)):
            return Row(mutant, Seen(Fate.SAME), time.monotonic() - start, len(tests))
        order = self._order(tests)
        seen = self._seen(mutant, request, order[:FIRST])
        if seen.fate in (Fate.SURVIVED, Fate.UNCLEAR) and order[FIRST:]:
            more = self._seen(mutant, request, order[FIRST:MOST])
            seen = more if seen.fate is Fate.SURVIVED or more.fate is Fate.CAUGHT else seen
        return Row(mutant, seen, time.monotonic() - start, len(tests))

    def _request(self, mutant: Mutant) -> KernelRequest:
        (patched,) = self._plan.kernels
        path = self._out / "diffs" / f"{mutant.id}.patch"
        path.parent.mkdir(exist_ok=True)
        path.write_text(mutant.diff)
        return replace(patched, own=(str(path.resolve()),))

    def _order(self, tests: Sequence[str]) -> list[str]:
        """Functions of tests, most telling first: those that caught mutants, then those that execute most lines."""
        names: dict[str, tuple[int, int]] = {}
        for test in tests:
            name = test.rpartition("::")[2].partition("[")[0]
            rank = (self._telling[name], self._breadth[test])
            names[name] = max(names.get(name, rank), rank)
        return sorted(names, key=lambda name: names[name], reverse=True)

    def _learn(self, row: Row) -> None:
        if row.seen.fate is Fate.CAUGHT:
            self._telling[row.seen.test.rpartition("::")[2].partition("[")[0]] += 1

    def _seen(self, mutant: Mutant, request: KernelRequest, names: Sequence[str]) -> Seen:
        """What a run with these tests shows."""
        out = self._out / "runs" / mutant.id
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(exist_ok=True)
        select = " or ".join(names)
        asked = self._plan.options.select
        select = f"({asked}) and ({select})" if asked else select
        plan = replace(self._plan, kernels=(request,), incremental=True, added={})
        plan = plan.with_options(out=str(out), select=select, fail_fast=True, coverage=False)
        carry_out(plan, out.with_suffix(".log"))
        return judge.judge(results.read(out), (mutant.function, *mutant.blamed), mutant.owners)
