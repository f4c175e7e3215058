# SPDX-License-Identifier: GPL-2.0-only
"""Owns a search: many sequences in each restored guest until the budget is spent; what is found is shrunk."""

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

from harness.machine.deadline import Deadline
from harness.records import Finding, Operation, SearchSummary
from harness.suite.bench import Bench
from harness.suite.halving import Asked, narrow
from harness.suite.outcome import Inconclusive
from harness.suite.search.guest import Deed, Guest, Optional, Shown
from harness.suite.search.moves import UNSAMPLED, Choices, Drawn, Moves, possible, sequences
from harness.suite.search.player import TIDY, Spent
from harness.suite.search.words import words
from harness.words import plural

SAMPLE = 6
"""So many sequences are done once more for the leak batch; not those with faults, which the sweeps have."""

PER_GUEST = 40
"""Sequences in one guest, at most."""

GUEST_SECONDS = 15.0
"""Nominal; a guest is not asked for more after that."""

SHRINK_SECONDS, DEAD_SECONDS = 90.0, 240.0
"""Nominal, of shrinking, beside the search's own budget: of what disagrees, and of what a guest dies of or shows at its
end, which takes some seconds each time."""

LOOKS, LOOK_SECONDS = 24, 60.0
"""Of narrowing what a whole guest showed down to one sequence: guests, and nominal seconds."""

LEFT_OUT = 10_000
"""Parts that may be asked; it is time that ends it."""

UNJUDGED = 5
"""So many guests without a verdict end the search."""

SECONDARY = b".secondary"
"""Where Hypothesis keeps examples that it shrinks further, beside the key of those that are done."""

AT_ONCE = ("model", "test")
"""Oracles that speak while a sequence is played, or not."""

class Kept(DirectoryBasedExampleDatabase):
    """What failed once is tried first next time, also on another kernel: Hypothesis forgets what passes."""

    def delete(self, key: bytes, value: bytes) -> None:
        """Nothing: see the class."""


@dataclass(frozen=True)
class Found:
    """What a search ends with: a finding, the moves that show it, and how that came about, in lines."""

    finding: Finding
    moves: Moves
    lines: tuple[str, ...]


class Search:
    """Searches one target. `examples` is a folder that is kept, `tell` hears how far the budget is."""

    def __init__(
        self, bench: Bench, examples: Path, optional: Optional, tell: Callable[[SearchSummary, float], None]
    ) -> None:
        self._bench = bench
        self._ready = bench.ready
        self._scale = bench.ready.pristine.scale
        self._optional = optional
        self._tell = tell
        self._key = bench.test_id.encode()
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
        """Draws sequences for so many seconds; what was found first, if anything.

        Raises Inconclusive where guests could not be judged.
        """
        deadline = Deadline(seconds, "the search's budget")
        found = None
        while found is None and not deadline.expired and len(self._why) < UNJUDGED:
            found = self._round(deadline)
            self._tell(self.summary(), seconds)
        self._seconds = time.monotonic() - self._started
        if found is None and self._why:
            raise Inconclusive(f"{plural(len(self._why), 'guest')} of the search could not be judged: {self._why[0]}")
        return found

    def summary(self) -> SearchSummary:
        """How much was done until now."""
        spent = {what: (times, round(self._spent.seconds[what], 3)) for what, times in self._spent.times.items()}
        seconds = self._seconds or time.monotonic() - self._started
        return SearchSummary(self._sequences, self._bench.model.compared, self._guests, round(seconds, 2), spent)

    def _guest(self) -> Guest:
        return Guest(self._ready, self._bench.test_id, self._bench.seed, self._bench.allow, self._optional)

    def _count(self, guest: Guest) -> None:
        """Books what was done in a guest on the test."""
        model = guest.bench.model
        self._bench.count_model(model.operations, model.compared, model.first_disagreement)
        self._bench.summaries += guest.bench.summaries
        self._spent.add(guest.spent)
        self._guests += 1

    def _round(self, deadline: Deadline) -> Found | None:
        """One guest: what failed once first, then what is drawn."""
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
            self._draw(fails, self._bench.seed + self._guests)
            shown = guest.finish()
            self._count(guest)
        if shown.findings:
            return self._explain(guest.done, shown)
        if shown.why:
            self._why.append(shown.why)
        return None

    def _reuse(self, fails: Callable[[Drawn], bool]) -> None:
        """What failed once; a search of its own, for Hypothesis takes no seed with it."""
        options = settings(max_examples=PER_GUEST, phases=(Phase.reuse,), database=self._kept, deadline=None)
        with contextlib.suppress(NoSuchExample, unittest.SkipTest):  # which says that there is nothing
            find(sequences(), fails, settings=options, database_key=self._key)

    def _draw(self, fails: Callable[[Drawn], bool], seed: int) -> None:
        options = settings(max_examples=PER_GUEST, phases=(Phase.generate,), database=None, deadline=None)
        with contextlib.suppress(NoSuchExample):
            find(sequences(), fails, settings=options, random=Random(seed))

    # --- what it means ------------------------------------------------------------------

    def attempt(self, moves: Moves, wanted: Finding) -> Shown:
        """What moves show in a pristine guest; the oracles at its end are asked where it takes them to see `wanted`."""
        with self._guest() as guest:
            guest.play(moves)
            raised = guest.raised()
            return raised if wanted.oracle in AT_ONCE or raised.like(wanted) else guest.finish()

    def _explain(self, done: Sequence[Deed], shown: Shown) -> Found:
        """The fewest moves that show what a guest showed, first alone in a pristine guest."""
        wanted = shown.findings[0]
        last = done[-1]
        again = self.attempt(last.moves, wanted).like(wanted)
        if again:
            return self._shrunk(last, again)
        return self._narrowed(done, wanted, shown)

    def _narrowed(self, done: Sequence[Deed], wanted: Finding, shown: Shown) -> Found:
        """Which of the sequences of a guest it was."""
        deadline = Deadline(LOOK_SECONDS * self._scale, "the sequence to be found")
        looks: dict[frozenset[int], Shown] = {}

        def look(part: tuple[int, ...]) -> frozenset[str]:
            looks[frozenset(part)] = seen = self.attempt(joined([done[number].moves for number in part]), wanted)
            return frozenset({"it"} if seen.like(wanted) else ())

        asked: Asked[int] = Asked(look, LOOKS, lambda: deadline.expired)
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
        """The smallest sequence that is found to show the same, each attempt in a pristine guest.

        First as few moves as possible, by leaving out ever smaller parts; then Hypothesis makes simpler what is left.
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
        asked: Asked[int] = Asked(
            lambda part: frozenset({"it"} if shows(deed.drawn.part(deed.choices, part)[0]) else ()),
            LEFT_OUT, lambda: deadline.expired,
        )  # fmt: skip
        numbers = sorted(narrow(range(len(deed.moves)), "it", asked).left)
        smallest, choices = deed.drawn.part(deed.choices, numbers)
        examples = InMemoryExampleDatabase()
        examples.save(self._key + SECONDARY, choices_to_bytes(choices))
        options = settings(
            max_examples=1_000_000, phases=(Phase.reuse, Phase.shrink), database=examples, deadline=None,
            derandomize=False,
        )  # fmt: skip
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
    """Whether a sequence is one for the leak batch."""
    return len(moves) > 3 and not any(one.fault or one.verb in UNSAMPLED for one in moves)


def joined(parts: Iterable[Moves]) -> Moves:
    """Several sequences as one, with the guest tidied between them."""
    moves: list[Operation] = []
    for part in parts:
        moves += [TIDY, *part] if moves else part
    return tuple(moves)
