# SPDX-License-Identifier: GPL-2.0-only
"""Whether an event log is whole as a file: it begins, it ends, no event is missing or out of place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from harness.core.records import Event, EventKind

SHOWN = 5
"""Breaks of the numbering that are listed."""


class Order:
    """The order of a log's events. `first` is when the run began, in seconds since the epoch, `seconds` how long it
    took."""

    def __init__(self) -> None:
        self.first = 0.0
        self.seconds = 0.0
        self.ends: list[Event] = []
        self._before_end = 0
        self._count = 0
        self._last: EventKind | None = None
        self._starts: list[int] = []
        self._runs: dict[str, None] = {}
        self._numbers: dict[str, int] = {}
        self._unnumbered = 0
        self._broken: list[str] = []

    def take(self, event: Event) -> None:
        """Add the next event."""
        if event.kind is EventKind.RUN_END:
            self.ends.append(event)
            self._before_end = self._count
        elif event.kind is EventKind.RUN_START:
            self._starts.append(self._count)
        self.first = self.first or event.time
        self.seconds = round(max(0.0, event.time - self.first), 3)
        self._count += 1
        self._last = event.kind
        self._runs[event.run] = None
        self._number(event)

    def _number(self, event: Event) -> None:
        if not event.number:
            self._unnumbered += 1
            return
        due = self._numbers.get(event.writer, 0) + 1
        if event.number != due:
            self._broken.append(f"event {event.number} of {event.writer} stands where its event {due} should")
        self._numbers[event.writer] = event.number

    @property
    def cut_short(self) -> str:
        """What cut the run short, from run-end; empty for a complete run."""
        return next((str(end.data["why"]) for end in self.ends if end.data.get("why")), "")

    def gaps(self, *, goes_on: bool) -> Iterator[str]:
        """The gaps of the log as a file. One that `goes_on` has no end yet."""
        if not self._starts:
            yield "the event log has no beginning: how the run was started is not known"
        elif self._starts != [0]:
            yield "the event log does not begin where its run does, or holds several runs"
        if len(self._runs) > 1:
            yield f"the event log holds events of several runs: {', '.join(self._runs)}"
        if not goes_on:
            yield from self._end_gaps()
        yield from islice(self._broken, SHOWN)
        if len(self._broken) > SHOWN:
            yield f"{len(self._broken) - SHOWN} more events of the log are not where they should be"
        if self._numbers and self._unnumbered:
            yield f"the event log holds events ({self._unnumbered}) that no writer of the run numbered"

    def _end_gaps(self) -> Iterator[str]:
        if not self.ends:
            yield "the event log has no end: the run was cut short"
            return
        end = self.ends[-1]
        if why := self.cut_short:
            yield f"the run ended early: {why}"
        elif len(self.ends) > 1:
            yield f"the event log has {len(self.ends)} ends"
        elif self._last is not EventKind.RUN_END:
            yield "the event log goes on after its end"
        if not self.cut_short and end.data.get("events", self._before_end) != self._before_end:
            yield f"the event log lost lines: {end.data['events']} were written, {self._before_end} are left"
