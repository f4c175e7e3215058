# SPDX-License-Identifier: GPL-2.0-only
"""The account of a sweep: what the agent counted becomes fault sites and findings of the test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core.errors import GuestError
from harness.core.plan import FaultPlan
from harness.core.records import Fault, FaultSite, FaultSummary, Finding, Frame
from harness.core.wire import ByteOrder
from harness.core.words import plural
from harness.faults import plans
from harness.faults.cause import Cause, Window, plan_of
from harness.faults.context import FaultContext
from harness.faults.endings import Allowed, Ending, outcome, problem, words
from harness.faults.gfp import names
from harness.faults.sites import Ended, RawSite, normalise, summarise
from harness.faults.types import of_site
from harness.guest.guest import Answer, BpfObject
from harness.oracles import ledger
from harness.oracles.splat.blame import is_allocator
from harness.oracles.splat.frames import chain, culprit, signature

ORACLE = "faults"

MAX_LOUD = 512
"""As in vm/agent/nth.c: the agent reports at most so many runs of a sweep in which the kernel's log grew."""


@dataclass(frozen=True)
class Swept:
    """What was swept: the operation's name, the thread whose allocations failed (empty: the agent's), the allowed
    answers, the functions under test."""

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
    """One sweep's account, from the agent's answer and the observer's records."""

    def __init__(
        self,
        context: FaultContext,
        observer: BpfObject,
        swept: Swept,
        optional: Callable[[FaultSite], str] = lambda site: "",
    ) -> None:
        self._context = context
        self._swept = swept
        self._optional = optional
        self._stacks: set[int] = set()
        seen, order = observer.dump("sites"), context.guest.agent.order
        context.target.symbols.chain(
            [0, *(address for entry in seen for address in _stack(entry, order))]
        )  # all at once
        self._raw = dict(map(self._row, seen))

    def close(self, got: Answer, left: Answer) -> FaultSummary:
        """Book everything on the test: sites, findings, and which part of the log came under which fault.

        `got` is the agent's answer to the sweep, `left` the ledger's remaining objects. Raises GuestError where the
        guest's own counts disagree.
        """
        self._loud(got["loud"])
        if got["disputed"] or got["lost"]:
            on = plural(got["disputed"], "fault")
            raise GuestError(f"fail-nth and the tracer disagree on {on} ({got['lost']} lost)")
        endings = [Ending(*row) for row in got["outcomes"]]
        problems, leaks = self._problems(endings), self._leaks(left)
        self._context.findings += [*problems, *leaks]
        summary = _blamed(self._summary(endings, {leak.site for leak in leaks}), [*problems, *leaks])
        self._context.count_faults(summary)
        self._context.count_model(got["runs"], got["runs"])
        return summary

    def _loud(self, runs: Sequence[Sequence[int]]) -> None:
        """Which part of the log came during which run. In a run without a fault no report is expected."""
        for site, nth, first, last in runs:
            self._context.windows.append(Window(first, last, self.cause(site, nth)))
            if site:
                self._context.armed.append((first, last))
        if len(runs) >= MAX_LOUD:  # later ones are not reported
            self._context.armed.append((runs[-1][2], self._context.next_record() - 1))

    def addresses(self) -> dict[int, set[str]]:
        """Every return address of the stacks that were seen, with its functions, inlined ones too."""
        chains = {address: self._frames([address]) for address in self._stacks}
        return {address: {frame.function for frame in frames} for address, frames in chains.items()}

    def observed(self, results: Mapping[int, Sequence[Ended]]) -> FaultSummary:
        """The sites that were seen, without a sweep: `results` are the endings of the failed ones."""
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
        """A stack of the tracers: every entry is a return address, the first too."""
        return self._context.target.symbols.chain([0, *stack])[1:]

    def _row(self, entry: tuple[bytes, bytes]) -> tuple[int, RawSite]:
        """One entry of the observer's map (struct site of bpf_progs/observers/fault_sites.bpf.c)."""
        order = self._context.guest.agent.order
        (site,) = order.unpack("Q", entry[0])
        reached, injected, kind, size, gfp = order.unpack("QQIII", entry[1])
        stack = _stack(entry, order)
        target = self._context.target
        self._stacks.update(stack)
        frames, flags = target.symbols.chain(stack), names(gfp, target.gfp_bits)
        return site, RawSite(of_site(kind), frames, size, gfp, reached, injected, flags=flags)


def _blamed(summary: FaultSummary, findings: Sequence[Finding]) -> FaultSummary:
    """The summary, each site with the findings that came under its faults: a site whose findings are all allowed is
    allowed itself (harness/verdict/sites.py)."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for finding in findings:
        found[finding.site].append(finding.signature)
    sites = (
        replace(site, findings=tuple(dict.fromkeys(found[Cause(site.operation, site.type, site.stack).site])))
        for site in summary.sites
    )
    return replace(summary, sites=tuple(sites))


def _stack(entry: tuple[bytes, bytes], order: ByteOrder) -> tuple[int, ...]:
    (depth,) = order.unpack("I", entry[1], 28)
    return order.unpack(f"{depth}Q", entry[1], 32)


def disputed(ending: Ending, allowed: Allowed, cause: Cause, frames: Sequence[Frame]) -> list[Finding]:
    """The finding for an ending that is not allowed; None if it is. `frames` are those of the fault's site."""
    title = problem(cause.operation, ending, allowed)
    if not title:
        return []
    kind = outcome(ending, allowed)
    kind = kind if kind == "hang" else "wrong errno"
    guilty = culprit(frames, is_allocator)
    outwards = chain(guilty.function if guilty else None, frames, is_allocator)
    finding = Finding(
        ORACLE,
        kind,
        title,
        signature(ORACLE, kind, outwards, title),
        guilty.function if guilty else None,
        guilty.file if guilty else None,
        guilty.line if guilty else None,
        tuple(frames),
        count=ending.times,
    )
    return [cause.of(finding)]
