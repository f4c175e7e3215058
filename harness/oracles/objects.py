# SPDX-License-Identifier: GPL-2.0-only
"""The oracle of live objects: what a quiescent guest has that was allocated since it was saved.

The resident ledger and the exact percpu count cost nothing at a test's end; only where they show something kmemleak is
asked, which has the whole stack of what it sees.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.core.errors import Inconclusive
from harness.core.records import Evidence, Finding, Frame
from harness.guest import kmemleak as protocol
from harness.guest import resident
from harness.guest.agent import Agent
from harness.guest.guest import Guest
from harness.oracles import kmemleak, ledger, live_objects, percpu
from harness.oracles.live_objects import Place
from harness.oracles.registry import Defect, KernelTarget, Oracle, TestEnd, trigger
from harness.oracles.splat.blame import base_name, is_allocator

ONCE = {
    "cpudl_init": "a CPU that comes back has its root domain made again; the old one is older than the guest "
    "(kernel/sched/topology.c)",
    "smpcfd_prepare_cpu": "a CPU that comes up for the first time has data for the calls of its functions, which stay "
    "when it goes (kernel/smp.c, 7.3)",
}
"""Functions that allocate once and keep it, whatever is tested; suites add their own."""


@dataclass(frozen=True)
class LiveObjects:
    """The objects at a quiescent point that were allocated since the guest was saved, and whether that is all."""

    places: tuple[Place, ...]
    evidence: Evidence
    once: Mapping[str, str] = field(default_factory=lambda: ONCE)

    @property
    def exact(self) -> bool:
        """Whether nothing was lost."""
        return self.evidence.watched and not self.evidence.lost

    def findings(self) -> list[Finding]:
        """A finding for each place with unexplained objects."""
        return live_objects.findings(self.places, self.once)

    def count(self, kind: str, functions: Iterable[str]) -> int:
        """How many objects of this kind (a value of ledger.KINDS) were allocated in these functions, inlined or not."""
        names = set(functions)
        return sum(p.count for p in self.places if p.kind == kind and names & {base_name(f.function) for f in p.frames})


def look(agent: Agent, target: KernelTarget, after: str) -> LiveObjects:
    """Read the ledger of a quiescent guest; `after` is its percpu_stats."""
    if target.pristine.blind:
        return LiveObjects((), Evidence(ledger.ORACLE, watched=False, why=target.pristine.blind))
    answer = resident.read(agent)
    books = live_objects.parse(answer, target.pristine.missed)
    evidence = live_objects.watched(books, percpu.parse(target.pristine.percpu), percpu.parse(after))
    if answer["omitted"] and not evidence.lost:
        evidence = replace(evidence, lost=int(answer["omitted"]), why="objects of too many places: raise MAX_PLACES")
    # A call site is a return address: the call is before it.
    frames = target.addresses([place.call_site - 1 for place in books.places])
    places = tuple(_decoded(place, at, target) for place, at in zip(books.places, frames, strict=True))
    known = sum(int(times) for _, times in answer["replaced"])
    return LiveObjects(
        tuple(_replacing(places, books.older - known, target.code.functions)),
        evidence,
        {**ONCE, **target.allocates_once},
    )


def _replacing(places: Iterable[Place], older: int, functions: Collection[str]) -> Iterator[Place]:
    """Count new objects of code that is not under test as replacements of `older` objects of boot, which were freed and
    whose calls are unknown. (A CPU that goes and comes back: smpcfd_prepare_cpu().)"""
    for place in places:
        # Nor objects that our module leaks on purpose: a leak batch knows their number.
        own = any(frame.module or base_name(frame.function) in functions for frame in place.frames)
        if place.kind == ledger.KINDS[1] and not own:
            taken = max(0, min(older, place.count - place.replaced))
            older -= taken
            place = replace(place, replaced=place.replaced + taken)
        yield place


def _decoded(place: Place, frames: tuple[Frame, ...], target: KernelTarget) -> Place:
    """The place with its functions; for a wrapper that was not inlined also those that called it."""
    if place.caller and all(is_allocator(frame.function) for frame in frames):
        frames += target.addresses([place.caller - 1])[0]
    return replace(place, frames=frames or (Frame(f"{place.call_site:#x}", reliable=False),))


# --- the oracle at the end of a test ----------------------------------------------------


def judge(test: TestEnd) -> None:
    """Book the leaks. Ledger and exact count are valid also where kmemleak stopped watching."""
    target: KernelTarget = test.target
    before, after = percpu.parse(target.pristine.percpu), test.after
    live = look(test.guest.agent, target, after)
    counted = percpu.findings(before, percpu.parse(after), test.planted)
    if counted or _left(test, live) or not live.exact:
        leaks: list[Finding] = []
        with contextlib.suppress(Inconclusive):
            leaks = _reported(test)
        # Objects that a chain of deferred frees has freed meanwhile were late, not leaked.
        after = test.guest.settle()
        live = look(test.guest.agent, target, after)
        test.findings, leaks = live_objects.supported([*test.findings, *_left(test, live)], leaks)
        if not test.blame(leaks) and not live.exact:
            test.findings += percpu.findings(before, percpu.parse(after), test.planted)
    test.evidence += [Evidence(percpu.ORACLE, payload=percpu.parse(after).nr_cur_alloc), live.evidence]


def _left(test: TestEnd, live: LiveObjects) -> list[Finding]:
    """The ledger's findings that were neither planted nor booked with the fault that they came under."""
    booked = {(finding.kind, finding.function) for finding in test.findings if finding.oracle == ledger.ORACLE}
    return [
        finding
        for finding in live.findings()
        if (finding.kind, finding.function) not in booked
        and not (finding.function in PLANTED and finding.count <= test.planted)
    ]


