# SPDX-License-Identifier: GPL-2.0-only
"""The replay of what was seen on one DSQ: the first event that could not be, and the order that must be now.

The events are of one CPU's tasks, in the order in which they happened (bpf_progs/sched_ext/dsq_held.bpf.c): arrivals in
ops.enqueue, moves in ops.dispatch, tasks that run.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from sched_ext.model.ids import U64
from sched_ext.model.queue import Queue

AT_HEAD = 1
"""Of an insertion: at the head of a FIFO (SCX_ENQ_HEAD, SCX_ENQ_PREEMPT of enum scx_enq_flags)."""

REENQUEUED = 2
"""Of an insertion: the kernel took the task off its DSQ and re-enqueues it (SCX_ENQ_REENQ)."""

RESTORED = 4
"""Of an insertion: the task was taken off for a change of its properties, its cgroup among them, and is put back
(ENQUEUE_RESTORE of kernel/sched/sched.h; sched_change_end() of core.c)."""


class Kind(enum.IntEnum):
    """As in bpf_progs/sched_ext/dsq_held.bpf.c."""

    INSERTED = 1
    MOVED = 2
    RAN = 3


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `vtime` and `flags` (AT_HEAD, REENQUEUED, RESTORED) are of an insertion; a move does not name its task."""

    kind: Kind
    pid: int = 0
    vtime: int = 0
    flags: int = 0


@dataclass(slots=True)
class Replay:
    """One DSQ, ordered by virtual time or a FIFO; :meth:`feed` it every event from the first on.

    `moved` are tasks that left the DSQ for the CPU and have not run yet.
    """

    by_vtime: bool
    source: str = "kernel/sched/ext/ext.c"
    queue: Queue = field(default_factory=Queue)
    moved: list[int] = field(default_factory=list)
    arrivals: Counter[int] = field(default_factory=Counter)

    def feed(self, event: Event) -> str | None:
        """What is wrong with the event, in one line; None if it is possible."""
        if event.kind is Kind.INSERTED:
            return self._inserted(event)
        return self._moved() if event.kind is Kind.MOVED else self._ran(event.pid)

    def order(self) -> list[int]:
        """The tasks on the DSQ now, first to leave first."""
        return [task for task, _ in self.queue.tasks]

    def _inserted(self, event: Event) -> str | None:
        queued = self.queue.remove(event.pid)
        if event.pid in self.moved:
            self.moved.remove(event.pid)
        self.arrivals[event.pid] += 1
        vtime = event.vtime & U64 if self.by_vtime else None
        self.queue.insert(event.pid, vtime, head=bool(event.flags & AT_HEAD))
        if queued and not event.flags & (REENQUEUED | RESTORED):
            return f"task {event.pid} is enqueued while it is on the DSQ ({self._cite('enqueue_task_scx')})"
        return None

    def _moved(self) -> str | None:
        if not self.queue.tasks:
            return f"a task was moved off an empty DSQ ({self._cite('consume_dispatch_q')})"
        first = self.order()[0]
        self.queue.remove(first)
        self.moved.append(first)
        return None

    def _ran(self, pid: int) -> str | None:
        """A task that runs was moved; or it ran already, and joined the class then, or was only interrupted."""
        if pid in self.moved:
            self.moved.remove(pid)
            return None
        queued = self.queue.remove(pid)
        if not queued or self.arrivals[pid] == 1:
            return None
        instead = f", though task {self.moved[0]} was first" if self.moved else " without having been moved"
        where = "scx_dsq_priq_less" if self.by_vtime else "dispatch_enqueue"
        return f"task {pid} ran{instead} ({self._cite(where)})"

    def _cite(self, function: str) -> str:
        return f"{self.source}: {function}"
