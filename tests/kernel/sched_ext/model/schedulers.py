# SPDX-License-Identifier: GPL-2.0-only
"""How schedulers come and go: what an attach leaves, which exit together, what stays until a link is gone.

Functions are those of kernel/sched/ext/ext.c (7.2.13).
"""

from __future__ import annotations

from harness.core.errors import UsageError
from sched_ext.model import sub
from sched_ext.model.rules import Rules
from sched_ext.model.state import Features, Hash, Scheduler
from sched_ext.model.trace import Answer, Disagreement


class Schedulers:
    """The schedulers of one kernel: `links` are those that are attached, `root` the one that is scx_root."""

    def __init__(self, features: Features, rules: Rules) -> None:
        self.features = features
        self.rules = rules
        self.links: dict[str, Scheduler] = {}
        self.root: Scheduler | None = None
        self._global = Hash()
        self._step = 0

    def aborting(self) -> str | None:
        """Why the running scheduler is being ejected, None if it is not."""
        return self.root.aborting if self.root else None

    def refuse(self, scheduler: str, error: int) -> None:
        """What its ops.sub_attach answers from now on: 0 or a negative errno."""
        self.links[scheduler].refusal = error
        self._step += 1

    def cgroup_offline(self, cgroup: str) -> None:
        """A cgroup is removed: the sub-scheduler that is attached to it is ejected (scx_cgroup_lifetime_notify)."""
        for scheduler in self.links.values():
            if scheduler.cgroup == cgroup and scheduler.parent:
                self._abort(scheduler, f"cgroup {cgroup} is going offline")
        self._step += 1

    def running(self, scheduler: str) -> bool:
        """Whether it is attached and has not exited."""
        return scheduler in self.links and self.links[scheduler].running

    def gone(self, expected: bool = False, sub_scheduler: str = "") -> Disagreement | None:
        """Record that the root, or a sub-scheduler, has exited by itself (its exit info is written).

        A disagreement unless the model raised the error itself or the test `expected` it. From here on only
        programs associated with it still reach its DSQs, until detach (scx_root_disable, scx_prog_sched).
        """
        leaving = self.links.get(sub_scheduler) if sub_scheduler else self.root
        if leaving is None or not leaving.running:
            raise UsageError("no scheduler runs, so none can be gone", step="attach one first")
        name, why = leaving.name, leaving.aborting
        self._exit(leaving)
        self._step += 1
        if why or expected:
            return None
        rule = self.rules.cite("scx_sub_disable" if leaving.parent else "scx_root_disable")
        reason = "nothing that was done raises scx_error()"
        return Disagreement(f"scheduler {name} exited, the model lets it run: {reason} ({rule})", rule, reason)

    def _abort(self, scheduler: Scheduler, why: str) -> None:
        if scheduler.running and scheduler.aborting is None:  # scx_claim_exit: the first error wins
            scheduler.aborting = why

    def _attached(self, answer: Answer, exit_error: int | None) -> None:
        """An attach succeeded; with `exit_error` the scheduler has exited meanwhile, and only its link is left."""
        op, parent = answer.op, None
        if op.cgroup:
            parent = sub.Tree(self.rules, self.root, self.links).owner(op.cgroup)
        elif self.root:  # attach was let in, so the one being ejected is gone
            self._exit(self.root)
        table = self._global if self.features.global_hash else Hash()
        if exit_error is not None and answer.unsure:
            table.maybe.update(i for i, node in op.creates if not self.rules.refused(i, node))
        else:
            for dsq_id in answer.made:
                table.add(dsq_id)
        own = Hash() if self.features.global_hash else table
        scheduler = Scheduler(
            op.scheduler, own, op.sub_attach, parent=parent, cgroup=op.cgroup or "/", cid_form=op.cid_form
        )
        self.links[scheduler.name] = scheduler
        if parent is None:
            self.root = scheduler
        if exit_error is not None:
            self._exit(scheduler)

    def _detached(self, name: str) -> None:
        scheduler = self.links[name]
        if scheduler.running:
            self._exit(scheduler)
        del self.links[name]

    def _exit(self, scheduler: Scheduler) -> None:
        """scx_root_disable(), scx_sub_disable(): all tasks leave, its memory stays; those below it go first."""
        for other in self.links.values():
            if other is not scheduler and other.running and scheduler in other.above():
                other.running, other.aborting = False, None  # scx_claim_exit: SCX_EXIT_PARENT
                other.hash.drain()
        scheduler.running, scheduler.aborting = False, None
        scheduler.hash.drain()
        if self.root is scheduler:
            self.root = None
        if self.features.global_hash:
            self._global.clear()  # 6.12, scx_ops_disable_workfn: every DSQ is destroyed
