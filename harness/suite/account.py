# SPDX-License-Identifier: GPL-2.0-only
"""Owns the account of a sweep: what the agent counted becomes fault sites and findings of the test."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import GuestError
from harness.faults import plans
from harness.faults.cause import TYPES, Cause, Window, plan_of
from harness.faults.endings import Allowed, Ending, outcome, problem, words
from harness.faults.gfp import names
from harness.faults.sites import Ended, RawSite, normalise, summarise
from harness.guest.guest import Answer, BpfObject
from harness.oracles import ledger
from harness.oracles.blame import is_allocator
from harness.oracles.frames import chain, culprit, signature
from harness.plan import FaultPlan
from harness.records import Fault, FaultSite, FaultSummary, Finding, Frame
from harness.suite.bench import Bench
from harness.words import plural

ORACLE = "faults"

MAX_LOUD = 512
"""As in vm/agent/nth.c: so many runs of a sweep are told that the kernel's log grew in."""


@dataclass(frozen=True)
class Swept:
    """What was swept: the operation's name, whose allocations (empty: the task's that asks), which answers are allowed,
    which functions are under test."""

    operation: str
    thread: str
    allowed: Allowed
    under: tuple[str, ...]
    every: bool = False
    """Each page allocation failed, not the nth of all."""

    def plan(self, nth: int) -> str:
        """The plan of one line that makes this allocation fail again."""
        if self.every:
            fault = Fault(what="page", task=self.thread or "self", probability=100)
            return plans.line(FaultPlan(self.operation, fault))
        return plan_of(self.operation, self.thread, nth)


class Account:
    """One sweep's account, from the agent's answer and what the observer saw."""

    def __init__(
        self, bench: Bench, observer: BpfObject, swept: Swept, optional: Callable[[FaultSite], str] = lambda site: ""
    ) -> None:
        self._bench = bench
        self._swept = swept
        self._optional = optional
        self._stacks: set[int] = set()
        seen = observer.dump("sites")
        bench.ready.symbols.chain([0, *(address for entry in seen for address in _stack(entry))])  # all at once
        self._raw = dict(map(self._row, seen))

    def close(self, got: Answer, left: Answer) -> FaultSummary:
        """Books everything on the test: sites, findings, and which part of the log came under which fault.

        `got` is the agent's answer to the sweep, `left` what the ledger still holds. Raises GuestError where the
        guest's own books do not agree.
        """
        self._loud(got["loud"])
        if got["disputed"] or got["lost"]:
            on = plural(got["disputed"], "fault")
            raise GuestError(f"fail-nth and the tracer disagree on {on} ({got['lost']} lost)")
        endings = [Ending(*row) for row in got["outcomes"]]
        self._bench.findings += self._problems(endings)
        leaks = self._leaks(left)
        self._bench.findings += leaks
        leaked = {leak.site for leak in leaks}
        summary = self._summary(endings, leaked)
        self._bench.count_faults(summary)
        self._bench.count_model(got["runs"], got["runs"])
        return summary

    def _loud(self, runs: Sequence[Sequence[int]]) -> None:
        """Which part of the log is whose run. A run in which nothing fired provokes nothing."""
        for site, nth, first, last in runs:
            self._bench.windows.append(Window(first, last, self.cause(site, nth)))
            if site:
                self._bench.armed.append((first, last))
        if len(runs) >= MAX_LOUD:  # those after it are not told
            self._bench.armed.append((runs[-1][2], self._bench.next_record() - 1))

    def addresses(self) -> dict[int, set[str]]:
        """Every return address of the stacks that were seen, with the functions of the source that it lies in."""
        chains = {address: self._frames([address]) for address in self._stacks}
        return {address: {frame.function for frame in frames} for address, frames in chains.items()}

    def observed(self, results: Mapping[int, Sequence[Ended]]) -> FaultSummary:
        """The sites that were seen, without a sweep: `results` are the endings of those that were made to fail."""
        rows = [replace(raw, endings=tuple(results.get(site, ()))) for site, raw in self._raw.items()]
        return summarise(self._swept.operation, rows, self._swept.under, self._optional)

    def cause(self, site: int, nth: int) -> Cause:
        """The fault of one run."""
        raw = self._raw.get(site)
        if raw is None:
            return Cause(self._swept.operation)
        return Cause(self._swept.operation, raw.type, normalise(raw.stack), self._swept.plan(nth))

    def _summary(self, endings: Sequence[Ending], leaked: set[str | None]) -> FaultSummary:
        ended: dict[int, list[Ended]] = defaultdict(list)
        for ending in endings:
            if not ending.site:
                continue
            how = outcome(ending, self._swept.allowed)
            if how in ("handled", "absorbed") and self.cause(ending.site, ending.nth).site in leaked:
                how = "leaked"
            ended[ending.site].append(Ended(how, words(ending.answer), ending.times))
        return self.observed(ended)

    def _problems(self, endings: Sequence[Ending]) -> list[Finding]:
        found: list[Finding] = []
        for ending in endings:
            raw = self._raw.get(ending.site)
            cause = self.cause(ending.site, ending.nth)
            found += disputed(ending, self._swept.allowed, cause, raw.frames if raw else ())
        return found

    def _leaks(self, left: Answer) -> list[Finding]:
        objects = []
        for site, nth, _, kind, size, stack in left["left"]:
            cause = self.cause(site, nth)
            frames = ledger.untraced(self._frames(stack))
            objects.append(ledger.Left(ledger.KINDS[kind], size, frames, cause.operation, cause.site, cause.fault))
        return ledger.findings(objects)

    def _frames(self, stack: Sequence[int]) -> tuple[Frame, ...]:
        """A stack of the tracers': every entry is a return address, the first too."""
        return self._bench.ready.symbols.chain([0, *stack])[1:]

    def _row(self, entry: tuple[bytes, bytes]) -> tuple[int, RawSite]:
        """One entry of the observer's map (struct site of bpf_progs/fault_sites.bpf.c)."""
        (site,) = struct.unpack("<Q", entry[0])
        reached, injected, kind, size, gfp = struct.unpack_from("<QQIII", entry[1])
        stack = _stack(entry)
        ready = self._bench.ready
        self._stacks.update(stack)
        frames, flags = ready.symbols.chain(stack), names(gfp, ready.gfp_bits)
        return site, RawSite(TYPES[kind], frames, size, gfp, reached, injected, flags=flags)


def _stack(entry: tuple[bytes, bytes]) -> tuple[int, ...]:
    (depth,) = struct.unpack_from("<I", entry[1], 28)
    return struct.unpack_from(f"<{depth}Q", entry[1], 32)


def disputed(ending: Ending, allowed: Allowed, cause: Cause, frames: Sequence[Frame]) -> list[Finding]:
    """The finding that an ending is which may not be; none if it may. `frames` are those of the fault's site."""
    title = problem(cause.operation, ending, allowed)
    if not title:
        return []
    kind = outcome(ending, allowed)
    kind = kind if kind == "hang" else "wrong errno"
    guilty = culprit(frames, is_allocator)
    outwards = chain(guilty.function if guilty else None, frames, is_allocator)
    finding = Finding(
        ORACLE, kind, title, signature(ORACLE, kind, outwards, title), guilty.function if guilty else None,
        guilty.file if guilty else None, guilty.line if guilty else None, tuple(frames), count=ending.times,
    )  # fmt: skip
    return [cause.of(finding)]
