# SPDX-License-Identifier: GPL-2.0-only
"""The search as a test: its budget, its replay, and the sample of it that goes into the leak batch."""

from __future__ import annotations

from dataclasses import replace

from harness.core.records import EventKind, SearchSummary, encode
from harness.session.context import TestContext
from harness.session.fixtures import Optional
from harness.session.session import TestSession
from sched_ext.search.drive import Found, Search
from sched_ext.search.player import Player

SEARCHED = "found by a search:"
"""The first line of the log of what was found; harness/report/text.py looks for it."""

EXAMPLES = "examples"
"""The folder of the cache that keeps what failed once."""


class Searching:
    """What the test of a search does, with the guest of its own for what a replay or the leak batch is to see."""

    def __init__(self, context: TestContext, test_session: TestSession, optional: Optional) -> None:
        self._context = context
        self._session = test_session
        self._optional = optional

    def run(self) -> None:
        """Play the sequence of a replay; else search, and without a finding play a sample of the drawn sequences."""
        session = self._session.session
        if session.sequence:
            self._context.sequence = session.sequence
            Player(self._context, self._optional).play(session.sequence)
            return
        examples = self._session.cache.folder(EXAMPLES)
        search = Search(self._context, examples, self._optional, self._progress)
        try:
            found = search.run(session.search)
        finally:
            self._context.search = search.summary()
        if found:
            self._book(found)
            return
        player = Player(self._context, self._optional)
        for moves in search.sample:
            player.play(moves)

    def _book(self, found: Found) -> None:
        """Make the result the test's own finding, with its moves for a replay."""
        how, *moves = found.lines
        log = (SEARCHED, how, *(f"  {line}" for line in moves), *found.finding.log)
        self._context.findings.append(replace(found.finding, log=log))
        self._context.sequence = found.moves

    def _progress(self, done: SearchSummary, seconds: float) -> None:
        context = self._context
        data = {"seconds": seconds, "done": encode(done)}
        self._session.event_log.emit(EventKind.SEARCH, data, kernel=context.target.kernel.id, test=context.test_id)
