# SPDX-License-Identifier: GPL-2.0-only
"""The oracle of local DSQs: a CPU's local DSQ whose count differs from its list (sched_ext.rq_memory reads it).

Local DSQs are the runqueues' own and outlive every scheduler. A count that is too high keeps its CPU from asking for
tasks: balance_one() (kernel/sched/ext/ext.c) spares itself ops.dispatch where it takes some to be there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from harness.core import definition
from harness.core.errors import HarnessError
from harness.core.records import Evidence, Finding
from harness.core.words import plural
from harness.guest.guest import Guest
from harness.machine.deadline import Deadline
from harness.machine.memory import peeking
from harness.machine.vm import Vm
from harness.oracles.registry import CANARY, Defect, Oracle, TestEnd
from harness.oracles.splat.frames import signature
from harness.session.session import Target
from sched_ext import rq_memory
from sched_ext.rq_memory import Layout, LocalDsq

ORACLE = "local dsq"
KIND = "wrong count"

FUNCTIONS = ("task_unlink_from_dsq", "dispatch_enqueue")
"""Functions that keep the count: which of them is to blame cannot be seen from the result."""


def wrong(first: Sequence[LocalDsq], later: Sequence[LocalDsq]) -> list[LocalDsq]:
    """The local DSQs that were wrong in both readings, and for certain: in the same way, or by more than one task.

    A CPU may have been stopped between list and count, which makes a difference of one; on a running kernel a wrong
    count grows.
    """
    both = {one.cpu: one for one in first if one.wrong}
    return [one for one in later if one.cpu in both and _certain(both[one.cpu], one)]


def _certain(first: LocalDsq, later: LocalDsq) -> bool:
    if first.lying is None or later.lying is None:
        return first.lying is later.lying
    return later.wrong and (first == later or abs(later.counted - later.lying) > 1)


def words(found: Sequence[LocalDsq]) -> str:
    """What is wrong on the first CPU, and the functions that keep the count."""
    one = found[0]
    lying = "has a list without an end" if one.lying is None else f"holds {one.lying or 'none'}"
    return f"the local DSQ of CPU {one.cpu} counts {plural(one.counted, 'task')} and {lying} ({', '.join(FUNCTIONS)})"


def findings(first: Sequence[LocalDsq], later: Sequence[LocalDsq]) -> list[Finding]:
    """One finding for all CPUs."""
    found = wrong(first, later)
    if not found:
        return []
    return [
        Finding(
            ORACLE,
            KIND,
            words(found),
            signature(ORACLE, KIND, FUNCTIONS[:1]),
            function=FUNCTIONS[0],
            count=len(found),
            log=tuple(words([one]) for one in found),
        )
    ]


def watched(seen: Sequence[LocalDsq], cpus: int) -> Evidence:
    """Whether all local DSQs could be read."""
    if len(seen) < cpus:
        return Evidence(ORACLE, watched=False, why=f"{cpus - len(seen)} of {cpus} runqueues could not be read")
    return Evidence(ORACLE, payload=len(seen))


@functools.cache
def layout_of(target: Target) -> Layout | None:
    """The layout of the local DSQs in a target's guests; None for a kernel without sched_ext."""
    tasks, nr = (target.btf.offset("rq", "scx", "local_dsq", name) for name in ("list", "nr"))
    found = [target.symbols.variables(name) for name in ("__per_cpu_offset", "runqueues")]
    if tasks is None or nr is None or any(len(one) != 1 for one in found):
        return None
    offsets, runqueues = (one.pop() for one in found)
    return Layout(
        offsets, runqueues, tasks, nr, target.machine.spec.possible_cpus, definition.load(target.kernel.arch).byte_order
    )


def _layout(target: Target) -> Layout:
    """As :func:`layout_of`, where the oracle applies."""
    layout = layout_of(target)
    if layout is None:
        raise HarnessError(f"{target.name} has no local DSQs", step="ask applies() first")
    return layout


class LocalDsqs:
    """Reads them in a guest that hangs (harness.machine.examine.Reader)."""

    what = "local DSQs"
    culprit = FUNCTIONS[0]

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def look(self, vm: Vm, deadline: Deadline | None = None) -> Sequence[LocalDsq]:
        return rq_memory.look(vm, self._layout, deadline)

    def unseen(self, seen: Sequence[LocalDsq]) -> str:
        missed = self._layout.cpus - len(seen)
        return f"{missed} of {self._layout.cpus} local DSQs" if missed else ""

    def wrong(self, first: Sequence[LocalDsq], later: Sequence[LocalDsq]) -> list[str]:
        return [words([one]) for one in wrong(first, later)]


def reader(target: Target) -> LocalDsqs | None:
    """The reader of a target; None for a kernel without sched_ext."""
    layout = layout_of(target)
    return LocalDsqs(layout) if layout else None


def judge(test: TestEnd) -> None:
    """Judge whether each CPU's local DSQ has the right count; read again only where it has not."""
    target: Target = test.target
    layout = _layout(target)
    seen = rq_memory.look(test.guest.vm, layout)
    if any(one.wrong for one in seen):
        test.guest.visit(target.machine.spec.online_cpus)
        test.findings += findings(seen, rq_memory.look(test.guest.vm, layout))
    test.evidence.append(watched(seen, layout.cpus))


def plant(guest: Guest, target: Target) -> dict[str, bool]:
    """Let the local DSQ of a CPU, which is empty, count one task."""
    layout = _layout(target)
    at = rq_memory.address(layout, 0, peeking(guest.vm))
    if at is not None:
        guest.write(CANARY, f"count-one-more {at + layout.nr:#x}")
    first, later = (rq_memory.look(guest.vm, layout) for _ in range(2))
    return {ORACLE: [one.count for one in findings(first, later)] == [1]}


def applies(target: Target) -> bool:
    """Whether a kernel has local DSQs."""
    return layout_of(target) is not None


MISCOUNTED = Defect("local", (ORACLE,), plant, cheap=True, applies=applies)
LOCAL_DSQS = Oracle(ORACLE, judge, applies, defects=(MISCOUNTED,))
