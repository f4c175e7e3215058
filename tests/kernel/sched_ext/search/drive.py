# SPDX-License-Identifier: GPL-2.0-only
"""A search: many sequences in each restored guest until the budget is spent; findings are shrunk."""

from __future__ import annotations

import contextlib
import time
import unittest
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hypothesis import Phase, find, settings
from hypothesis.control import current_build_context
from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    InMemoryExampleDatabase,
    choices_to_bytes,
)
from hypothesis.errors import NoSuchExample

from harness.core.errors import Inconclusive, KharnessError
from harness.core.records import Finding, Operation, SearchSummary
from harness.core.words import plural
from harness.leaks.delta import Probe, narrow
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from harness.session.fixtures import Optional
from sched_ext.search.guest import Deed, Guest, Shown
from sched_ext.search.moves import UNSAMPLED, Choices, Drawn, Moves, possible, sequences
from sched_ext.search.player import TIDY, Spent
from sched_ext.search.words import words

SAMPLE = 6
"""So many sequences are done once more for the leak batch; not those with faults, which the sweeps have."""

PER_GUEST = 40
"""Sequences in one guest, at most."""

GUEST_SECONDS = 15.0
"""Nominal seconds after which a guest gets no further sequence."""

SHRINK_SECONDS, DEAD_SECONDS = 90.0, 240.0
"""Nominal, of shrinking, beside the search's own budget: of what disagrees, and of what a guest dies of or shows at its
end, which takes some seconds each time."""

LOOKS, LOOK_SECONDS = 24, 60.0
"""Of narrowing what a whole guest showed down to one sequence: guests, and nominal seconds."""

LEFT_OUT = 10_000
"""Parts that may be probed; the deadline comes first."""

UNJUDGED = 5
"""Guests without a verdict that end the search."""

SECONDARY = b".secondary"
"""Where Hypothesis keeps examples that it shrinks further, beside the key of those that are done."""

AT_ONCE = ("model", "test")
"""Oracles that report during a sequence."""


class Kept(DirectoryBasedExampleDatabase):
    """Keeps failed examples for the next search, also on another kernel: Hypothesis deletes those that pass."""

    def delete(self, key: bytes, value: bytes) -> None:
        """Nothing: see the class."""


@dataclass(frozen=True)
class Found:
    """The result of a search: a finding, the moves that show it, and how it was shrunk, in lines."""

    finding: Finding
    moves: Moves
    lines: tuple[str, ...]


