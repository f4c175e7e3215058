# SPDX-License-Identifier: GPL-2.0-only
"""The state of the model: the schedulers and the DSQs of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sched_ext.model.queue import Queue


@dataclass(frozen=True, slots=True)
class Features:
    """What this kernel has; probed elsewhere, the defaults are 7.2.

    `percpu_data`: init_dsq() does alloc_percpu() and can fail (7.1). `bypass_dsqs`: one DSQ per possible CPU
    in each scheduler. `sub_scheds`: CONFIG_EXT_SUB_SCHED, a SYSCALL program is tied to a scheduler through
    its struct_ops map. `cid_form`: there is struct sched_ext_ops_cid, which sub-schedulers and those that take them
    must be (7.2). `global_hash`: user DSQs lie in one table for the whole kernel and need no scheduler
    (before 6.16). `unique_ids`: a duplicate id is refused (6.12 started without; fixed by "sched_ext:
    create_dsq: Return -EEXIST on duplicate request"). `custody`: ops.dequeue is called for tasks that leave a
    user DSQ (SCX_TASK_IN_CUSTODY). `dead`: programs of a scheduler that has exited find it no more, before
    its link is gone (scx_sched::dead, 7.3). `reenq`: scx_bpf_dsq_reenq(). `init` is the function that initialises a
    DSQ, empty where it was inlined everywhere. `source` is the file that the rules cite.
    """

    percpu_data: bool = True
    bypass_dsqs: bool = True
    sub_scheds: bool = True
    cid_form: bool = True
    global_hash: bool = False
    unique_ids: bool = True
    custody: bool = True
    dead: bool = False
    reenq: bool = True
    init: str = "init_dsq"
    source: str = "kernel/sched/ext/ext.c"


@dataclass(slots=True)
class Hash:
    """A table of user DSQs. Several may share an id where ids need not be unique; the newest is found.

    `maybe` holds ids of which the model cannot know whether they are in (an unobserved create).
    """

    queues: dict[int, list[Queue]] = field(default_factory=dict)
    maybe: set[int] = field(default_factory=set)

    def __contains__(self, dsq_id: int) -> bool:
        return dsq_id in self.queues

    def __iter__(self) -> Iterator[int]:
        return iter(self.queues)

    def find(self, dsq_id: int) -> Queue | None:
        found = self.queues.get(dsq_id)
        return found[-1] if found else None

    def add(self, dsq_id: int) -> None:
        self.maybe.discard(dsq_id)
        self.queues.setdefault(dsq_id, []).append(Queue())

    def remove(self, dsq_id: int) -> None:
        self.maybe.discard(dsq_id)
        found = self.queues.get(dsq_id)
        if found:
            found.pop()
            if not found:
                del self.queues[dsq_id]

    def objects(self) -> int:
        """How many DSQs there are, those of one id counted each."""
        return sum(map(len, self.queues.values()))

    def drain(self) -> None:
        """All tasks leave; the DSQs stay."""
        for queues in self.queues.values():
            for queue in queues:
                queue.tasks.clear()

    def clear(self) -> None:
        self.queues.clear()
        self.maybe.clear()


@dataclass(slots=True, eq=False)
class Scheduler:
    """A struct_ops map that is attached: struct scx_sched lives as long as its link.

    `running`: it is scx_root or below it. `aborting`: why scx_error() was raised, until the scheduler is seen gone.
    A sub-scheduler has a `parent` and the `cgroup` (a path below the root) that it is attached to. `refusal`
    is what its ops.sub_attach answers: 0 or a negative errno. `cid_form`: it is of the form
    whose CPUs are cids.
    """

    name: str
    hash: Hash
    sub_attach: bool = False
    running: bool = True
    aborting: str | None = None
    parent: Scheduler | None = None
    cgroup: str = "/"
    refusal: int = 0
    cid_form: bool = False

    def above(self) -> Iterator[Scheduler]:
        """Itself and its ancestors, up to the root."""
        at: Scheduler | None = self
        while at:
            yield at
            at = at.parent
