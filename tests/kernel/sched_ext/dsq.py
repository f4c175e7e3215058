# SPDX-License-Identifier: GPL-2.0-only
"""The scenario interpreter of DSQs: each operation is done on the kernel and compared with the model."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.core.errors import Disagreed, GuestError, HarnessError, Inconclusive
from harness.core.records import FaultSummary
from harness.core.wire import Binary
from harness.faults.endings import ended_with
from harness.faults.percpu import Callers, PercpuFaults
from harness.faults.sweep import PROGRAM_MS, Faults
from harness.guest.guest import BpfObject, Guest
from harness.machine.deadline import Deadline
from harness.oracles import objects
from harness.oracles.ledger import KINDS
from harness.session.context import TestContext
from sched_ext.features import INIT_NAMES
from sched_ext.model.dsq import DsqModel
from sched_ext.model.trace import Answer, Disagreement

SCHED_EXT = 7
"""The scheduling policy of tasks that only a BPF scheduler runs (include/uapi/linux/sched.h)."""

STATE = "/sys/kernel/sched_ext/state"

STALLED = "failed to run for"
"""The kernel's message on a task that is runnable for 30 s, as held ones are on a busy machine."""

ENABLE_SECONDS = 20.0
DSQ_SECONDS = 0.003
"""Nominal, for each DSQ that is made or freed with its scheduler: a test of 32,768 took 5 s, and 15 on a busy host."""

WALK_SECONDS = 5.0
MAX_LISTED = 4096
"""As MAX_LISTED in bpf_progs/sched_ext/dsq_api.bpf.c: beyond it sets are compared by digest."""

MAKERS = ("create_dsq", "scx_bpf_create_dsq")
"""Where the memory of a user DSQ itself is allocated (create_dsq() in 6.12)."""

CREATE = ("scx_bpf_create_dsq",)
"""The function under which a user DSQ is allocated."""

ERRNO = re.compile(r"\((-\d+)\)")
"""The errno in the message of an exit info."""


def dsq_context(dsq_id: int, node: int = -1) -> Binary:
    """struct api_args of bpf_progs/sched_ext/calls.bpf.h."""
    return Binary("Qii", dsq_id, node, 0)


class HeldTooLong(GuestError):
    """Tasks were held for so long that the kernel's watchdog ejected the scheduler."""

    @classmethod
    def by(cls, said: str) -> HeldTooLong:
        """For what the kernel said."""
        return cls(f"tasks were held for too long: {said}", step="run with less beside it")


