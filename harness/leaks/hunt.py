# SPDX-License-Identifier: GPL-2.0-only
"""The hunt for what leaks in a leak batch: which test, and of it which operation under which fault.

Each look is a fresh guest in which a part of it all is done again, with kmemleak's whole protocol behind it. The times
of birth that kmemleak prints say where to look first; what is blamed has been seen to leak without the rest.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from harness.core.errors import KharnessError
from harness.core.records import Finding, Operation
from harness.core.words import plural
from harness.faults.account import Account, Swept
from harness.faults.cause import Cause
from harness.faults.context import FaultContext
from harness.faults.endings import Allowed
from harness.guest.guest import Answer, BpfObject
from harness.leaks.delta import Narrowed, Probe, Reached, Spent, earliest, groups, narrow
from harness.leaks.repeat import Clock, Deed, Run, again, once
from harness.machine.deadline import Deadline
from harness.oracles import kmemleak as kmemleak_oracle
from harness.oracles import ledger, objects, percpu
from harness.oracles.kmemleak import born
from harness.oracles.registry import KernelTarget

SECONDS = 120.0
"""Nominal seconds for the whole hunt; a look that has begun is completed."""

LOOKS = 40
"""Most looks of each kind."""

PASSES, PASS_SECONDS = 16, 6.0
"""Each part is repeated so often, within so many nominal seconds: kmemleak does not see each object."""

BESIDE = 2
"""The number of an allocation may differ by so many from one run to the next."""

LATE = ", not narrowed further for time"

TRIED = 2
"""So many suspected runs are tried before their whole test."""

NAMED = 3
"""Most tests that are listed by name."""

T = TypeVar("T", bound=Hashable)
ORACLES = (ledger.ORACLE, kmemleak_oracle.ORACLE, percpu.ORACLE)


@dataclass(frozen=True)
class Blamed:
    """The culprit of a leak, in words, and the injected fault under which it leaks, where that is known."""

    words: str
    tests: tuple[str, ...]
    cause: Cause = field(default_factory=lambda: Cause(""))


class Hunt:
    """One hunt, after a batch that did `deeds` at the times of `clock`. `say` reports each step to the user.

    `fresh` makes a test context with a guest of its own, restored and not yet entered.
    """

    def __init__(
        self,
        target: KernelTarget,
        deeds: Sequence[Deed],
        fresh: Callable[[], FaultContext],
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._target = target
        self._deeds = {one.test: replace(one, faulty=True) for one in deeds}
        self._fresh = fresh
        self._clock = clock
        self._say = say
        self._scale = target.pristine.scale
        self._deadline = Deadline(SECONDS * self._scale, "the leak to be found")
        self._wanted: dict[str, Finding] = {}
        self._tests = self._probe(self._look_tests)
        self._runs = {test: self._probe_runs(one) for test, one in self._deeds.items()}
        self._plain: dict[str, Probe[int]] = {}
        self._suspects: dict[str, list[tuple[str, Run]]] = defaultdict(list)
        self._causes: dict[tuple[str, Run], Cause] = {}
        self.steps: list[str] = []

    def _probe(self, look: Callable[[tuple[T, ...]], frozenset[str]]) -> Probe[T]:
        return Probe(look, LOOKS, lambda: self._deadline.expired)

    def _probe_runs(self, deed: Deed) -> Probe[Run]:
        return self._probe(lambda part: self._look_runs(deed, part))

    def find(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings, those that are leaks and count with their culprits."""
        leaks = [finding for finding in findings if finding.counts and finding.oracle in ORACLES]
        leaks.sort(key=lambda leak: (ORACLES.index(leak.oracle), -leak.count))
        if not leaks:
            return list(findings)
        for leak in leaks:
            self._wanted.setdefault(leak.signature, leak)
            self._suspect(leak.signature, born(leak), self._clock)
        several = "a leak" if len(self._wanted) == 1 else f"{len(self._wanted)} leaks"
        self._say(f"{several} in what {listed(list(self._deeds))} did: looking for the culprits")
        blamed = self._hunt()
        return [self._described(one, blamed[one.signature]) if one in leaks else one for one in findings]

    def _hunt(self) -> dict[str, list[Blamed]]:
        """The culprits of each leak: first one for each, then the further ones."""
        tests = list(self._deeds)
        blamed: dict[str, list[Blamed]] = {what: [] for what in self._wanted}
        hunts = {what: groups(tests, what, self._tests, self._guess(what)) for what in self._wanted}
        while hunts:
            for what in list(hunts):
                group = next(hunts[what], None)
                if group is None:
                    del hunts[what]
                else:
                    blamed[what].append(self._culprit(what, group))
        return blamed

    def _guess(self, what: str) -> Callable[[], list[list[str]]]:
        return lambda: [[test] for test, _ in self._suspects[what]]

    def _suspect(self, what: str, times: Sequence[int], clock: Clock) -> None:
        """Note during which runs of which tests a leak was allocated; the newest first, as parts get smaller."""
        self._suspects[what] = [entry for jiffies in times for entry in clock.during(jiffies)] + self._suspects[what]

    # --- within a test ------------------------------------------------------------------

    def _culprit(self, what: str, group: Narrowed[str]) -> Blamed:
        if len(group.left) > 1:
            how = "seen only with all of" if group.finished else "time was over, one or more of"
            return Blamed(f"{how} {listed(group.left)}", group.left)
        (test,) = group.left
        words, cause = self._within(what, self._deeds[test])
        return Blamed(f"{short(test)}: {words}", group.left, cause)

    def _within(self, what: str, deed: Deed) -> tuple[str, Cause]:
        """The faults, or the operations, with which the test leaks."""
        runs = deed.runs()
        if not runs:
            return self._plainly(what, deed)
        probe = self._runs[deed.test]
        try:
            if probe.shows(what, ()):
                return self._plainly(what, deed)
        except Spent:
            return self._run_words(deed, Narrowed(runs, False))
        return self._run_words(deed, narrow(runs, what, probe, lambda: self._guess_runs(what, deed)))

    def _guess_runs(self, what: str, deed: Deed) -> Iterator[Sequence[Run]]:
        """The runs during which leaked objects were allocated; then these with their neighbours; then their sweeps."""
        runs = deed.runs()
        suspects = self._suspected(what, deed)
        for reach in (0, BESIDE):
            for run in suspects:
                yield [other for other in runs if other.place == run.place and abs(other.nth - run.nth) <= reach]
        for place in dict.fromkeys(run.place for run in suspects):
            yield [run for run in runs if run.place == place]

    def _suspected(self, what: str, deed: Deed) -> list[Run]:
        return list(dict.fromkeys(run for test, run in self._suspects[what] if test == deed.test))

    def _run_words(self, deed: Deed, found: Narrowed[Run]) -> tuple[str, Cause]:
        if len(found.left) == 1:
            (run,) = found.left
            cause = self._causes.get((deed.test, run), Cause(swept(deed.operations[run.place]).operation))
            return numbered(deed, found.left), cause
        how = ""
        if len(found.left) > 1:
            how = ", none of them alone" if found.finished else LATE
        operations = {swept(deed.operations[run.place]).operation for run in found.left}
        cause = Cause(operations.pop() if len(operations) == 1 else "")
        return numbered(deed, found.left) + how, cause

    def _plainly(self, what: str, deed: Deed) -> tuple[str, Cause]:
        """The operation up to which a test must be done for the leak, without its sweeps."""
        steps = list(deed.steps(()))
        if not steps:
            return "which does nothing", Cause("")
        probe = self._plain.setdefault(deed.test, self._probe(lambda part: self._look_first(deed, len(part))))
        places = [run for run, _ in steps]
        suspects = [places.index(run) for run in self._suspected(what, deed) if run in places]
        guess = [number for place in suspects for number in (place + 1, place)]
        reached = earliest(len(steps), what, probe, guess)
        return first_words(reached, [operation for _, operation in steps]), Cause(called(steps[reached.fewest - 1][1]))

    # --- a look -------------------------------------------------------------------------

    def _look_tests(self, part: tuple[str, ...]) -> frozenset[str]:
        if len(part) == 1:
            return self._look_test(self._deeds[part[0]])
        deeds = [self._deeds[test] for test in part]
        seconds, clock = PASS_SECONDS * self._scale, Clock()
        return self._look(
            listed(part), lambda context: again(context.guest.agent, deeds, PASSES, seconds, clock), clock
        )

    def _look_test(self, deed: Deed) -> frozenset[str]:
        """What a test shows; a single run that shows all leaks is enough, and shows them more reliably."""
        suspects = [run for what in self._wanted for run in self._suspected(what, deed) if run in deed.runs()]
        shown: frozenset[str] = frozenset()
        for run in suspects[:TRIED]:
            shown |= self._runs[deed.test].seen([run])
            if shown >= self._wanted.keys():
                return shown
        return shown | self._look_steps(deed, short(deed.test), deed.runs(), deed.steps)

    def _look_runs(self, deed: Deed, part: tuple[Run, ...]) -> frozenset[str]:
        words = numbered(deed, part) if part else "without a fault"
        return self._look_steps(deed, f"{short(deed.test)}: {words}", part, deed.steps)

    def _look_first(self, deed: Deed, count: int) -> frozenset[str]:
        def first(runs: Sequence[Run]) -> Iterator[tuple[Run, Operation]]:
            return iter(list(deed.steps(runs))[:count])

        return self._look_steps(deed, f"{short(deed.test)}: its first {plural(count, 'operation')}", (), first)

    def _look_steps(
        self,
        deed: Deed,
        words: str,
        runs: Sequence[Run],
        steps: Callable[[Sequence[Run]], Iterator[tuple[Run, Operation]]],
    ) -> frozenset[str]:
        """Look at some runs of one test, repeated."""
        clock = Clock()

        def do(context: FaultContext) -> None:
            agent = context.guest.agent
            clock.set(agent)
            deadline = Deadline(PASS_SECONDS * self._scale, "a part to be repeated")
            for number in range(PASSES):
                if number and deadline.expired:
                    break
                for run, operation, answer in once(agent, deed.test, steps(runs), clock):
                    if [run] == list(runs):
                        self._causes.setdefault((deed.test, run), fault(context, operation, run.nth, answer))
            clock.set(agent)

        return self._look(words, do, clock)

    def _look(self, words: str, do: Callable[[FaultContext], None], clock: Clock) -> frozenset[str]:
        """The leaks that showed in a fresh guest in which `do` was done; none where the guest failed."""
        start, seen, why = time.monotonic(), dict[str, list[int]](), ""
        try:
            seen = self._shown(do)
        except KharnessError as error:
            why = f"not known, {error.line()}"
        count = sum(what in seen for what in self._wanted)
        several = f"{count} of the {len(self._wanted)} leaks" if len(self._wanted) > 1 else "the leak"
        how = why or (several if count else "no leak seen")
        self.steps.append(f"step {len(self.steps) + 1}, {time.monotonic() - start:.0f} s: {words}: {how}")
        self._say(self.steps[-1])
        for what in self._wanted:
            self._suspect(what, seen.get(what, ()), clock)
        return frozenset(seen)

    def _shown(self, do: Callable[[FaultContext], None]) -> dict[str, list[int]]:
        target = self._target
        context = self._fresh()
        with context.guest as guest:
            do(context)
            after = guest.settle()
            found: list[Finding] = []
            if any(leak.oracle == kmemleak_oracle.ORACLE for leak in self._wanted.values()):
                found = context.unreferenced()
                after = guest.settle()
            found += objects.look(guest.agent, target, after).findings()
            found += percpu.findings(percpu.parse(target.pristine.percpu), percpu.parse(after))
        return {leak.signature: born(leak) for leak in found}

    # --- results ------------------------------------------------------------------------

    def _described(self, leak: Finding, blamed: Sequence[Blamed]) -> Finding:
        named = {test for one in blamed for test in one.tests}
        others = [test for test in self._deeds if test not in named]
        log = ["", "The culprit, found by repeating parts of the batch:", *self.steps]
        if others:
            probe = self._tests.known(leak.signature, others)
            log.append(f"{'not looked at' if probe is None else 'no leak seen'}: {listed(others)}")
        log += [f"test: {test}" for test in self._deeds if test in named]
        cause = next((one.cause for one in blamed if one.cause.operation), None)
        leak = cause.of(leak) if cause else leak
        title = "; ".join([leak.title, *dict.fromkeys(one.words for one in blamed)])
        return replace(leak, title=title, log=(*leak.log, *log))