def _reported(test: TestEnd) -> list[Finding]:
    """kmemleak's report; if the test has read it before, take back those of its findings that count."""
    known = [finding for finding in test.findings if finding.oracle == kmemleak.ORACLE and finding.counts]
    test.findings = [finding for finding in test.findings if finding not in known]
    return known or test.unreferenced()


# --- its defects ----------------------------------------------------------------------------

LEAKS = 16
"""Leaked objects of a kind: some are always hidden from kmemleak by stale pointers."""

SEEN, SEEN_BESIDE = 8, 2
"""How many of them must be seen in a guest of their own; and in that of a leak batch, where the tests have left stale
pointers (5 to 16 of 16 were seen): there the question is whether kmemleak scans and blames, not how well."""

PLANTED = ("kharness_leak_slab", "kharness_leak_percpu")
"""The functions of our module that leak on purpose."""


def counted(guest: Guest, target: KernelTarget) -> dict[str, bool]:
    """Leaks of both kinds, each counted exactly, by the ledger with the function that leaks."""
    trigger(guest, "slab-leak", LEAKS)
    trigger(guest, "percpu-leak", LEAKS)
    after = guest.settle()
    found = percpu.findings(percpu.parse(target.pristine.percpu), percpu.parse(after))
    live = look(guest.agent, target, after)
    seen = {(f.kind, f.function, f.count) for f in live.findings()} if live.exact else set()
    wanted = {kind: (f"{kind} leak", f"kharness_leak_{kind}", LEAKS) for kind in ("slab", "percpu")}
    return {percpu.ORACLE: any(f.count == LEAKS for f in found)} | {
        f"ledger {kind}": leak in seen for kind, leak in wanted.items()
    }


def blamed(found: Sequence[Finding], least: int) -> dict[str, bool]:
    """Whether kmemleak's findings show at least `least` of the planted leaks."""
    shown: Counter[tuple[str, str | None]] = Counter()
    for finding in found:
        shown[finding.kind, finding.function] += finding.count
    return {f"kmemleak {kind}": shown[f"{kind} leak", f"kharness_leak_{kind}"] >= least for kind in ("slab", "percpu")}


def leaked(guest: Guest, target: KernelTarget) -> dict[str, bool]:
    """As :func:`counted`, and found by kmemleak."""
    exact = counted(guest, target)
    return exact | blamed(kmemleak.findings(protocol.report(guest.agent, target.pristine.age_ms), target.symbols), SEEN)


EXACT = (percpu.ORACLE, "ledger slab", "ledger percpu")
ORACLES = (
    Oracle(
        "objects",
        judge,
        evidence=(percpu.ORACLE, ledger.ORACLE),
        order=20,
        defects=(
            Defect("leaks", ("kmemleak slab", "kmemleak percpu", *EXACT), leaked),
            Defect("counted", EXACT, counted, cheap=True, further=True),
        ),
    ),
)
