# SPDX-License-Identifier: GPL-2.0-only
"""Owns one restored guest of a search: sequences are played on it, and what it shows is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import MachineEnded, MachineLost
from harness.oracles.log import parse_kmsg
from harness.plan import RETRY_LOST_MACHINE, Allowed
from harness.records import FaultSite, Finding, Outcome
from harness.suite.bench import Bench
from harness.suite.search.moves import Choices, Drawn, Moves
from harness.suite.search.player import Player, Spent
from harness.suite.search.told import kin
from harness.suite.session import Ready

Optional = Callable[[FaultSite], str]
"""Why an operation may do without an allocation, if it may: harness.faults.optional."""


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
    """What one guest showed: findings that count, what was done in it, and why it could not be judged, if so."""

    findings: tuple[Finding, ...] = ()
    lines: tuple[str, ...] = ()
    why: str = ""

    def like(self, wanted: Finding) -> Finding | None:
        """The finding that is the same as `wanted`, if it is there."""
        return next((one for one in self.findings if kin(one) == kin(wanted)), None)


class Guest:
    """One restored guest, and a player on it."""

    def __init__(self, ready: Ready, name: str, seed: int, allow: tuple[Allowed, ...], optional: Optional) -> None:
        self.bench = Bench(name, ready, seed)
        self.bench.allow = allow
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
        for attempt in range(RETRY_LOST_MACHINE + 1):
            try:
                self.bench.guest.__enter__()
                return self
            except (MachineEnded, MachineLost):
                self.bench.guest.__exit__(None, None, None)
                if attempt == RETRY_LOST_MACHINE:
                    raise
                self.bench.guest = self.bench.ready.restore()
        raise AssertionError("not reached")

    def __exit__(self, *exception: object) -> None:
        self.bench.guest.__exit__(None, None, None)

    def play(self, moves: Moves) -> bool:
        """Plays a sequence; whether nothing speaks against the kernel by then. Else the guest is worth no more."""
        # What the last sequence provoked may be printed late.
        bench = self.bench
        bench.expected, self._before = list(self._before), []
        first = len(bench.expected)
        try:
            if self._player is None:
                self._player = Player(bench, self._optional)
                self._read = len(bench.guest.agent.kmsg)
            self._player.play(moves)
            reports = self._reports()
        except Exception as error:
            self._error = error
            return False
        self._before = bench.expected[first:]
        self._every += self._before
        return not any(one.counts for one in reports)

    def _reports(self) -> list[Finding]:
        """What the kernel log holds since the last call."""
        bench = self.bench
        bench.guest.log()
        fresh, self._read = bench.guest.agent.kmsg[self._read :], len(bench.guest.agent.kmsg)
        return bench.reports([record for text in fresh for record in parse_kmsg(text)])

    def finish(self) -> Shown:
        """Asks every oracle, also of a guest in which something disagreed; the guest is worth no more afterwards."""
        self.bench.expected = [*self._every, *self.bench.expected]
        result = self.bench.conclude(self._error)
        counting = tuple(one for one in result.findings if one.counts)
        why = result.why if result.outcome is Outcome.INCONCLUSIVE else ""
        return Shown(counting, tuple(self.lines), why)

    def raised(self) -> Shown:
        """What ended the last sequence, and nothing else: no oracle is asked."""
        if self._error is None:
            return Shown(lines=tuple(self.lines))
        self._error, ending = self.bench.ending(self._error)
        return Shown(tuple(one for one in ending.findings if one.counts), tuple(self.lines))
