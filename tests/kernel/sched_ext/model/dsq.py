# SPDX-License-Identifier: GPL-2.0-only
"""The rules of sched_ext's dispatch queues: what the kernel may answer, and what then holds.

Read as a specification: each operation below says which answers are legal and cites the kernel function
that it was read from (7.2.13, kernel/sched/ext/ext.c unless said otherwise). The model never decides what
happened. It is asked first (`create`, `destroy`, ...), then given the kernel's answer (`observe`), and only
then does its state move; so an answer that may go two ways is followed and not guessed.

An operation whose system call failed before the BPF program ran is not an operation: do not ask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from harness.core.errors import HarnessError, UsageError
from harness.core.words import plural
from sched_ext.model import ids, sub, trace
from sched_ext.model.rules import EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENOMEM, OK, Rules
from sched_ext.model.schedulers import Schedulers
from sched_ext.model.state import Features, Hash, Scheduler
from sched_ext.model.trace import Answer, Disagreement, FaultAt, Op


class DsqModel(Schedulers):
    """The reference model for one kernel on one machine.

    `nodes` are the possible NUMA nodes, `possible_cpus` a count (CPUs 0 to count-1). DSQ ids are u64.
    """

    def __init__(self, features: Features, nodes: frozenset[int], possible_cpus: int) -> None:
        if not nodes or possible_cpus < 1:
            raise UsageError(f"a machine has nodes and CPUs, not nodes {sorted(nodes)} and {possible_cpus} CPUs")
        super().__init__(features, Rules(features, nodes, possible_cpus))
        self.associated: str | None = None

    # --- what holds now ---------------------------------------------------------------

    def live(self, of: str | None = None) -> frozenset[int]:
        """Ids of the user DSQs of the root (of the kernel, where the table is global), or of the named scheduler."""
        if self.features.global_hash:
            return frozenset(self._global)
        chosen = self.root if of is None else self.links.get(of)
        return frozenset(chosen.hash) if chosen else frozenset()

    def percpu_objects(self, boot: bool = False) -> int:
        """How many alloc_percpu objects of init_dsq() are alive once the kernel is quiescent. Raises as user_objects().

        A scheduler holds its user DSQs, one global DSQ a possible node (alloc_pnode), one bypass DSQ a possible CPU
        (scx_alloc_and_add_sched), from attach until its link is gone, also exited, and until the memory of those below
        it is gone, which pins it (scx_sched_free_rcu_work). With `boot`, the local
        DSQs (init_sched_ext_class), which never change.
        """
        if not self.features.percpu_data:
            return 0
        own = len(sub.pinned(self.links.values())) * self.rules.own_dsqs() + (self.rules.possible_cpus if boot else 0)
        return self.user_objects() + own

    def user_objects(self) -> int:
        """How many user DSQs then have memory. Raises HarnessError after an ops.init that failed under a fault."""
        own = [s.hash for s in sub.pinned(self.links.values())]
        hashes = [self._global] if self.features.global_hash else own
        if any(h.maybe for h in hashes):
            raise HarnessError("how many DSQs a failed ops.init left is unknown", step="detach, then ask again")
        return sum(h.objects() for h in hashes)

    # --- the interface of BPF programs ------------------------------------------------

    def associate(self, scheduler: str | None) -> None:
        """Let operations come from a program that is associated with that scheduler's struct_ops map, or with none.

        A program's own tie is for good (bpf_prog_assoc_struct_ops): each scheduler has programs of its own."""
        self.associated = scheduler
        self._step += 1

    def create(self, dsq_id: int, node: int, fault: str | None = None) -> Answer:
        """scx_bpf_create_dsq(): node, id, memory, scheduler, duplicate, in this order.

        The memory is taken before a scheduler is looked for, so under a fault -ENOMEM wins over -ENODEV and
        -EEXIST. A node below nr_node_ids that is not possible is not refused by this function.
        """
        op, at = Op("create", dsq_id, node), _fault(fault)
        rule = self.rules.cite("scx_bpf_create_dsq")
        refused = self.rules.refused(dsq_id, node)
        if refused:
            return self._answer(op, {EINVAL}, refused, rule)
        if at is FaultAt.DSQ:
            return self._answer(op, {ENOMEM}, "the DSQ itself could not be allocated", rule)
        if at is FaultAt.PERCPU and self.features.percpu_data:
            return self._answer(op, {ENOMEM}, "its percpu data could not be allocated", self.rules.cite("init_dsq"))
        values: set[int] = set()
        why: list[str] = []
        for table in self._views():
            legal, reason = (frozenset({ENODEV}), self._absent()) if table is None else self.rules.insert(table, dsq_id)
            values |= legal
            why.append(reason)
        if at:
            values.add(ENOMEM)
            why.append("a fault fired, which an optional allocation (the hash table's growth) absorbs")
        return self._answer(op, values, "; or ".join(why), rule)

    def destroy(self, dsq_id: int) -> Answer:
        """scx_bpf_destroy_dsq(), destroy_dsq(): answers nothing (0 here). Unknown ids are ignored.

        A DSQ that still has tasks is left alone and the scheduler is ejected.
        """
        op, rule = Op("destroy", dsq_id), self.rules.cite("destroy_dsq")
        table = self._views()[0]
        queue = table.find(dsq_id) if table else None
        if table is None:
            return self._answer(op, {OK}, f"nothing to do: {self._absent()}", self.rules.cite("scx_bpf_destroy_dsq"))
        if queue is None:
            return self._answer(op, {OK}, "ignored: no such user DSQ", rule)
        if len(queue):
            why = f"attempting to destroy in-use dsq {dsq_id:#018x} (nr={len(queue)})"
            return self._answer(op, {OK}, why, rule, aborts=why)
        return self._answer(op, {OK}, "an empty DSQ goes away", rule)

    def nr_queued(self, dsq_id: int) -> Answer:
        """scx_bpf_dsq_nr_queued(): built-in local DSQs are counted, the other built-in ones are not found.

        A LOCAL_ON id with an impossible CPU is -ENOENT and ejects the scheduler.
        """
        op, rule = Op("nr_queued", dsq_id), self.rules.cite("scx_bpf_dsq_nr_queued")
        views = self._views()
        gone = {ENODEV} if None in views else set()
        table = views[0]
        if table is None:
            return self._answer(op, gone, self._absent(), rule)
        if dsq_id == ids.LOCAL:
            return self._answer(op, gone, "the calling CPU's local DSQ", rule, at_least=0)
        if ids.is_local_on(dsq_id):
            cpu = ids.local_cpu(dsq_id)
            if 0 <= cpu < self.rules.possible_cpus:
                return self._answer(op, gone, f"CPU {cpu}'s local DSQ", rule, at_least=0)
            owner = self._owner()
            cid = owner and owner.cid_form and cpu >= 0  # scx_cpu_ret(): what is negative is let pass
            what = "cid" if cid else "CPU"
            return self._answer(
                op, gone | {ENOENT}, f"{what} {cpu} is not possible", rule, aborts=f"invalid {what} {cpu}"
            )
        if dsq_id in table.maybe:
            return self._answer(op, gone | {OK, ENOENT}, "ops.init may have created it", rule)
        queue = table.find(dsq_id)
        if queue is None:
            return self._answer(op, gone | {ENOENT}, "no such user DSQ", rule)
        return self._answer(op, gone | {len(queue)}, f"it holds {plural(len(queue), 'task')}", rule)

    # --- schedulers -------------------------------------------------------------------

    def attach(
        self,
        scheduler: str,
        creates: Sequence[tuple[int, int]] = (),
        fault: str | None = None,
        nth: int | None = None,
        sub_attach: bool = False,
        cgroup: str = "",
        *,
        there: bool = True,
        refused: str = "",
        cid_form: bool = False,
    ) -> Answer:
        """Attaching a struct_ops map: scx_root_enable_workfn().

        `creates` is what ops.init creates, which must return the first error it gets. `nth` (with
        FaultAt.PERCPU) says that the n-th alloc_percpu made by init_dsq() failed, from 1: first the global
        DSQs, then the bypass DSQs, then ops.init. What fails before ops.init is attach's own -ENOMEM; from
        ops.init on attach answers 0 and the scheduler exits with the error. `sub_attach`: the scheduler takes
        sub-schedulers, and then only associated programs find it. `cid_form`: what it calls a CPU is a cid.

        With `cgroup` it attaches as a sub-scheduler, by the rules of sched_ext.model.sub: `there` is whether there is
        such a cgroup, `refused` why validate_ops() has nothing of it.
        """
        op = Op("attach", 0, 0, scheduler, tuple(creates), sub_attach, cgroup, cid_form)
        at, busy = _fault(fault), self._busy(scheduler)
        if cgroup:
            tree = sub.Tree(self.rules, self.root, self.links)
            return tree.enable(op, at, nth, self._step, there=there, refused=refused)
        extra = {ENOMEM} if at is FaultAt.ANY else set()  # the link is allocated before all else
        leaving = self.root is not None and self.root.aborting and self.root.name != scheduler
        if busy and not leaving:
            return self._answer(op, {EBUSY} | extra, busy, self.rules.cite("scx_root_enable_workfn"))
        table = self._global if self.features.global_hash and not busy else Hash()
        answer = self.rules.enable(op, at, nth, table, self._step)
        if busy:
            return dataclasses.replace(answer, values=answer.values | {EBUSY}, why=f"{answer.why}; or {busy}")
        return answer

    def detach(self, scheduler: str) -> Answer:
        """Dropping the link: bpf_scx_unreg(). The scheduler, if it still runs, and all its DSQs go."""
        if scheduler not in self.links:
            raise UsageError(f"cannot detach scheduler {scheduler}: it is not attached", step="attach it first")
        return self._answer(
            Op("detach", scheduler=scheduler), {OK}, "unreg cannot fail", self.rules.cite("bpf_scx_unreg")
        )

    # --- tasks on DSQs ----------------------------------------------------------------

    def enqueue(self, dsq_id: int, task: int, vtime: int | None = None, head: bool = False) -> str | None:
        """A task arrived on a user DSQ (dispatch_enqueue); why that aborts the scheduler, or None."""
        root, table = self._running()
        queue = table.find(dsq_id)
        if queue is None:
            why: str | None = f"non-existent DSQ {dsq_id:#x}"  # find_dsq_for_dispatch: falls to the global DSQ
        else:
            why = queue.insert(task, vtime, head=head)
        if why:
            self._abort(root, why)
        self._step += 1
        return why

    def dequeue(self, dsq_id: int, task: int) -> bool:
        """A task left a user DSQ (task_unlink_from_dsq); False if the model did not have it there."""
        queue = self._running()[1].find(dsq_id)
        self._step += 1
        return queue is not None and queue.remove(task)

    def order(self, dsq_id: int) -> tuple[int, ...]:
        """The tasks of a user DSQ in the order in which they are consumed."""
        queue = self._running()[1].find(dsq_id)
        return tuple(task for task, _ in queue.tasks) if queue else ()

    # --- the kernel's answers ---------------------------------------------------------

    def observe(self, answer: Answer, got: int, exit_error: int | None = None) -> Disagreement | None:
        """Compares the kernel's answer; if it is legal the state follows it, otherwise nothing moves.

        `exit_error` is, for an attach, the errno in the exit info of a scheduler that did not stay. Raises
        HarnessError if something else was observed since the question: the answer would mean nothing.
        """
        if answer.step != self._step:
            raise HarnessError(
                f"{answer.op} was asked before the last observation", step="ask, run, observe, one at a time"
            )
        if not answer.allows(got, exit_error):
            return trace.disagree(answer, got, exit_error)
        self._step += 1
        table = self._views()[0]
        owner = self._owner()
        match answer.op.verb:
            case "create" if got in (OK, EEXIST) and table is not None:
                if got == OK or answer.op.dsq_id in table.maybe:
                    table.add(answer.op.dsq_id)
            case "destroy" if table is not None and answer.aborts is None:
                table.remove(answer.op.dsq_id)
            case "nr_queued" if table is not None and answer.op.dsq_id in table.maybe and got != ENODEV:
                (table.add if got >= 0 else table.remove)(answer.op.dsq_id)
            case "attach" if got == OK:
                self._attached(answer, exit_error)
            case "detach":
                self._detached(answer.op.scheduler)
        if answer.aborts and owner:
            self._abort(owner, answer.aborts)
        return None

    def compare_live(self, got: Iterable[int], of: str | None = None) -> Disagreement | None:
        """Compares the ids in the kernel's table. HarnessError while the scheduler is being ejected."""
        self._settled()
        got, wanted = frozenset(got), self.live(of)
        if got == wanted:
            return None
        what = "the DSQ table" if of is None else f"the DSQ table of {of}"
        return trace.disagree_set(what, got, wanted, self.rules.cite("scx_bpf_create_dsq"))

    def compare_digest(self, count: int, total: int, mixed: int) -> Disagreement | None:
        """As compare_live, for sets too large to bring home: see ids.digest."""
        self._settled()
        wanted = ids.digest(self.live())
        if (count, total, mixed) == wanted:
            return None
        rule = self.rules.cite("scx_bpf_create_dsq")
        why = "other ids" if count == wanted[0] else "another number of ids"
        text = f"the DSQ table holds {why}: the kernel has {count} live DSQs, the model {wanted[0]} ({rule})"
        return Disagreement(text, rule, why)

    # --- the rules' parts -------------------------------------------------------------

    def _answer(
        self, op: Op, values: set[int], why: str, rule: str, at_least: int | None = None, aborts: str | None = None
    ) -> Answer:
        return Answer(op, frozenset(values), why, rule, at_least=at_least, aborts=aborts, step=self._step)

    def _owner(self) -> Scheduler | None:
        """The scheduler whose error a SYSCALL program would raise: scx_prog_sched() (internal.h)."""
        if self.features.sub_scheds and self.associated is not None:
            owner = self.links.get(self.associated)
            return None if owner and self.features.dead and not owner.running else owner
        if self.root and self.features.sub_scheds and self.root.sub_attach:
            return None
        return self.root

    def _views(self) -> list[Hash | None]:
        """The tables that the calling program may find; two while its scheduler is being ejected."""
        if self.features.global_hash:
            return [self._global]
        owner = self._owner()
        if owner is None:
            return [None]
        stays = self.features.sub_scheds and self.associated is not None and not self.features.dead
        fading = owner.aborting and not stays
        return [owner.hash, None] if fading else [owner.hash]

    def _absent(self) -> str:
        """Why scx_prog_sched() finds no scheduler."""
        if self.features.sub_scheds and self.associated is not None:
            how = "has exited (scx_sched::dead)" if self.associated in self.links else "is not attached"
            return f"the scheduler {self.associated} that the program is associated with {how}"
        if self.root and self.root.aborting:
            return "the scheduler is being ejected"
        if self.root:
            return "the scheduler takes sub-schedulers and the program is not associated with it"
        return "no scheduler is loaded"

    def _busy(self, scheduler: str) -> str | None:
        if self.root:
            return f"scheduler {self.root.name} is enabled"
        if scheduler in self.links and not self.features.global_hash:
            return "this struct_ops map is still bound to a scheduler that has exited"
        return None

    # --- changes of the state ---------------------------------------------------------

    def _running(self) -> tuple[Scheduler, Hash]:
        if self.root is None:
            raise UsageError("tasks are on user DSQs only while a scheduler runs", step="attach one first")
        return self.root, self._global if self.features.global_hash else self.root.hash

    def _settled(self) -> None:
        if self.aborting():
            raise HarnessError(
                f"the set of live DSQs is not settled: the scheduler is being ejected ({self.aborting()})",
                step="wait until it is disabled and call gone()",
            )


def _fault(name: str | None) -> FaultAt | None:
    if name is None:
        return None
    try:
        return FaultAt(name)
    except ValueError:
        raise UsageError(f"the model knows no fault {name!r}", step=f"use one of {', '.join(FaultAt)}") from None
