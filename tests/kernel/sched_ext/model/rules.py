# SPDX-License-Identifier: GPL-2.0-only
"""The rules that need no history: why a create is refused, and how enabling a scheduler ends."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from sched_ext.model import ids
from sched_ext.model.state import Features, Hash
from sched_ext.model.trace import Answer, FaultAt, Op

OK, ENOENT, ENOMEM, EBUSY = 0, -errno.ENOENT, -errno.ENOMEM, -errno.EBUSY
EOPNOTSUPP, EPROTO = -errno.EOPNOTSUPP, -errno.EPROTO
EEXIST, ENODEV, EINVAL = -errno.EEXIST, -errno.ENODEV, -errno.EINVAL


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for one kernel on one machine: see DsqModel for the fields."""

    features: Features
    nodes: frozenset[int]
    possible_cpus: int

    def cite(self, function: str) -> str:
        """A kernel function as the rules cite it."""
        return f"{self.features.source}: {function}"

    def own_dsqs(self) -> int:
        """How many init_dsq() a scheduler does for itself, before ops.init.

        One global DSQ a possible node (alloc_pnode), one bypass DSQ a possible CPU, in this order
        (scx_alloc_and_add_sched).
        """
        return len(self.nodes) + (self.possible_cpus if self.features.bypass_dsqs else 0)

    def refused(self, dsq_id: int, node: int) -> str | None:
        """Why scx_bpf_create_dsq() says -EINVAL, before it allocates; None if it does not.

        nr_node_ids is the highest possible node plus one. A lower node that is not possible passes.
        """
        highest = max(self.nodes)
        if node > highest or (node < 0 and node != ids.NUMA_NO_NODE):
            return f"node {node} is neither below nr_node_ids ({highest + 1}) nor NUMA_NO_NODE"
        return "the id has the built-in flag" if dsq_id & ids.BUILTIN else None

    def insert(self, table: Hash, dsq_id: int) -> tuple[frozenset[int], str]:
        """rhashtable_lookup_insert_fast() on a scheduler's table: the legal results and why."""
        if dsq_id in table.maybe:
            return frozenset({OK, EEXIST}), "ops.init may have created it"
        if dsq_id in table and self.features.unique_ids:
            return frozenset({EEXIST}), "the id is live"
        return frozenset({OK}), "the id is free"

    def enable(self, op: Op, at: FaultAt | None, nth: int | None, table: Hash, step: int) -> Answer:
        """scx_root_enable_workfn() with no other scheduler in the way.

        What fails before ops.init (scx_alloc_and_add_sched) is attach's own error. From ops.init on attach
        answers 0 and the error is in the exit info. `table` is what ops.init's creates go into.
        """
        cite = self.cite("scx_alloc_and_add_sched")
        if not self.features.percpu_data and at is FaultAt.PERCPU:
            at = nth = None  # init_dsq() allocates nothing here: it cannot have fired in it
        exact = nth if at is FaultAt.PERCPU else None
        if exact is not None and exact <= self.own_dsqs():
            why = "the percpu data of a DSQ of the scheduler's own could not be allocated"
            return Answer(op, frozenset({ENOMEM}), why, cite, step=step)
        failing = None if exact is None else exact - self.own_dsqs()
        made, error = self.init(op.creates, failing, table)
        why = "nothing stands in the way" if error is None else f"ops.init() fails with {ids.errno_name(error)}"
        cite = self.cite("scx_root_enable_workfn")
        after = Answer(op, frozenset({OK}), why, cite, exits=frozenset({error}), made=made, step=step)
        if at is None or exact is not None:
            return after
        after = dataclasses.replace(after, unsure=True)
        if at is FaultAt.DSQ:
            why = "a DSQ of ops.init could not be allocated"
            return dataclasses.replace(after, exits=frozenset({ENOMEM}), why=why)
        absorbed: frozenset[int | None] = frozenset({error}) if at is FaultAt.ANY else frozenset()
        reached = {OK} if at is FaultAt.ANY or op.creates else set()
        return dataclasses.replace(
            after, values=frozenset({ENOMEM} | reached), exits=absorbed | {ENOMEM}, why="a fault fired in it"
        )

    def init(
        self, creates: Sequence[tuple[int, int]], failing: int | None, table: Hash
    ) -> tuple[tuple[int, ...], int | None]:
        """The DSQs that ops.init has created when it returns, and its error.

        It stops at the first error; the `failing`-th (from 1) of its alloc_percpu returns NULL.
        """
        made: dict[int, None] = {}
        again: list[int] = []
        allowed = 0
        for dsq_id, node in creates:
            if self.refused(dsq_id, node):
                return (*made, *again), EINVAL
            allowed += 1
            if allowed == failing:
                return (*made, *again), ENOMEM
            if dsq_id in made or dsq_id in table:
                if self.features.unique_ids:
                    return (*made, *again), EEXIST
                again.append(dsq_id)
            made.setdefault(dsq_id)
        return (*made, *again), None
