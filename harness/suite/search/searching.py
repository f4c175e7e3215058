# SPDX-License-Identifier: GPL-2.0-only
"""Owns the search as a test: its budget, its replay, and the sample of it that goes into the leak batch."""

from __future__ import annotations

from dataclasses import replace

from harness.records import EventKind, SearchSummary, encode
from harness.suite.bench import Bench
from harness.suite.search.drive import Found, Search
from harness.suite.search.guest import Optional
from harness.suite.search.player import Player
from harness.suite.session import Workshop

SEARCHED = "found by a search:"
"""The first line of the log of what was found; harness/report/text.py looks for it."""

EXAMPLES = "examples"
"""The folder of the cache that keeps what failed once."""


class Searching:
    """What the test of a search does, with the guest of its own for what a replay or the leak batch is to see."""

    def __init__(self, bench: Bench, workshop: Workshop, optional: Optional) -> None:
        self._bench = bench
        self._workshop = workshop
        self._optional = optional

    def run(self) -> None:
        """Plays the sequence of a replay; else searches, and if nothing is found plays a sample of what was drawn."""
        session = self._workshop.session
        if session.sequence:
            self._bench.sequence = session.sequence
            Player(self._bench, self._optional).play(session.sequence)
            return
        examples = self._workshop.cache.folder(EXAMPLES)
        search = Search(self._bench, examples, self._optional, self._tell)
        try:
            found = search.run(session.search)
        finally:
            self._bench.search = search.summary()
        if found:
            self._book(found)
            return
        player = Player(self._bench, self._optional)
        for moves in search.sample:
            player.play(moves)

    def _book(self, found: Found) -> None:
        """Makes what was found the test's own finding, and its moves what a replay does."""
        how, *moves = found.lines
        log = (SEARCHED, how, *(f"  {line}" for line in moves), *found.finding.log)
        self._bench.findings.append(replace(found.finding, log=log))
        self._bench.sequence = found.moves

    def _tell(self, done: SearchSummary, seconds: float) -> None:
        bench = self._bench
        data = {"seconds": seconds, "done": encode(done)}
        self._workshop.journal.emit(EventKind.SEARCH, data, kernel=bench.ready.kernel.id, test=bench.test_id)
