# SPDX-License-Identifier: GPL-2.0-only
"""One restored guest of a search: sequences are played on it, and its findings reported."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.records import Finding, Outcome
from harness.oracles.splat.log import parse_kmsg
from harness.session.context import TestContext
from harness.session.fixtures import Optional
from sched_ext.search.moves import Choices, Drawn, Moves
from sched_ext.search.player import Player, Spent
from sched_ext.search.same import kin


@dataclass(frozen=True)
class Deed:
    """A sequence that was drawn, with what Hypothesis chose for it."""

    drawn: Drawn
    choices: Choices

    @property
    def moves(self) -> Moves:
        return self.drawn.moves


@dataclass(frozen=True)
class Shown:
    """The result of one guest: findings that count, its sequences, and why it could not be judged, if so."""

    findings: tuple[Finding, ...] = ()
    lines: tuple[str, ...] = ()
    why: str = ""

    def like(self, wanted: Finding) -> Finding | None:
        """The finding that is the same as `wanted`, if it is there."""
        return next((one for one in self.findings if kin(one) == kin(wanted)), None)


class Guest:
    """One restored guest, and a player on it."""

    def __init__(self, of: TestContext, optional: Optional) -> None:
        """A guest in addition to that of the test's own context `of`, which records its loss."""
        self.context = TestContext(of.test_id, of.target, of.seed)
        self.context.allow, self.context.hears = of.allow, of.retried
        self._optional = optional
        self._player: Player | None = None
        self._read = 0
        self._before: list[str] = []
        self._every: list[str] = []
        self._error: BaseException | None = None
        self.done: list[Deed] = []

    @property
    def spent(self) -> Spent:
        return self._player.spent if self._player else Spent()

    @property
    def lines(self) -> list[str]:
        """What was done, as far as it could be."""
        return self._player.lines if self._player else []

    def __enter__(self) -> Guest:
        self.context.enter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.guest.__exit__(None, None, None)

    def play(self, moves: Moves) -> bool:
        """Play a sequence; returns whether there is no finding. Otherwise the guest must not be used again."""
        # Reports of the last sequence may be printed late.
        context = self.context
        context.expected, self._before = list(self._before), []
        first = len(context.expected)
        try:
            if self._player is None:
                self._player = Player(context, self._optional)
                self._read = len(context.guest.agent.kmsg)
            self._player.play(moves)
            reports = self._reports()
        except Exception as error:
            self._error = error
            return False
        self._before = context.expected[first:]
        self._every += self._before
        return not any(one.counts for one in reports)

    def _reports(self) -> list[Finding]:
        """The findings in the kernel log since the last call."""
        context = self.context
        context.guest.log()
        fresh, self._read = context.guest.agent.kmsg[self._read :], len(context.guest.agent.kmsg)
        return context.reports([record for text in fresh for record in parse_kmsg(text)])

    def finish(self) -> Shown:
        """Call every oracle, also after a disagreement; the guest must not be used again."""
        self.context.expected = [*self._every, *self.context.expected]
        result = self.context.conclude(self._error)
        counting = tuple(one for one in result.findings if one.counts)
        why = result.why if result.outcome is Outcome.INCONCLUSIVE else ""
        return Shown(counting, tuple(self.lines), why)

    def raised(self) -> Shown:
        """Only the error that ended the last sequence, without the oracles."""
        if self._error is None:
            return Shown(lines=tuple(self.lines))
        self._error, ending = self.context.ending(self._error)
        return Shown(tuple(one for one in ending.findings if one.counts), tuple(self.lines))
