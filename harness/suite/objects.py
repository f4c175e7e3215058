# SPDX-License-Identifier: GPL-2.0-only
"""Owns what a test's guest holds at a quiescent point: the resident ledger read, its places decoded, its loss told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from harness.guest import resident
from harness.guest.agent import Agent
from harness.oracles import alive, ledger, percpu
from harness.oracles.alive import Place
from harness.oracles.blame import base_name, is_allocator
from harness.plan import PROFILE
from harness.records import Evidence, Finding, Frame
from harness.suite.session import Ready

ONCE = {
    "scx_cid_arrays_alloc": "the first scheduler's tables of CPU ids are kept for all (kernel/sched/ext/cid.c, 7.2)",
    "cpudl_init": "a CPU that comes back has its root domain made anew; the old one is older than the guest "
    "(kernel/sched/topology.c)",
    "smpcfd_prepare_cpu": "a CPU that comes up for the first time has data for the calls of its functions, which stay "
    "when it goes (kernel/smp.c, 7.3)",
}
"""Functions that allocate once and keep it, in the text of the code under test."""


@dataclass(frozen=True)
class Living:
    """What lives at a quiescent point and was allocated since the guest was saved, and whether that is all."""

    places: tuple[Place, ...]
    evidence: Evidence

    @property
    def exact(self) -> bool:
        """Whether nothing was lost."""
        return self.evidence.watched and not self.evidence.lost

    def findings(self) -> list[Finding]:
        """Each place that has what nothing explains."""
        return alive.findings(self.places, ONCE)

    def count(self, kind: str, functions: Iterable[str]) -> int:
        """How many objects of this kind (a value of ledger.KINDS) were allocated in these functions, wherever the
        compiler put them."""
        names = set(functions)
        return sum(p.count for p in self.places if p.kind == kind and names & {base_name(f.function) for f in p.frames})


def look(agent: Agent, ready: Ready, after: str) -> Living:
    """Reads the ledger of a guest that is quiescent; `after` is its percpu_stats."""
    if ready.pristine.blind:
        return Living((), Evidence(ledger.ORACLE, watched=False, why=ready.pristine.blind))
    answer = resident.read(agent)
    books = alive.parse(answer, ready.pristine.missed)
    evidence = alive.watched(books, percpu.parse(ready.pristine.percpu), percpu.parse(after))
    if answer["untold"] and not evidence.lost:
        evidence = replace(evidence, lost=int(answer["untold"]), why="objects of too many places: raise MAX_PLACES")
    # A call site is a return address: the call is before it.
    frames = ready.addresses([place.call_site - 1 for place in books.places])
    places = tuple(_decoded(place, at, ready) for place, at in zip(books.places, frames, strict=True))
    known = sum(int(times) for _, times in answer["replaced"])
    return Living(tuple(_replacing(places, books.older - known)), evidence)


def _replacing(places: Iterable[Place], older: int) -> Iterator[Place]:
    """So many objects of boot's were freed, nobody knows of which call: what others than the code under test have
    allocated takes their place. (A CPU that goes and comes back: smpcfd_prepare_cpu().)"""
    for place in places:
        # Nor what our module leaks on purpose: a leak batch knows how much that is.
        own = any(frame.module or base_name(frame.function) in PROFILE.functions for frame in place.frames)
        if place.kind == ledger.KINDS[1] and not own:
            taken = max(0, min(older, place.count - place.replaced))
            older -= taken
            place = replace(place, replaced=place.replaced + taken)
        yield place


def _decoded(place: Place, frames: tuple[Frame, ...], ready: Ready) -> Place:
    """The place with its functions; of a wrapper that was left out of line also those that called it."""
    if place.caller and all(is_allocator(frame.function) for frame in frames):
        frames += ready.addresses([place.caller - 1])[0]
    return replace(place, frames=frames or (Frame(f"{place.call_site:#x}", reliable=False),))
