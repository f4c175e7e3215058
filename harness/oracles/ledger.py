# SPDX-License-Identifier: GPL-2.0-only
"""The ledger oracle: objects that a run under a fault left behind become findings, with the fault that did it.

bpf_progs/observers/ledger.bpf.c records each object, where it was allocated and in which run: exact, with no scan
and no age to wait for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.records import Finding, Frame
from harness.oracles.splat import bounds
from harness.oracles.splat.blame import base_name, is_allocator
from harness.oracles.splat.frames import chain, guilt, signature

ORACLE = "ledger"
KINDS = {1: "percpu leak", 2: "slab leak"}
"""As in bpf_progs/observers/ledger.bpf.c."""

POOLS = frozenset({"mm/kmemleak.c", "mm/vmalloc.c", "lib/radix-tree.c"})
"""Functions that keep allocations in pools (preloaded nodes, areas purged later); kmemleak reports their leaks."""

KEPT_BY = frozenset({"kvfree_call_rcu", "alloc_empty_sheaf"})
"""Functions whose allocations belong to SLUB: sheaves (mm/slub.c)."""


@dataclass(frozen=True)
class Left:
    """One object that is still there: its kind, bytes (of one CPU), where it was allocated, innermost first.

    `operation`, `site` and `fault` as in records.Finding.
    """

    kind: str
    size: int
    frames: tuple[Frame, ...]
    operation: str
    site: str = ""
    fault: str = ""


# From the tracepoint inwards: the observer is no part of the allocation (kernel/trace/bpf_trace.c).
_TRACING = re.compile(r"_*(?:do_)?trace_(?:kmalloc|kmem_cache_alloc|percpu_alloc_percpu)|_*bpf_trace_run\d*")


def untraced(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """A stack taken by a tracing program, from the function with the tracepoint outwards."""
    traced = [number for number, frame in enumerate(frames) if _TRACING.fullmatch(base_name(frame.function))]
    return tuple(frames[traced[-1] + 1 :] if traced else frames)


def findings(left: Iterable[Left]) -> list[Finding]:
    """One finding for each place of allocation and fault site, with how many objects."""
    found: dict[tuple[str, str], Finding] = {}
    for item in left:
        if any(frame.file in POOLS or frame.function in KEPT_BY for frame in item.frames):
            continue
        finding = _finding(item)
        known = found.get((finding.signature, item.site))
        found[finding.signature, item.site] = replace(known, count=known.count + 1) if known else finding
    return bounds.few(found.values())


def _finding(item: Left) -> Finding:
    guilty = guilt(item.frames, is_allocator)
    names: Sequence[str] = chain(guilty.function, item.frames, is_allocator)
    under = f"after {item.operation} under a fault" if item.site else f"after {item.operation}"
    return Finding(
        oracle=ORACLE,
        kind=item.kind,
        title=f"{item.kind} of {item.size} bytes allocated in {guilty.function}{guilty.where} {under}",
        signature=signature(ORACLE, item.kind, names, item.operation),
        function=guilty.function,
        file=guilty.file,
        line=guilty.line,
        frames=item.frames,
        operation=item.operation,
        site=item.site or None,
        fault=item.fault or None,
    )
