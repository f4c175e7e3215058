# SPDX-License-Identifier: GPL-2.0-only
"""The order of the tasks on one DSQ: first in first out, or by virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

from sched_ext.model.ids import U64


def vtime_before(a: int, b: int) -> bool:
    """Whether virtual time `a` comes before `b`; both are u64 and may wrap (time_before64, jiffies.h)."""
    return (a - b) & U64 >= 1 << 63


@dataclass(slots=True)
class Queue:
    """Tasks on one DSQ in the order in which they leave it: (task, vtime), vtime None on a FIFO."""

    tasks: list[tuple[int, int | None]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tasks)

    def insert(self, task: int, vtime: int | None, *, head: bool = False) -> str | None:
        """Puts a task on the DSQ; returns why the kernel aborts the scheduler, if it does.

        kernel/sched/ext/ext.c, dispatch_enqueue(): the task is queued all the same. Equal virtual times
        keep their order of arrival (rb_add descends to the right on equality). `head` is SCX_ENQ_HEAD or
        SCX_ENQ_PREEMPT, which only a FIFO honours.
        """
        by_vtime = any(v is not None for _, v in self.tasks)
        if vtime is None:
            self.tasks.insert(0 if head else len(self.tasks), (task, None))
            return "it already has vtime-ordered tasks" if by_vtime else None
        at = 0
        for index, (_, other) in enumerate(self.tasks):
            if other is not None and not vtime_before(vtime, other):
                at = index + 1
        self.tasks.insert(at, (task, vtime))
        return "it already has FIFO tasks" if len(self.tasks) > 1 and not by_vtime else None

    def remove(self, task: int) -> bool:
        """Takes a task off (dispatch_dequeue); False if it was not there."""
        for index, (other, _) in enumerate(self.tasks):
            if other == task:
                del self.tasks[index]
                return True
        return False