class Dsqs:
    """DSQ operations on a guest, each compared with the model; the first disagreement raises Disagreed."""

    def __init__(self, context: TestContext) -> None:
        self._context = context
        spec = context.target.machine.spec
        self.model = DsqModel(context.target.features, frozenset(range(spec.nodes)), spec.possible_cpus)
        self.api = context.guest.load("dsq_api")
        self._attached: set[str] = set()
        self.last = 0
        """How the last attach ended, in the numbers of harness.faults.endings."""

    @property
    def guest(self) -> Guest:
        """The guest of all operations."""
        return self._context.guest

    @property
    def scale(self) -> float:
        """How much slower than nominal this machine is: stretches every deadline."""
        return self._context.target.pristine.scale

    # --- schedulers ---------------------------------------------------------------------

    def attach(
        self,
        program: str,
        creates: Sequence[tuple[int, int]] = (),
        *,
        fault: str | None = None,
        nth: int | None = None,
        **variables: int,
    ) -> BpfObject:
        """Loads and attaches a scheduler whose ops.init creates these (id, node); compares how it ended.

        `fault` is a sched_ext.model.trace.FaultAt that fired meanwhile, `nth` which alloc_percpu() of init_dsq() it hit.
        """
        scheduler = self.load(program, **variables)
        self.enable(scheduler, creates, fault=fault, nth=nth)
        return scheduler

    def enable(
        self,
        scheduler: BpfObject,
        creates: Sequence[tuple[int, int]],
        *,
        fault: str | None = None,
        nth: int | None = None,
    ) -> None:
        """Attaches a loaded scheduler, as :meth:`attach`."""
        answer = self.model.attach(scheduler.name, creates, fault, nth)
        agent = self.guest.agent
        agent.patience = max(agent.patience, len(creates) * DSQ_SECONDS)  # also when they go
        got = scheduler.attach(check=False)
        exit_error = self.exit_error(scheduler) if got == 0 else None
        self.enabled(scheduler, answer, got, exit_error)

    def enabled(self, scheduler: BpfObject, answer: Answer, got: int, exit_error: int | None = None) -> None:
        """Compare how an attach ended that other code did."""
        self.last = got if exit_error is None else ended_with(exit_error)
        self.judge(answer, got, exit_error)
        if got == 0:
            self._attached.add(scheduler.name)

    def load(self, program: str, **variables: int) -> BpfObject:
        """Load a scheduler that other code attaches."""
        return self.guest.load(program, **variables)

    def attached(self, scheduler: BpfObject) -> bool:
        """Whether its attach succeeded and it was not detached since."""
        return scheduler.name in self._attached

    def detach(self, scheduler: BpfObject) -> None:
        """Detaches it; all its DSQs must go."""
        answer = self.model.detach(scheduler.name)
        scheduler.detach()
        self._attached.discard(scheduler.name)
        self.judge(answer, 0)

    def stays(self, scheduler: BpfObject) -> None:
        """Compare whether it still runs, if the model says that it does."""
        root = self.model.root
        if root is None or root.name != scheduler.name or root.aborting:
            return
        ended = scheduler.get("exited", "exit_msg")
        problem = self.model.gone() if ended["exited"] else None
        self.count(problem)

    def ejected(self, scheduler: BpfObject) -> None:
        """Update the model after the kernel has ejected the scheduler, and it was detached."""
        self.model.gone(expected=True)
        self._attached.discard(scheduler.name)
        self.judge(self.model.detach(scheduler.name), 0)

    def exit_error(self, scheduler: BpfObject) -> int | None:
        """Waits until the scheduler is enabled or has exited; the errno of its exit info, or None if it stays."""
        seconds = max(ENABLE_SECONDS, self.guest.agent.patience)
        deadline = Deadline(seconds * self.scale, "the scheduler to be enabled or to exit")
        while True:
            state = self._context.guest.read(STATE).strip()
            ended = scheduler.get("exited", "exit_msg", "exit_reason")
            if ended["exited"] and state == "disabled":
                found = ERRNO.search(ended["exit_msg"])
                if not found:
                    raise GuestError(f"the scheduler exited: {ended['exit_reason']}: {ended['exit_msg']}")
                return int(found[1])
            if state == "enabled" and not ended["exited"]:
                return None
            if deadline.expired:
                raise GuestError(f"{deadline}: its state is {state!r}, it {ended['exit_msg'] or 'did not exit'!r}")

    # --- operations ---------------------------------------------------------------------

    def create(self, dsq_id: int, node: int = -1, *, fault: str | None = None) -> int:
        """scx_bpf_create_dsq() from a SYSCALL program; returns the kernel's answer."""
        return self._one(self.model.create(dsq_id, node, fault), "create", dsq_id, node)

    def destroy(self, dsq_id: int) -> None:
        """scx_bpf_destroy_dsq()."""
        self._one(self.model.destroy(dsq_id), "destroy", dsq_id)

    def destroyed(self, dsq_id: int) -> None:
        """Update the model after another program has destroyed it."""
        self.judge(self.model.destroy(dsq_id), 0)

    def nr_queued(self, dsq_id: int) -> int:
        """scx_bpf_dsq_nr_queued()."""
        return self._one(self.model.nr_queued(dsq_id), "nr_queued", dsq_id)

    def create_range(
        self, first: int, count: int, node: int = -1, *, fault: str | None = None, fifo: bool = False
    ) -> int:
        """Creates ids [first, first + count), each answer compared; returns how many were refused.

        `fifo`: at real-time priority, so that no kworker of this CPU comes between.
        """
        answers = self.api.run("create", dsq_context(first, node), repeat=count, fifo=fifo)
        for dsq_id, got in zip(range(first, first + count), answers, strict=True):
            self.judge(self.model.create(dsq_id, node, fault), got)
        return sum(answer != 0 for answer in answers)

    def destroy_range(self, first: int, count: int) -> None:
        """Destroys ids [first, first + count)."""
        for dsq_id, got in zip(
            range(first, first + count), self.api.run("destroy", dsq_context(first), repeat=count), strict=True
        ):
            self.judge(self.model.destroy(dsq_id), got)

    def sweep_create(self, faults: Faults, first: int, *, ids: int, budget_ms: int = PROGRAM_MS) -> FaultSummary:
        """Every allocation of each of `ids` creates fails once; the create without a fault is kept."""
        return faults.sweep_program(
            self.api,
            "create",
            ("create", "destroy", "nr_queued"),
            dsq_context(first),
            CREATE,
            repeat=ids,
            budget_ms=budget_ms,
            want_percpu=int(self.model.features.percpu_data),
            want_slab=1,
        )

    def callers(self, faults: PercpuFaults) -> Callers:
        """The calls by which DSQs get their percpu data: learned from an attach and a create."""

        @contextlib.contextmanager
        def scheduled() -> Iterator[None]:
            scheduler = self.attach("dsq_many", [(0, -1)], nr_dsqs=1)
            yield
            self.detach(scheduler)
            scheduler.unload()

        def one() -> None:
            self.create(1)

        return faults.callers(one, scheduled)

    def check_live(self, of: str | None = None, cgroup_id: int = 0) -> None:
        """Walks the kernel's table and compares the set of live DSQs with the model's.

        The table is that of the root, or of scheduler `of`, which is attached to the cgroup of this id.
        """
        if of is None and not self.model.live() and self._context.guest.read(STATE).strip() != "enabled":
            return
        seen = self._walk(cgroup_id)
        count = seen["live_count"]
        if count <= MAX_LISTED:
            ids = self.api.get("live_ids", most=count)["live_ids"] if count else []
            problem = self.model.compare_live(ids[:count], of)
        else:
            problem = self.model.compare_digest(count, seen["live_sum"], seen["live_mix"])
        self.count(problem)

    def _walk(self, cgroup_id: int) -> dict[str, Any]:
        """What a walk over the table shows when nothing is moved: the worker that resizes it (rht_deferred_worker(),
        lib/rhashtable.c) may be on its way, and what it moves meanwhile is met twice, never missed.
        """
        deadline = Deadline(WALK_SECONDS * self.scale, "the DSQ table to be resized")
        while True:
            status = self.api.run("live", dsq_context(cgroup_id), record=False)[0]
            seen = self.api.get("live_count", "live_sum", "live_mix", "live_nelems")
            count, nelems = seen["live_count"], seen["live_nelems"]
            if not status and count == nelems:
                return seen
            if status not in (0, -errno.EAGAIN) or (status and deadline.expired):
                raise HarnessError(f"the DSQ table cannot be walked: the walk answered {status}")
            if deadline.expired:
                raise HarnessError(f"the walk saw {count} DSQs, the table says {nelems}", step="run again")

    def check_objects(self) -> None:
        """Wait for quiescence and compare the number of live objects of DSQs with the model's.

        Percpu objects are those of the function that initialises a DSQ (init_dsq()), of user DSQs and of each loaded
        scheduler's own; slab objects are the user DSQs themselves. Raises Inconclusive where the ledger lost something.
        """
        held = objects.look(self.guest.agent, self._context.target, self.guest.settle())
        if not held.exact:
            raise Inconclusive(f"{held.evidence.oracle} did not watch: {held.evidence.why}")
        init = self.model.features.init
        self._compare(init or INIT_NAMES[0], "percpu", held.count(KINDS[1], INIT_NAMES), self.model.percpu_objects())
        self._compare("scx_bpf_create_dsq", "slab", held.count(KINDS[2], MAKERS), self.model.user_objects())

    def _compare(self, function: str, kind: str, got: int, wanted: int) -> None:
        title = f"{got} {kind} objects allocated in {function}() are alive, the model wants {wanted}"
        self._context.count_model(0, 1, title if got != wanted else None)
        if got != wanted:
            raise Disagreed(title, function)

    # --- parts --------------------------------------------------------------------------

    def _one(self, answer: Answer, program: str, dsq_id: int, node: int = -1) -> int:
        got = self.api.run(program, dsq_context(dsq_id, node))[0]
        self.judge(answer, got)
        return got

    def judge(self, answer: Answer, got: int, exit_error: int | None = None) -> None:
        """Compare an answer of the kernel with the model's."""
        self.count(self.model.observe(answer, got, exit_error))

    def count(self, problem: Disagreement | str | None) -> None:
        """Count one comparison and its result. Raises Disagreed for a problem."""
        self._context.count_model(1, 1, str(problem) if problem else None)
        if problem:
            raise Disagreed(str(problem))
