# SPDX-License-Identifier: GPL-2.0-only
"""Owns the scenario interpreter of DSQs: each operation is done on the kernel and asked of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.errors import GuestError, HarnessError
from harness.faults.endings import ended_with
from harness.guest.guest import BpfObject, Guest, dsq_context
from harness.machine.deadline import Deadline
from harness.model.dsq import DsqModel
from harness.model.trace import Answer, Disagreement
from harness.oracles.ledger import KINDS
from harness.suite import objects
from harness.suite.bench import Bench
from harness.suite.features import INIT_NAMES
from harness.suite.outcome import Disagreed, Inconclusive

STATE = "/sys/kernel/sched_ext/state"
ENABLE_SECONDS = 20.0
MAX_LISTED = 4096
"""As MAX_LISTED in bpf_progs/dsq_api.bpf.c: beyond it sets are compared by digest."""

MAKERS = ("create_dsq", "scx_bpf_create_dsq")
"""Where the memory of a user DSQ itself is allocated (create_dsq() in 6.12)."""

ERRNO = re.compile(r"\((-\d+)\)")
"""The errno in the message of an exit info."""


class Dsqs:
    """DSQ operations on a guest, each compared with the model; the first disagreement raises Disagreed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        spec = bench.ready.machine.spec
        self.model = DsqModel(bench.ready.features, frozenset(range(spec.nodes)), spec.possible_cpus)
        self.api = bench.guest.load("dsq_api")
        self._attached: set[str] = set()
        self.last = 0
        """How the last attach ended, in the numbers of harness.faults.endings."""

    @property
    def guest(self) -> Guest:
        """The guest that all is done on."""
        return self._bench.guest

    @property
    def scale(self) -> float:
        """How much slower than nominal this machine is: stretches every deadline."""
        return self._bench.ready.pristine.scale

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

        `fault` is a harness.model.trace.FaultAt that fired meanwhile, `nth` which alloc_percpu() of init_dsq() it hit.
        """
        scheduler = self.load(program, **variables)
        self.enable(scheduler, creates, fault=fault, nth=nth)
        return scheduler

    def enable(
        self, scheduler: BpfObject, creates: Sequence[tuple[int, int]], *,
        fault: str | None = None, nth: int | None = None,
    ) -> None:  # fmt: skip
        """Attaches a loaded scheduler, as :meth:`attach`."""
        answer = self.model.attach(scheduler.name, creates, fault, nth)
        got = scheduler.attach(check=False)
        exit_error = self.exit_error(scheduler) if got == 0 else None
        self.enabled(scheduler, answer, got, exit_error)

    def enabled(self, scheduler: BpfObject, answer: Answer, got: int, exit_error: int | None = None) -> None:
        """Compares how an attach ended that somebody else did."""
        self.last = got if exit_error is None else ended_with(exit_error)
        self.judge(answer, got, exit_error)
        if got == 0:
            self._attached.add(scheduler.name)

    def load(self, program: str, **variables: int) -> BpfObject:
        """Loads a scheduler, for somebody else to attach."""
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
        """Compares whether it still runs, if the model says that it does."""
        root = self.model.root
        if root is None or root.name != scheduler.name or root.aborting:
            return
        ended = scheduler.get("exited", "exit_msg")
        problem = self.model.gone() if ended["exited"] else None
        self.count(problem)

    def thrown_out(self, scheduler: BpfObject) -> None:
        """Tells the model that the kernel threw the scheduler out, as was seen, and that it was detached then."""
        self.model.gone(expected=True)
        self._attached.discard(scheduler.name)
        self.judge(self.model.detach(scheduler.name), 0)

    def exit_error(self, scheduler: BpfObject) -> int | None:
        """Waits until the scheduler is enabled or has exited; the errno of its exit info, or None if it stays."""
        deadline = Deadline(
            ENABLE_SECONDS * self.scale, "the scheduler to be enabled or to exit"
        )
        while True:
            state = self._bench.guest.read(STATE).strip()
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
        """scx_bpf_create_dsq() from a SYSCALL program; returns what the kernel answered."""
        return self._one(self.model.create(dsq_id, node, fault), "create", dsq_id, node)

    def destroy(self, dsq_id: int) -> None:
        """scx_bpf_destroy_dsq()."""
        self._one(self.model.destroy(dsq_id), "destroy", dsq_id)

    def destroyed(self, dsq_id: int) -> None:
        """Another program has destroyed it."""
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
            range(first, first + count),
            self.api.run("destroy", dsq_context(first), repeat=count),
            strict=True,
        ):
            self.judge(self.model.destroy(dsq_id), got)

    def check_live(self, of: str | None = None, cgroup_id: int = 0) -> None:
        """Walks the kernel's table and compares the set of live DSQs with the model's.

        The table is that of the root, or of scheduler `of`, which is attached to the cgroup of this id.
        """
        if of is None and not self.model.live() and self._bench.guest.read(STATE).strip() != "enabled":
            return
        status = self.api.run("live", dsq_context(cgroup_id), record=False)[0]
        if status:
            raise HarnessError(f"the DSQ table cannot be walked: the walk answered {status}")
        seen = self.api.get("live_count", "live_sum", "live_mix", "live_nelems")
        count = seen["live_count"]
        if count != seen["live_nelems"]:
            raise HarnessError(
                f"the walk saw {count} DSQs, the table says {seen['live_nelems']}", step="run again"
            )
        if count <= MAX_LISTED:
            ids = self.api.get("live_ids", most=count)["live_ids"] if count else []
            problem = self.model.compare_live(ids[:count], of)
        else:
            problem = self.model.compare_digest(count, seen["live_sum"], seen["live_mix"])
        self.count(problem)

    def check_objects(self) -> None:
        """Waits for quiescence and compares how many objects of DSQs live with how many the model says must.

        Percpu objects are those of the function that initialises a DSQ (init_dsq()), of user DSQs and of each loaded
        scheduler's own; slab objects are the user DSQs themselves. Raises Inconclusive where the ledger lost something.
        """
        held = objects.look(self.guest.agent, self._bench.ready, self.guest.settle())
        if not held.exact:
            raise Inconclusive(f"{held.evidence.oracle} did not watch: {held.evidence.why}")
        init = self.model.features.init
        self._compare(init or INIT_NAMES[0], "percpu", held.count(KINDS[1], INIT_NAMES), self.model.percpu_objects())
        self._compare("scx_bpf_create_dsq", "slab", held.count(KINDS[2], MAKERS), self.model.user_objects())

    def _compare(self, function: str, kind: str, got: int, wanted: int) -> None:
        title = f"{got} {kind} objects allocated in {function}() are alive, the model wants {wanted}"
        self._bench.count_model(0, 1, title if got != wanted else None)
        if got != wanted:
            raise Disagreed(title, function)

    # --- parts --------------------------------------------------------------------------

    def _one(self, answer: Answer, program: str, dsq_id: int, node: int = -1) -> int:
        got = self.api.run(program, dsq_context(dsq_id, node))[0]
        self.judge(answer, got)
        return got

    def judge(self, answer: Answer, got: int, exit_error: int | None = None) -> None:
        """Compares an answer of the kernel's with what the model allows."""
        self.count(self.model.observe(answer, got, exit_error))

    def count(self, problem: Disagreement | str | None) -> None:
        """Counts one comparison, and what came of it. Raises Disagreed where there is a problem."""
        self._bench.count_model(1, 1, str(problem) if problem else None)
        if problem:
            raise Disagreed(str(problem))
