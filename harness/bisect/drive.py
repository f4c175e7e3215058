# SPDX-License-Identifier: GPL-2.0-only
"""The course of a bisection: both ends, then run after run until enough is known. Resumes from its state.

Every decision follows from the runs in the state and from nothing else, so a bisection that was killed comes the same
way again, without the runs that are written down.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from harness.bisect import judge
from harness.bisect.history import History, called
from harness.bisect.judge import Wanted
from harness.bisect.search import Choice, Cost, Find, Known, Search, Seen, enough
from harness.bisect.state import Finding, Outcome, Run, State
from harness.core.errors import GuestError, UsageError
from harness.core.options import CONFIDENCE, END_RUNS, END_TRIES
from harness.core.words import plural
from harness.host.progress import duration

LEAST_CHANCE = 0.001
"""A candidate that is less likely is not named."""

NARROW_TRIES = 2
"""Runs of the failing tests alone until the failure shows, for each run that it took at first."""

UNCLEAR_TRIES = 2
"""Unjudged runs in a row after which a point is given up."""

FOLLOW = ("build", "boot", "other")
"""What may count as the failure besides the one that is looked for."""


class Step(Protocol):
    """Makes one run: of a point or end by its id, the number of the run, what is looked for, pytest's -k."""

    def __call__(self, id: str, number: int, wanted: Wanted | None, select: str) -> Run: ...


class Subject(Protocol):
    """The subject of a search: the points between `old` and the last of them."""

    history: History
    old: str
    names: tuple[str, str]
    """How the user named the old and the new end."""

    def dull(self, id: str, run: Run) -> Mapping[str, str]:
        """The points that change nothing that is built, and why, as far as the kernel of a run of `id` shows."""


@dataclass(frozen=True)
class Asked:
    """The user's request. `follow` are words of FOLLOW; `signature` chooses among the failing end's failures."""

    find: Find = Find.REGRESSION
    confidence: float = CONFIDENCE
    follow: tuple[str, ...] = ()
    signature: str = ""
    select: str = ""
    end_runs: int = END_RUNS
    tries: int = END_TRIES


class Ending(StrEnum):
    """How a bisection ended."""

    FOUND = "found"
    SEVERAL = "several"
    """The candidates cannot be distinguished, as the points between them cannot be judged."""
    CONTRADICTION = "contradiction"
    """No single point explains the runs."""


@dataclass(frozen=True)
class Answer:
    """What a bisection found: the candidates with their chances, likeliest first; one where it is FOUND.

    `rate` is how often the failure shows, `interior` how many kernels were built or tried between the ends.
    """

    ending: Ending
    wanted: Wanted
    candidates: tuple[tuple[str, float], ...]
    rate: float
    interior: int
    runs: int
    select: str
    dull: Mapping[str, str]
    seen: Mapping[str, Seen]
    unfit: tuple[str, ...]


