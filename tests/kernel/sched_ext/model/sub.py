# SPDX-License-Identifier: GPL-2.0-only
"""The rules of sub-schedulers (CONFIG_EXT_SUB_SCHED): which may attach to which cgroup, and how that ends.

Functions are those of kernel/sched/ext/ext.c (7.2.13). Each scheduler, root or not, has a table of user DSQs, global
DSQs and bypass DSQs of its own (scx_alloc_and_add_sched). A sub-scheduler keeps its
parent's memory until its own is freed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sched_ext.model.rules import EBUSY, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP, EPROTO, OK, Rules
from sched_ext.model.state import Hash, Scheduler
from sched_ext.model.trace import Answer, FaultAt, Op

MAX_DEPTH = 4
"""SCX_SUB_MAX_DEPTH (kernel/sched/ext/types.h): the root is at level 0, and level 4 is one too many."""

MAX_ERRNO = 4095
"""include/linux/err.h."""


def pinned(schedulers: Iterable[Scheduler]) -> list[Scheduler]:
    """The schedulers whose memory exists: of each link, and all above it (scx_sched_free_rcu_work puts the parent last)."""
    found: dict[int, Scheduler] = {}
    for scheduler in schedulers:
        found |= {id(one): one for one in scheduler.above()}
    return list(found.values())


def within(cgroup: str, above: str) -> bool:
    """Whether a cgroup is another or lies below it (cgroup_is_descendant). Paths begin with a slash."""
    return above == "/" or cgroup == above or cgroup.startswith(f"{above}/")


@dataclass(frozen=True)
class Tree:
    """The running schedulers of one kernel: the root and those below it. `links` are all that are attached."""

    rules: Rules
    root: Scheduler | None
    links: Mapping[str, Scheduler]

    def owner(self, cgroup: str) -> Scheduler | None:
        """The scheduler of a cgroup (cgrp->scx_sched): the nearest one at it or above; a new cgroup inherits it."""
        there = [s for s in self.links.values() if s.running and within(cgroup, s.cgroup)]
        return max(there, key=lambda s: len(s.cgroup), default=None)

    def enable(
        self, op: Op, at: FaultAt | None, nth: int | None, step: int, *, there: bool = True, refused: str = ""
    ) -> Answer:
        """scx_sub_enable_workfn(): refusals first, then the scheduler's own memory, then the ends by its exit info."""
        extra = {ENOMEM} if at is FaultAt.ANY else set()  # the link is allocated before all else
        barred = self._barred(op, there)
        if barred:
            error, why, function = barred
            return Answer(op, frozenset({error} | extra), why, self.rules.cite(function), step=step)
        answer = self.rules.enable(op, at, nth, Hash(), step)
        if OK not in answer.values:
            return answer
        answer = dataclasses.replace(answer, rule=self.rules.cite("scx_sub_enable_workfn"))
        return self._ended(answer, refused)

    def _barred(self, op: Op, there: bool) -> tuple[int, str, str] | None:
        """The attach's own errno, why, and the function that returns it; None if it is not refused."""
        enable = "scx_sub_enable_workfn"
        if self.root is None:
            return ENODEV, "no root scheduler is enabled", enable
        if op.scheduler in self.links:
            return EBUSY, "this struct_ops map is still bound to a scheduler", enable
        if not there:
            return ENOENT, "there is no such cgroup", "cgroup_get_from_id"
        parent = self.owner(op.cgroup)
        if parent is None:
            return ENODEV, "no root scheduler is enabled", enable
        if parent.cgroup == op.cgroup:
            return EBUSY, f"scheduler {parent.name} is attached to this cgroup", "find_parent_sched"
        if not parent.sub_attach:
            return EOPNOTSUPP, f"scheduler {parent.name} takes no sub-schedulers", "find_parent_sched"
        for other in self.links.values():
            if other.running and other.parent is parent and within(other.cgroup, op.cgroup):
                return EBUSY, f"scheduler {other.name} is below this cgroup already", "find_parent_sched"
        return None

    def _ended(self, answer: Answer, refused: str) -> Answer:
        """How a sub-scheduler that got its memory ends: depth, ops.init, validate_ops(), its parent, in this order.

        The first scx_error() is the one in the exit info; those of depth and validate_ops() have no errno.
        """
        parent = self.owner(answer.op.cgroup)
        exits: frozenset[int | None]
        if parent is None:
            return answer
        if len(list(parent.above())) >= MAX_DEPTH:
            why = f"max nesting depth {MAX_DEPTH} violated"
            # Under a fault the link to the parent may fail before (scx_link_sched).
            exits = frozenset({0, ENOMEM}) if answer.unsure else frozenset({0})
            return dataclasses.replace(answer, why=why, exits=exits, made=())
        if None not in answer.exits:
            return answer
        if refused:
            exits = (answer.exits - {None}) | {0}
            return dataclasses.replace(answer, why=refused, exits=exits, rule=self.rules.cite("validate_ops"))
        if parent.refusal:
            error = parent.refusal if -MAX_ERRNO <= parent.refusal < 0 else 0
            why = "the parent's ops.sub_attach refuses it"
            if not error:  # ops_sanitize_err() is the first to call scx_error()
                why = f"{why} with no errno, for which the kernel takes {EPROTO}"
            return dataclasses.replace(answer, why=why, exits=(answer.exits - {None}) | {error})
        return answer