class Search:
    """Searches one target. `examples` is a folder that is kept, `progress` is called with how far the budget is."""

    def __init__(
        self, context: TestContext, examples: Path, optional: Optional, progress: Callable[[SearchSummary, float], None]
    ) -> None:
        self._context = context
        self._target = context.target
        self._scale = context.target.pristine.scale
        self._optional = optional
        self._progress = progress
        self._key = context.test_id.encode()
        self._kept: ExampleDatabase = Kept(examples)
        self._spent = Spent()
        self._guests = 0
        self._sequences = 0
        self._started = time.monotonic()
        self._seconds = 0.0
        self._why: list[str] = []
        self.sample: list[Moves] = []
        """Some of the first sequences that passed, for the leak batch."""

    # --- the search ---------------------------------------------------------------------

    def run(self, seconds: float) -> Found | None:
        """Draw sequences for so many seconds; returns the first finding, if any.

        Raises Inconclusive where guests could not be judged.
        """
        deadline = Deadline(seconds, "the search's budget")
        found = None
        while found is None and not deadline.expired and len(self._why) < UNJUDGED:
            found = self._round(deadline)
            self._progress(self.summary(), seconds)
        self._seconds = time.monotonic() - self._started
        if found is None and self._why:
            raise Inconclusive(f"{plural(len(self._why), 'guest')} of the search could not be judged: {self._why[0]}")
        return found

    def summary(self) -> SearchSummary:
        """How much was done so far."""
        spent = {what: (times, round(self._spent.seconds[what], 3)) for what, times in self._spent.times.items()}
        seconds = self._seconds or time.monotonic() - self._started
        return SearchSummary(self._sequences, self._context.model.compared, self._guests, round(seconds, 2), spent)

    def _guest(self) -> Guest:
        return Guest(self._context, self._optional)

    def _count(self, guest: Guest) -> None:
        """Add a guest's counts to the test."""
        model = guest.context.model
        self._context.count_model(model.operations, model.compared, model.first_disagreement)
        self._context.summaries += guest.context.summaries
        self._spent.add(guest.spent)
        self._guests += 1

    def _round(self, deadline: Deadline) -> Found | None:
        """Use one guest: first for examples that failed once, then for drawn ones."""
        with self._guest() as guest:
            most = Deadline(GUEST_SECONDS * self._scale, "one guest's part")
            failed: list[Moves] = []

            def fails(drawn: Drawn) -> bool:
                moves = drawn.moves
                if failed:
                    return moves == failed[0]
                if deadline.expired or most.expired:
                    return False
                self._sequences += 1
                guest.done.append(Deed(drawn, tuple(current_build_context().data.choices)))
                if guest.play(moves):
                    if len(self.sample) < SAMPLE and _plain(moves):
                        self.sample.append(moves)
                    return False
                failed.append(moves)
                return True

            if not self._guests:
                self._reuse(fails)
            self._draw(fails, self._context.seed + self._guests)
            shown = guest.finish()
            self._count(guest)
        if shown.findings:
            return self._explain(guest.done, shown)
        if shown.why:
            self._why.append(shown.why)
        return None

    def _reuse(self, fails: Callable[[Drawn], bool]) -> None:
        """Try the examples that failed once; a separate search, as Hypothesis takes no seed with them."""
        options = settings(max_examples=PER_GUEST, phases=(Phase.reuse,), database=self._kept, deadline=None)
        with contextlib.suppress(NoSuchExample, unittest.SkipTest):  # which says that there is nothing
            find(sequences(), fails, settings=options, database_key=self._key)

    def _draw(self, fails: Callable[[Drawn], bool], seed: int) -> None:
        options = settings(max_examples=PER_GUEST, phases=(Phase.generate,), database=None, deadline=None)
        with contextlib.suppress(NoSuchExample):
            find(sequences(), fails, settings=options, random=Random(seed))

    # --- what it means ------------------------------------------------------------------

    def attempt(self, moves: Moves, wanted: Finding) -> Shown:
        """The finding of moves in a pristine guest; the oracles at its end are called if `wanted` needs them."""
        with self._guest() as guest:
            guest.play(moves)
            raised = guest.raised()
            return raised if wanted.oracle in AT_ONCE or raised.like(wanted) else guest.finish()

    def _explain(self, done: Sequence[Deed], shown: Shown) -> Found:
        """The fewest moves that show a guest's finding, first those of the sequence alone in a pristine guest."""
        wanted = shown.findings[0]
        last = done[-1]
        try:
            again = self.attempt(last.moves, wanted).like(wanted)
            if again:
                return self._shrunk(last, again)
            return self._narrowed(done, wanted, shown)
        except KharnessError as error:  # what was found must not be lost for it
            how = f"not looked into further, {error.line()}; all that was done there, {len(done)} sequences:"
            return Found(wanted, joined([deed.moves for deed in done]), (how, *shown.lines))

    def _narrowed(self, done: Sequence[Deed], wanted: Finding, shown: Shown) -> Found:
        """The sequences of a guest that show the finding."""
        deadline = Deadline(LOOK_SECONDS * self._scale, "the sequence to be found")
        looks: dict[frozenset[int], Shown] = {}

        def look(part: tuple[int, ...]) -> frozenset[str]:
            looks[frozenset(part)] = seen = self.attempt(joined([done[number].moves for number in part]), wanted)
            return frozenset({"it"} if seen.like(wanted) else ())

        asked: Probe[int] = Probe(look, LOOKS, lambda: deadline.expired)
        left = narrow(range(len(done)), "it", asked).left
        again = looks[frozenset(left)] if frozenset(left) in looks else None
        if again and (finding := again.like(wanted)):
            if len(left) == 1:
                return self._shrunk(done[left[0]], finding)
            how = f"{plural(len(left), 'sequence')} together show it in a pristine guest, of {len(done)} (not shrunk):"
            return Found(finding, joined([done[number].moves for number in left]), (how, *again.lines))
        how = f"it did not come back in a pristine guest; all that was done there (not shrunk), {len(done)} sequences:"
        return Found(wanted, joined([deed.moves for deed in done]), (how, *shown.lines))

    def _shrunk(self, deed: Deed, wanted: Finding) -> Found:
        """The smallest sequence that shows the same finding, each attempt in a pristine guest.

        First as few moves as possible, by delta debugging; then Hypothesis simplifies the rest.
        """
        seconds = SHRINK_SECONDS if wanted.oracle in AT_ONCE else DEAD_SECONDS
        deadline = Deadline(seconds * self._scale, "the sequence to be shrunk")
        start = time.monotonic()

        def shows(moves: Moves) -> bool:
            moves = possible(moves)
            key = tuple(map(words, moves))
            if key not in known:
                if deadline.expired:
                    return False
                known[key] = self.attempt(moves, wanted).like(wanted) is not None
            return known[key]

        known: dict[tuple[str, ...], bool] = {tuple(map(words, possible(deed.moves))): True}
        asked: Probe[int] = Probe(
            lambda part: frozenset({"it"} if shows(deed.drawn.part(deed.choices, part)[0]) else ()),
            LEFT_OUT,
            lambda: deadline.expired,
        )
        numbers = sorted(narrow(range(len(deed.moves)), "it", asked).left)
        smallest, choices = deed.drawn.part(deed.choices, numbers)
        examples = InMemoryExampleDatabase()
        examples.save(self._key + SECONDARY, choices_to_bytes(choices))
        options = settings(
            max_examples=1_000_000,
            phases=(Phase.reuse, Phase.shrink),
            database=examples,
            deadline=None,
            derandomize=False,
        )
        with contextlib.suppress(NoSuchExample):
            found = find(sequences(), lambda drawn: shows(drawn.moves), settings=options, database_key=self._key)
            smallest = min(found.moves, smallest, key=lambda moves: len(possible(moves)))
        smallest = possible(smallest)
        took, attempts = time.monotonic() - start, len(known)
        self._keep(examples, choices)
        last = self.attempt(smallest, wanted)
        finding = last.like(wanted)
        short = ", for want of time no further" if deadline.expired else ""
        how = (
            f"{plural(len(smallest), 'operation')} in a pristine guest, shrunk from {len(deed.moves)}"
            f" in {plural(attempts, 'attempt')}, {took:.0f} s{short}"
        )
        if finding is None:
            how += "; it did not come back at the last attempt, so it shows now and then"
        return Found(finding or wanted, smallest, (f"{how}:", *(last.lines if finding else map(words, smallest))))

    def _keep(self, examples: ExampleDatabase, choices: Choices) -> None:
        """The smallest example is kept for the next search."""
        entries = sorted(examples.fetch(self._key), key=lambda entry: (len(entry), entry))
        self._kept.save(self._key, entries[0] if entries else choices_to_bytes(choices))


def _plain(moves: Moves) -> bool:
    """Whether a sequence is suitable for the leak batch."""
    return len(moves) > 3 and not any(one.fault or one.verb in UNSAMPLED for one in moves)


def joined(parts: Iterable[Moves]) -> Moves:
    """Several sequences as one, with the guest tidied between them."""
    moves: list[Operation] = []
    for part in parts:
        moves += [TIDY, *part] if moves else part
    return tuple(moves)