class Bisection:
    """One bisection; :meth:`run` does it, or the rest of it."""

    def __init__(self, subject: Subject, asked: Asked, state: State, step: Step, say: Callable[[str], None]) -> None:
        self._subject = subject
        self._asked = asked
        self._state = state
        self._step = step
        self._say = say
        self._used: Counter[str] = Counter()
        """How many of the state's runs of each point were taken so far."""
        self._taken: list[tuple[str, Run]] = []
        self._wanted: Wanted | None = None
        self._dull: dict[str, str] = {}
        """The points that change nothing that is built, and why."""

    # --- ends -------------------------------------------------------------------------------

    @property
    def _new(self) -> str:
        return self._subject.history.points[-1].id

    @property
    def _ends(self) -> tuple[str, str]:
        """The end that fails and the one that passes."""
        old, new = self._subject.old, self._new
        return (new, old) if self._asked.find is Find.REGRESSION else (old, new)

    def _named(self, id: str) -> str:
        """The user's name of an end."""
        old, new = self._subject.names
        return called(new if id == self._new else old, id)

    def run(self) -> Answer:
        """Do the bisection. Raises UsageError where an end is not as stated, and GuestError (inconclusive) where one
        cannot be judged."""
        failing, passing = self._ends
        first = self._first_failure(failing)
        wanted = self._wanted = judge.choose(first.findings, self._asked.signature)
        self._say(f"looked for: {wanted.title} [{wanted.signature}], in {', '.join(wanted.tests[:3])}")
        good = self._passing(passing, self._asked.select)
        select = self._narrow(failing, wanted, first)
        bad = self._estimate(failing, select, first)
        good = self._believed(passing, select, bad, good)
        self._learn(failing, first)
        self._learn(passing, good)
        return self._search(wanted, select, bad)

    def _first_failure(self, failing: str) -> Run:
        """The first run of the failing end that fails, with the requested signature."""
        tries, passed, unclear = self._asked.tries, 0, 0
        others: list[Finding] = []
        while passed + len(others) < tries:
            run = self._do(
                failing, self._asked.select, f"the failing end, {self._named(failing)}, run {len(self._taken) + 1}"
            )
            if run.outcome is Outcome.FAILS:
                if judge.fitting(run.findings, self._asked.signature):
                    return run
                # It does not show the failure that is looked for.
                self._taken[-1] = self._key(failing, self._asked.select), replace(run, outcome=Outcome.OTHER)
                self._say(f"not what is asked for, --signature {self._asked.signature}")
                others += run.findings[:1]
                unclear = 0
            elif run.outcome is Outcome.PASSES:
                passed, unclear = passed + 1, 0
            else:
                unclear += 1
                if unclear >= UNCLEAR_TRIES:
                    raise self._unjudged(failing, run)
        if others:
            judge.choose(others, self._asked.signature)  # says which there are
        raise UsageError(
            f"{self._named(failing)} does not fail: it passed in {plural(tries, 'run')}",
            step="check -k and the revisions; for a failure that is rarer, --tries N",
        )

    def _unjudged(self, id: str, run: Run) -> GuestError:
        """The error for an end whose runs cannot be judged."""
        see = f"see {self._state.path.parent / run.out}, " if run.out else ""
        step = f"{see}or select other tests with -k" if see else "select other tests with -k"
        if run.outcome is Outcome.OTHER:
            step = f"{see}and name all that it may be with --signature and *, or give --follow other"
        return GuestError(f"{self._named(id)} cannot be judged: {run.why}", step=step)

    def _passing(self, passing: str, select: str) -> Run:
        """One run of the passing end, or an error if it does not pass."""
        for _ in range(UNCLEAR_TRIES):
            run = self._do(passing, select, f"the passing end, {self._named(passing)}")
            if run.outcome is Outcome.PASSES:
                return run
            if run.outcome is Outcome.FAILS:
                assert self._wanted is not None
                raise UsageError(
                    f"{self._named(passing)} fails as {self._named(self._ends[0])} does: {self._wanted.title}",
                    step="name one that passes",
                )
            if run.outcome is not Outcome.UNCLEAR:
                raise UsageError(
                    f"{self._named(passing)} does not pass, it fails in another way: {run.why}",
                    step="name one that passes, or select with -k the tests that matter",
                )
        raise self._unjudged(passing, run)

    def _narrow(self, failing: str, wanted: Wanted, first: Run) -> str:
        """-k for the next runs: only the tests that had the failure, if it shows there too."""
        select = self._asked.select
        own = judge.narrowed(wanted, select)
        if own == select or first.tests == len(wanted.tests):  # the tests are alone already
            return select
        # A failure that took some runs to show may take as many alone.
        for _ in range(NARROW_TRIES * max(1, self._runs_of(failing, select).runs)):
            run = self._do(failing, own, f"the failing end, {', '.join(wanted.tests[:2])} alone")
            if self._failed(run):
                return own
        self._say("alone the tests do not fail: all that was selected is run at each step")
        return select

    def _estimate(self, failing: str, select: str, first: Run) -> Seen:
        """How often the failure shows at the failing end. Raises GuestError where it cannot be judged."""
        seen = self._runs_of(failing, select)
        unclear = 0
        while seen.runs < self._asked.end_runs:
            run = self._do(failing, select, f"the failing end again, run {seen.runs + 1} of {self._asked.end_runs}")
            now = self._runs_of(failing, select)
            unclear = unclear + 1 if now == seen else 0
            if unclear >= UNCLEAR_TRIES:
                raise self._unjudged(failing, run)
            seen = now
        often = "each time" if not seen.passed else f"in {seen.failed} of {seen.runs} runs"
        self._say(f"the failure shows {often} at {self._named(failing)}")
        return seen

    def _runs_of(self, id: str, select: str) -> Seen:
        """The judged runs of a point so far, of one selection."""
        mine = [run for name, run in self._taken if name == self._key(id, select)]
        failed = sum(self._failed(run) for run in mine)
        return Seen(failed, sum(run.outcome is Outcome.PASSES for run in mine))

    def _failed(self, run: Run) -> bool:
        """Whether a run counts as one of the failure."""
        return run.outcome is Outcome.FAILS or run.outcome in self._asked.follow

    def _believed(self, passing: str, select: str, bad: Seen, good: Run) -> Run:
        """Run the passing end until it counts as passing, given how often the other fails."""
        while not enough(self._runs_of(passing, select).passed, bad, self._asked.confidence):
            good = self._passing(passing, select)
        return good

    def _learn(self, id: str, run: Run) -> None:
        """The points that need no run according to the kernel of this one; found out once for each kernel."""
        name = f"dull {id}"
        if name not in self._state.notes:
            self._state.note(name, dict(self._subject.dull(id, run)))
        fresh = {point: why for point, why in self._state.notes[name].items() if point not in self._dull}
        self._dull |= fresh
        if fresh:
            self._say(f"nothing that is built changes in {len(fresh)} of {plural(len(self._subject.history), 'point')}")

    # --- between them -----------------------------------------------------------------------

    def _search(self, wanted: Wanted, select: str, bad: Seen) -> Answer:
        history = self._subject.history
        if self._asked.find is Find.REGRESSION:
            known = Known(seen={len(history) - 1: bad})
        else:
            known = Known(bad=bad, seen={len(history) - 1: self._runs_of(self._ends[1], select)})
        unclear: Counter[int] = Counter()
        while True:
            known = replace(known, dull=sum(1 << history.index[id] for id in self._dull))
            search = Search(history, known, self._asked.find, cost=self._cost())
            if search.best() is None:
                return self._answer(Ending.CONTRADICTION, wanted, select, search)
            left = search.settled(self._asked.confidence)
            choice = None if left else search.next()
            if choice is None:
                ending = Ending.FOUND if len(left) == 1 else Ending.SEVERAL
                return self._answer(ending, wanted, select, search, left)
            point = history.points[choice.place]
            run = self._do(point.id, select, self._about(search, choice))
            if run.outcome is Outcome.PASSES or self._failed(run):
                known = known.ran(choice.place, self._failed(run))
                self._learn(point.id, run)
                continue
            unclear[choice.place] += 1
            if run.outcome is not Outcome.UNCLEAR or unclear[choice.place] >= UNCLEAR_TRIES:
                known = known.refused(choice.place)

    def _about(self, search: Search, choice: Choice) -> str:
        """The message before a run."""
        left = sum(1 for chance in search.chances().values() if chance > 0.0005)
        point = self._subject.history.points[choice.place]
        again = "again " if choice.repeat else ""
        return f"{left} candidates left; {again}{point.id[:12]} {point.title[:60]}"

    def _cost(self) -> Cost:
        """The duration of runs and builds so far, in seconds."""
        runs = [
            run.seconds - run.build_seconds for _, run in self._taken if run.kernel and run.seconds and not run.fresh
        ]
        builds = [run.seconds for _, run in self._taken if run.fresh]
        usual = Cost()
        run = statistics.median(runs) if runs else usual.run
        build = statistics.median(builds) - run if builds else usual.build
        return Cost(max(run, 1.0), max(build, 1.0))

    def _answer(self, ending: Ending, wanted: Wanted, select: str, search: Search, left: Sequence[int] = ()) -> Answer:
        history = self._subject.history
        chances = list(search.chances().items())
        chances = [(place, chance) for place, chance in chances if (place in left if left else chance >= LEAST_CHANCE)]
        ends = {self._subject.old, self._new}
        interior = {name.partition(" ")[0] for name, _ in self._taken} - ends
        return Answer(
            ending,
            wanted,
            tuple((history.points[place].id, chance) for place, chance in chances),
            search.rate(),
            len(interior),
            len(self._taken),
            select,
            self._dull,
            {history.points[place].id: seen for place, seen in search.known.seen.items()},
            tuple(history.points[place].id for place in history.members(search.known.unfit)),
        )

    # --- runs -------------------------------------------------------------------------------

    @staticmethod
    def _key(id: str, select: str) -> str:
        return f"{id} {select}"

    def _do(self, id: str, select: str, about: str) -> Run:
        """The next run of a point: from the state, if it is there, else done now and recorded."""
        key = self._key(id, select)
        there: Sequence[Run] = self._state.runs.get(key, ())
        if self._used[key] < len(there):
            run = there[self._used[key]]
        else:
            self._say(f"bisect: {about}")
            run = self._step(id, len(self._state.order) + 1, self._wanted, select)
            self._state.ran(key, run)
            self._say(f"bisect: {id[:12]} {run.outcome}: {run.why} ({duration(run.seconds)})")
        self._used[key] += 1
        self._taken.append((key, run))
        return run
