# SPDX-License-Identifier: GPL-2.0-only
"""The search: how likely each point is the culprit, which one to test next, and when enough is known. Pure.

The culprit c is one point. On its failing side (the points that contain c; where a fix is looked for, those that do
not) a run fails with an unknown rate p, elsewhere never. With B failing runs seen in all, and G(c) runs that
passed on the failing side of c, c is as likely as

    certain * [G(c) = 0]  +  (1 - certain) * integral over p of p^B (1 - p)^G(c)

where `certain` is the prior chance that the failure always shows. So a failure that shows each time leads to halving,
and one that shows now and then to as many repeats as the stated confidence takes, by one and the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from harness.bisect.history import History

CERTAIN = 0.25
"""The prior chance that a failure shows in each run; the other rates share the rest evenly.

So low that five failing runs of five do not hide a failure that shows in seven of ten: repeats cost little.
"""

BROKEN_NEAR = 0.3
"""How likely the neighbour of a point that cannot be judged cannot be judged either; half of it two further on."""

NO_GAIN = 1e-9
"""Bits. Below it a run gives no information."""


class Find(StrEnum):
    """What the culprit did to the failure."""

    REGRESSION = "regression"
    FIXED = "fixed"


@dataclass(frozen=True)
class Seen:
    """The runs of one point, or of one of the ends."""

    failed: int = 0
    passed: int = 0

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.failed + other.failed, self.passed + other.passed)

    @property
    def runs(self) -> int:
        return self.failed + self.passed


@dataclass(frozen=True)
class Cost:
    """Seconds of a run on a kernel that is there, and of the build before it where it is not."""

    run: float = 25.0
    build: float = 90.0


@dataclass(frozen=True)
class Known:
    """All that is known so far.

    `bad` are the runs of the failing end where that is no point, `seen` those of points by place. `dull` are the points
    that cannot be the culprit, for they change nothing that is built, `unfit` those that could not be judged: one bit
    each.
    """

    bad: Seen = field(default_factory=Seen)
    seen: Mapping[int, Seen] = field(default_factory=dict)
    dull: int = 0
    unfit: int = 0

    def ran(self, place: int, failed: bool) -> Known:
        """With one more run of a point."""
        now = self.seen.get(place, Seen()) + Seen(int(failed), int(not failed))
        return replace(self, seen={**self.seen, place: now})

    def refused(self, place: int) -> Known:
        """With a point that could not be judged."""
        return replace(self, unfit=self.unfit | 1 << place)


@dataclass(frozen=True)
class Group:
    """Points that the runs so far do not distinguish: `each` is the chance of every one of them to be the culprit,
    `rate` that of a run on its failing side to fail."""

    mask: int
    each: float
    rate: float

    @property
    def chance(self) -> float:
        return self.each * self.mask.bit_count()


@dataclass(frozen=True)
class Choice:
    """The run to do next. `gain` are the expected bits of information on the culprit, `fails` is how likely it fails;
    `repeat`: this point was run before."""

    place: int
    gain: float
    fails: float
    repeat: bool


class Search:
    """The search over one history, at one state of knowledge."""

    def __init__(
        self,
        history: History,
        known: Known,
        find: Find = Find.REGRESSION,
        certain: float = CERTAIN,
        cost: Cost | None = None,
    ) -> None:
        self.history = history
        self.known = known
        self.find = find
        self.certain = certain
        self.cost = cost or Cost()
        self.groups = self._groups()

    # --- what is known ----------------------------------------------------------------------

    def _failing(self, place: int) -> int:
        """The culprits on whose failing side a point is: one bit each."""
        within = self.history.contained[place]
        return within if self.find is Find.REGRESSION else self.history.all & ~within

    def _groups(self) -> tuple[Group, ...]:
        """The points grouped by the runs' results, likeliest first. None where the runs contradict each other."""
        masks = [self.history.all & ~self.known.dull]
        for place in self.known.seen:
            side = self._failing(place)
            masks = [part for mask in masks for part in (mask & side, mask & ~side) if part]
        weighed = []
        for mask in masks:
            culprit = mask.bit_length() - 1
            runs, total = Seen(), self.known.bad
            for place, seen in self.known.seen.items():
                total += seen
                if self._failing(place) >> culprit & 1:
                    runs += seen
            runs += self.known.bad
            if runs.failed == total.failed:  # else it failed where this culprit lets it pass
                weighed.append((mask, *_weigh(runs, self.certain)))
        top = max((log for _, log, _ in weighed), default=0.0)
        if not weighed or top == -math.inf:
            return ()
        whole = sum(math.exp(log - top) * mask.bit_count() for mask, log, _ in weighed)
        groups = [Group(mask, math.exp(log - top) / whole, rate) for mask, log, rate in weighed]
        return tuple(sorted(groups, key=lambda group: -group.each))

    def chances(self) -> Mapping[int, float]:
        """The chance of each point to be the culprit, by place, likeliest first; those below 1e-6 are left out."""
        return {
            place: group.each
            for group in self.groups
            for place in self.history.members(group.mask)
            if group.each > 1e-6
        }

    def best(self) -> tuple[int, float] | None:
        """The likeliest culprit and its chance; of several alike the oldest. None after a contradiction."""
        if not self.groups:
            return None
        return next(self.history.members(self.groups[0].mask)), self.groups[0].each

    def settled(self, confidence: float) -> tuple[int, ...]:
        """The places of points of which one is the culprit with this confidence, and which no run can distinguish.

        One, where it is found; empty as long as runs can give more information.
        """
        best = self.best()
        if best is None:
            return ()
        alike = self.history.all & ~self.known.dull
        for place in self.history.members(self.history.all & ~self.known.unfit & ~self.known.dull):
            side = self._failing(place)
            alike &= side if side >> best[0] & 1 else ~side
        chance = sum(group.each * (group.mask & alike).bit_count() for group in self.groups)
        return tuple(self.history.members(alike)) if chance >= confidence else ()

    def rate(self) -> float:
        """How often the failure shows on its failing side, as far as is known; 1 if always so far."""
        return sum(group.chance * group.rate for group in self.groups)

    # --- what to do next ------------------------------------------------------------------------

    def next(self) -> Choice | None:
        """The run with the most information for its cost; None where no run gives any.

        A point that probably cannot be judged counts for less; a dull one is equivalent to another, and is not run.
        """
        best: Choice | None = None
        worth = 0.0
        for place in self.history.members(self.history.all & ~self.known.unfit & ~self.known.dull):
            repeat = place in self.known.seen
            gain, fails = self._gain(place)
            if gain < NO_GAIN:
                continue
            cost = self.cost.run + (0.0 if repeat else self.cost.build)
            value = gain * (1.0 if repeat else self._fit(place)) / cost
            if value > worth * (1 + 1e-9):
                best, worth = Choice(place, gain, fails, repeat), value
        return best

    def _gain(self, place: int) -> tuple[float, float]:
        """The expected bits of information on the culprit of one more run of a point, and how likely it fails."""
        side, fails, left = self._failing(place), 0.0, 0.0
        for group in self.groups:
            chance = group.each * (group.mask & side).bit_count()
            fails += chance * group.rate
            left += chance * _entropy(group.rate)
        return _entropy(fails) - left, fails

    def _fit(self, place: int) -> float:
        """How likely a point can be judged, from its distance to those that could not."""
        broken = 0.0
        if self.known.unfit:
            for offset, chance in _nearby():
                for near in (place - offset, place + offset):
                    if near >= 0 and self.known.unfit >> near & 1:
                        broken = max(broken, chance)
        return 1.0 - broken


