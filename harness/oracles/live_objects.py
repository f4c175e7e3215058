# SPDX-License-Identifier: GPL-2.0-only
"""What the ledger says about a quiescent guest: which objects live that were allocated since it was saved.

bpf_progs/observers/alive.bpf.c pairs each allocation with its free by the address in the allocators' tracepoints.
Exact: what it holds of percpu memory must be what mm/percpu-stats.c counts, or the ledger has not seen everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import GuestError
from harness.core.records import Evidence, Finding, Frame
from harness.oracles.ledger import KINDS, ORACLE
from harness.oracles.percpu import Totals
from harness.oracles.splat import bounds
from harness.oracles.splat.blame import base_name, is_allocator
from harness.oracles.splat.frames import Guilt, chain, guilt, signature

TWICE = "_again"
"""Suffix of the second of a slab tracepoint's two programs: what one of them misses the other has."""


@dataclass(frozen=True)
class Place:
    """Live objects of one call of an allocator: their kind (a value of ledger.KINDS), the return address of the call,
    bytes of each (of one CPU), how many. `frames` are the functions at the call, innermost first. `replaced` of them
    replaced older ones of the same call. `caller` is the return address of the function that contains the call, 0 where
    that is not known: a wrapper of kmalloc() may not have been inlined."""

    kind: str
    call_site: int
    size: int
    count: int
    frames: tuple[Frame, ...] = ()
    replaced: int = 0
    caller: int = 0


@dataclass(frozen=True)
class Books:
    """The ledger at one moment. `allocated`, `freed` and `older` (freed, and allocated before the guest was saved)
    count percpu objects since then, `slab` allocations of the code under test; `lost` events of any kind; `attached`
    of `programs` are attached."""

    allocated: int
    freed: int
    older: int
    slab: int
    lost: int
    programs: int
    attached: int
    places: tuple[Place, ...]

    @property
    def more(self) -> int:
        """How many percpu objects there must be more than when the guest was saved."""
        return self.allocated - self.freed - self.older

    @property
    def percpu(self) -> int:
        """How many percpu objects it has."""
        return sum(place.count for place in self.places if place.kind == KINDS[1])


def parse(answer: Mapping[str, Any], missed: Mapping[str, int]) -> Books:
    """Parse the agent's answer (do_alive() in vm/agent/alive.c). `missed` is its value when the guest was saved.

    A program with a twin loses nothing alone; to miss an event both need three levels of interrupts, which is not
    counted.
    """
    if strange := {kind for kind, *_ in answer["places"]} - KINDS.keys():
        raise GuestError(f"the ledger holds objects of unknown kinds: {sorted(strange)[:3]}")
    now = answer["missed"]
    alone = [name for name in now if not name.endswith(TWICE) and name + TWICE not in now]
    replaced = {(KINDS[1], site): times for site, times in answer["replaced"]}
    places = [
        Place(KINDS[kind], site, size, count, caller=caller) for kind, site, size, count, caller in answer["places"]
    ]
    return Books(
        allocated=int(answer["percpu_allocated"]),
        freed=int(answer["percpu_freed"]),
        older=int(answer["percpu_older"]),
        slab=int(answer["slab_allocated"]),
        lost=int(answer["lost"]) + sum(int(now[name]) - missed.get(name, 0) for name in alone),
        programs=int(answer["programs"]),
        attached=int(answer["attached"]),
        places=tuple(replace(place, replaced=replaced.get((place.kind, place.call_site), 0)) for place in places),
    )


def watched(books: Books, before: Totals, after: Totals) -> Evidence:
    """Whether the ledger has seen everything; `before` is percpu_stats when the guest was saved, `after` now."""
    counts = {"allocated": books.allocated, "freed": books.freed, "older": books.older, "slab": books.slab}
    evidence = Evidence(ORACLE, payload=counts, lost=books.lost)
    counted = after.nr_cur_alloc - before.nr_cur_alloc
    if books.attached < books.programs:
        why = f"{books.programs - books.attached} of its {books.programs} programs are no longer attached"
    elif books.lost:
        why = f"{books.lost} allocations or frees were lost"
    elif books.more != counted:
        why = f"it has {books.more} percpu objects more than before, percpu_stats has {counted}"
    elif books.percpu != books.allocated - books.freed:
        why = f"it holds {books.percpu} percpu objects, and counted {books.allocated - books.freed}"
    else:
        return evidence
    return replace(evidence, watched=False, why=why)


def findings(places: Iterable[Place], once: Mapping[str, str] | None = None) -> list[Finding]:
    """The leaks: one finding for each kind and function, with how many objects.

    `once` are functions that allocate once and keep it, with the reason: one object of each call is no finding.
    """
    found: dict[str, Finding] = {}
    sizes: dict[str, list[int]] = {}
    for place in places:
        kept = any(base_name(frame.function) in (once or {}) for frame in place.frames)
        count = place.count - place.replaced - kept
        if count <= 0:
            continue
        finding = _finding(place, count)
        known = found.get(finding.signature)
        found[finding.signature] = replace(known, count=known.count + count) if known else finding
        sizes.setdefault(finding.signature, []).append(place.size)
    return bounds.few(replace(one, title=_title(one, sizes[key])) for key, one in found.items())


def _finding(place: Place, count: int) -> Finding:
    guilty = guilt(place.frames, is_allocator)
    names: Sequence[str] = chain(guilty.function, place.frames, is_allocator)
    return Finding(
        oracle=ORACLE,
        kind=place.kind,
        title="",
        signature=signature(ORACLE, place.kind, names, "" if names else f"size {place.size}"),
        function=guilty.function,
        file=guilty.file,
        line=guilty.line,
        frames=place.frames,
        count=count,
    )


def _title(finding: Finding, sizes: Sequence[int]) -> str:
    each = bounds.title(" and ".join(str(size) for size in sorted(set(sizes))))
    where = Guilt(finding.function, finding.file, finding.line).where
    number = "an object" if finding.count == 1 else f"{finding.count} objects"
    by = f"allocated in {finding.function}{where}" if finding.function else "allocated at an unknown place"
    return f"{finding.kind}: {number} of {each} bytes {by}, alive at the end"


def supported(findings: Iterable[Finding], leaks: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The ledger's findings with kmemleak's data on the same leaks: the allocation's whole stack and time.

    Also returns kmemleak's findings that the ledger does not have.
    """
    out: list[Finding] = []
    used: set[int] = set()
    for finding in findings:
        same = [
            number
            for number, leak in enumerate(leaks)
            if (finding.oracle, leak.kind, leak.function) == (ORACLE, finding.kind, finding.function)
        ]
        used.update(same)
        if same:
            count = sum(leaks[number].count for number in same)
            log = [line for number in same for line in leaks[number].log]
            frames = leaks[same[0]].frames or finding.frames
            finding = replace(finding, frames=frames, log=(*finding.log, f"kmemleak reports {count} of them:", *log))
        out.append(finding)
    return out, [leak for number, leak in enumerate(leaks) if number not in used]