def short(test: str) -> str:
    """A test's name without its file."""
    return test.rpartition("::")[2]


def listed(tests: Sequence[str]) -> str:
    """Tests by their names, or how many they are."""
    if len(tests) > NAMED:
        return f"{len(tests)} tests ({short(tests[0])} to {short(tests[-1])})"
    return ", ".join(map(short, tests))


def called(operation: Operation) -> str:
    """An operation in two words."""
    name = next((str(operation.args[key]) for key in ("prog", "what", "path", "name") if key in operation.args), "")
    return f"{operation.verb} {name}".strip()


def swept(operation: Operation) -> Swept:
    """The sweep that an operation is (harness/faults/sweep.py names it to the agent)."""
    thread = str(operation.args.get("thread", ""))
    return Swept(str(operation.args.get("label", operation.verb)).removesuffix(f" [{thread}]"), thread, Allowed(), ())


def numbered(deed: Deed, runs: Sequence[Run]) -> str:
    """Runs in words: of each sweep, which allocations fail."""
    words = []
    for place in dict.fromkeys(run.place for run in runs):
        what, nths = swept(deed.operations[place]), [run.nth for run in runs if run.place == place]
        first, last = nths[0], nths[-1]
        span = f"allocation {first}" if first == last else f"{len(nths)} allocations from {first} to {last}"
        operation = f"{what.operation} [{what.thread}]" if what.thread else what.operation
        words.append(f"{operation}, {span} failing")
    return "; ".join(words)


def first_words(reached: Reached, operations: Sequence[Operation]) -> str:
    """Up to which operation a test must be done."""
    last = called(operations[reached.fewest - 1])
    if reached.finished:
        return f"with operation {reached.fewest} of {len(operations)}, {last}, without a fault"
    span = f"{reached.spared + 1} to {reached.fewest}"
    return f"with one of operations {span} of {len(operations)}, without a fault{LATE}"


def fault(context: FaultContext, operation: Operation, nth: int, answer: Answer) -> Cause:
    """The fault of a sweep that had this allocation only; the observer still has its site."""
    what = swept(operation)
    sites = [row[0] for row in answer.get("outcomes", ()) if row[0]]
    cause = Cause(what.operation)
    if sites:
        observer = BpfObject(context.guest.agent, str(operation.args["observer"]))
        cause = Account(context, observer, what).cause(sites[0], nth)
    return replace(cause, fault=cause.fault or what.plan(nth))