def _nearby() -> Iterator[tuple[int, float]]:
    """Distances in the order of history, and how likely a break of one point also affects one at that distance."""
    for offset in range(1, 5):
        yield offset, BROKEN_NEAR / 2 ** (offset - 1)


def _weigh(runs: Seen, certain: float) -> tuple[float, float]:
    """The logarithm of the likelihood of runs that are all on the failing side, and the expected rate."""
    always = certain if runs.passed == 0 else 0.0
    sometimes = (1.0 - certain) * math.exp(_beta(runs.failed + 1, runs.passed + 1))
    again = (1.0 - certain) * math.exp(_beta(runs.failed + 2, runs.passed + 1))
    total = always + sometimes
    if total <= 0.0:  # too small for a float: the rate alone counts
        return (math.log(1.0 - certain) if certain < 1 else -math.inf) + _beta(runs.failed + 1, runs.passed + 1), (
            (runs.failed + 1) / (runs.runs + 2)
        )
    return math.log(total), (always + again) / total


def _beta(a: float, b: float) -> float:
    """The logarithm of Euler's beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _entropy(chance: float) -> float:
    """Bits of an outcome that has this chance."""
    if chance <= 0.0 or chance >= 1.0:
        return 0.0
    return -chance * math.log2(chance) - (1.0 - chance) * math.log2(1.0 - chance)


def enough(passed: int, bad: Seen, confidence: float, certain: float = CERTAIN) -> bool:
    """Whether an end that passed so often, and never failed, counts as passing, given the runs of the failing end.

    That is when the chance that the same failure hides in so many passes is below 1 - confidence.
    """
    hidden = _weigh(Seen(bad.failed, bad.passed + passed), certain)[0] - _weigh(bad, certain)[0]
    return math.exp(hidden) <= 1.0 - confidence
