# SPDX-License-Identifier: GPL-2.0-only
"""Owns saying that a CPU's local DSQ counts other tasks than lie on it (harness.machine.local_dsqs looked).

Local DSQs are the runqueues' own and outlive every scheduler. A count that is too high keeps its CPU from asking for
tasks: balance_one() (kernel/sched/ext/ext.c) spares itself ops.dispatch where it takes some to be there.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.machine.local_dsqs import LocalDsq
from harness.oracles.frames import signature
from harness.records import Evidence, Finding
from harness.words import plural

ORACLE = "local dsq"
KIND = "wrong count"

FUNCTIONS = ("task_unlink_from_dsq", "dispatch_enqueue")
"""Which keep the count: the last of them that is to blame cannot be told by what is left."""


def wrong(first: Sequence[LocalDsq], later: Sequence[LocalDsq]) -> list[LocalDsq]:
    """Those that were wrong twice, and for certain: in the same way, or by more than one task.

    A CPU may have been stopped between list and count, which makes a difference of one; where others still run a wrong
    count goes on growing.
    """
    both = {one.cpu: one for one in first if one.wrong}
    return [one for one in later if one.cpu in both and _certain(both[one.cpu], one)]


def _certain(first: LocalDsq, later: LocalDsq) -> bool:
    if first.lying is None or later.lying is None:
        return first.lying is later.lying
    return later.wrong and (first == later or abs(later.counted - later.lying) > 1)


def words(found: Sequence[LocalDsq]) -> str:
    """What is wrong, of the first CPU, and who keeps the count."""
    one = found[0]
    lying = "has a list without an end" if one.lying is None else f"holds {one.lying or 'none'}"
    return f"the local DSQ of CPU {one.cpu} counts {plural(one.counted, 'task')} and {lying} ({', '.join(FUNCTIONS)})"


def findings(first: Sequence[LocalDsq], later: Sequence[LocalDsq]) -> list[Finding]:
    """One, of all CPUs."""
    found = wrong(first, later)
    if not found:
        return []
    return [
        Finding(
            ORACLE, KIND, words(found), signature(ORACLE, KIND, FUNCTIONS[:1]), function=FUNCTIONS[0], count=len(found),
            log=tuple(words([one]) for one in found),
        )
    ]  # fmt: skip


def watched(seen: Sequence[LocalDsq], cpus: int) -> Evidence:
    """Whether all could be looked at."""
    if len(seen) < cpus:
        return Evidence(ORACLE, watched=False, why=f"{cpus - len(seen)} of {cpus} runqueues could not be read")
    return Evidence(ORACLE, payload=len(seen))
