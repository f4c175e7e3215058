# SPDX-License-Identifier: GPL-2.0-only
"""The interpreter of moves: each is done on a guest and compared with the model, and the guest is tidied."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.core.errors import Disagreed, GuestError, HarnessError, KharnessError
from harness.core.records import FaultSite, Operation
from harness.faults.endings import words as ending_words
from harness.guest.agent import AgentError
from harness.guest.guest import BpfObject, Workload
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from harness.session.load import wait_for_progress
from sched_ext.dsq import ENABLE_SECONDS, STATE, Dsqs, dsq_context
from sched_ext.features import NO_PRIVATE_STACK
from sched_ext.model.ids import errno_name
from sched_ext.order import DSQ, HeldTasks
from sched_ext.search.cases import Cases
from sched_ext.search.failing import Failing
from sched_ext.search.moves import MOST_TASKS, RANGE
from sched_ext.search.subs import VERBS as SUB_VERBS
from sched_ext.search.subs import SubMoves
from sched_ext.search.words import words

LISTED, MANY = "dsq_listed", "dsq_many"
EXPEDITED = "/sys/kernel/rcu_expedited"
"""Grace periods that are waited for end at once (kernel/rcu/update.c): attaching and detaching mostly wait for them."""

IN_USE = "attempting to destroy in-use dsq"
TIDY = Operation("tidy")
"""The move between two sequences in one guest: everything of the first is removed."""


@dataclass
class Spent:
    """How often things were done, and for how many seconds, for records.SearchSummary."""

    times: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def on(self, what: str, times: int = 1) -> Iterator[None]:
        """The block is `times` of these."""
        start = time.monotonic()
        yield
        self.times[what] += times
        self.seconds[what] += time.monotonic() - start

    def add(self, other: Spent) -> None:
        """Adds what was done elsewhere."""
        self.times.update(other.times)
        for what, seconds in other.seconds.items():
            self.seconds[what] += seconds


class Player:
    """Plays moves on one guest. Disagreements are raised; `lines` describe the moves until then."""

    def __init__(self, context: TestContext, optional: Callable[[FaultSite], str] = lambda site: "") -> None:
        self._context = context
        self._dsq = Dsqs(context)
        self._failing = Failing(context, self._dsq, optional)
        self._linked: list[BpfObject] = []
        self._held: HeldTasks | None = None
        self._tasks = 0
        self._loads: list[Workload] = []
        self._cases: Cases | None = None
        self.spent = Spent()
        self._subs = SubMoves(context, self._dsq, self.spent.on)
        self.lines: list[str] = []
        context.guest.write(EXPEDITED, "1")

    def play(self, moves: Iterable[Operation]) -> None:
        """Play the moves one after the other, and compare the state at their end."""
        for one in (*moves, TIDY):
            try:
                said = self._do(one)
            except Exception as error:
                said = str(error) if isinstance(error, Disagreed | AssertionError | KharnessError) else repr(error)
                self.lines.append(f"{words(one)} -> {said.rpartition(' answered ')[2]}")
                raise
            if said is not None:
                self.lines.append(f"{words(one)}{said and f' -> {said}'}")

    def _do(self, one: Operation) -> str | None:
        """Do one move; returns its answer, or None where it cannot be done."""
        if one.verb in SUB_VERBS:
            return self._subs.do(one)
        found = getattr(self, f"_{one.verb}", None)
        if found is None:
            raise HarnessError(f"no move {one.verb!r} in a search", step="replay with the version that wrote it")
        done: str | None = found(one)
        return done

    # --- DSQs ---------------------------------------------------------------------------

    def _create(self, one: Operation) -> str | None:
        dsq_id, node = int(one.args["id"]), int(one.args["node"])
        if one.fault:
            return errno_name(self._failing.create(dsq_id, node, one.fault))
        with self.spent.on("operations"):
            return errno_name(self._dsq.create(dsq_id, node))

    def _destroy(self, one: Operation) -> str | None:
        dsq_id = int(one.args["id"])
        if self._held and dsq_id == DSQ:
            return None
        with self.spent.on("operations"):
            self._dsq.destroy(dsq_id)
        return ""

    def _nr_queued(self, one: Operation) -> str | None:
        dsq_id = int(one.args["id"])
        if self._held and dsq_id == DSQ:
            return None
        with self.spent.on("operations"):
            count = self._dsq.nr_queued(dsq_id)
        self._ejected()
        return errno_name(count)

    def _check_live(self, one: Operation) -> str | None:
        with self.spent.on("operations"):
            self._dsq.check_live()
        return ""

    def _create_range(self, one: Operation) -> str | None:
        count = int(one.args["count"])
        with self.spent.on("operations", count):
            refused = self._dsq.create_range(RANGE + int(one.args["start"]), count, int(one.args["node"]))
        return f"{refused} refused"

    def _destroy_range(self, one: Operation) -> str | None:
        count = int(one.args["count"])
        with self.spent.on("operations", count):
            self._dsq.destroy_range(RANGE + int(one.args["start"]), count)
        return ""

    # --- schedulers ---------------------------------------------------------------------

    def _attach(self, one: Operation) -> str | None:
        creates = [(int(dsq_id), int(node)) for dsq_id, node in one.args["creates"]]
        scheduler = self._dsq.load(LISTED)
        for number, (dsq_id, node) in enumerate(creates):
            scheduler.set("listed_ids", dsq_id, number)
            scheduler.set("listed_nodes", node, number)
        scheduler.set("nr_listed", len(creates))
        return self._enable(scheduler, creates, one)

    def _attach_many(self, one: Operation) -> str | None:
        count, node = int(one.args["count"]), int(one.args["node"])
        scheduler = self._dsq.load(MANY, nr_dsqs=count, first_id=RANGE, node=node)
        return self._enable(scheduler, [(RANGE + number, node) for number in range(count)], one)

    def _enable(self, scheduler: BpfObject, creates: list[tuple[int, int]], one: Operation) -> str:
        for end in self._dsq.model.attach(scheduler.name, creates).exits:
            if end is not None:
                self._context.expect(rf"ops\.init\(\) failed \({end}\)")
        with self._loading():
            if one.fault:
                self._failing.attach(scheduler, creates, one.fault)
            else:
                self._dsq.enable(scheduler, creates)
        if self._dsq.attached(scheduler):
            self._linked.append(scheduler)
        else:
            scheduler.unload()
        return ending_words(self._dsq.last)

    @contextmanager
    def _loading(self, times: int = 1) -> Iterator[None]:
        """A scheduler comes, or with `times` 0 goes."""
        with self.spent.on("loads with tasks" if self._loads else "loads", times):
            yield

    def _detach(self, one: Operation) -> str | None:
        if not self._linked:
            return None
        scheduler = self._linked.pop(int(one.args["which"]) % len(self._linked))
        self._dsq.stays(scheduler)
        with self._loading(0):
            self._dsq.detach(scheduler)
            scheduler.unload()
        return ""

    def _scheduler(self, one: Operation) -> str | None:
        """Run a scheduler of cases.py, which must be alone. Its rules do not hold where DSQs need no scheduler."""
        if self._linked or self._held or self._loads or self._dsq.model.features.global_hash:
            return None
        self._cases = self._cases or Cases(self._context)
        case = self._cases.case(one)
        if case is None:
            return None
        with self.spent.on("cases"):
            return self._cases.run(case)

    def _ejected(self) -> None:
        """If the model says that the kernel ejects the scheduler, wait for that and compare the message."""
        why = self._dsq.model.aborting()
        root = self._dsq.model.root
        if why is None or root is None:
            return
        self._context.expect(re.escape(why))
        if self._held and self._held.scheduler.name == root.name:
            self._gone(why)
            return
        scheduler = next(one for one in self._linked if one.name == root.name)
        deadline = Deadline(ENABLE_SECONDS * self._dsq.scale, f"the scheduler to be ejected: {why}")
        while True:
            ended = scheduler.get("exited", "exit_msg")
            if ended["exited"] and self._context.guest.read(STATE).strip() == "disabled":
                break
            if deadline.expired:
                self._judge(f"the scheduler was not ejected though {why}")
        if why not in ended["exit_msg"]:
            self._judge(f"the scheduler was ejected for {ended['exit_msg']!r}, the model says {why!r}")
        self._dsq.model.gone()

    def _judge(self, problem: str) -> None:
        self._context.count_model(0, 1, problem)
        raise Disagreed(problem)

    # --- tasks --------------------------------------------------------------------------

    def _work(self, one: Operation) -> str | None:
        self._loads.append(self._context.guest.work(str(one.args["kind"]), int(one.args["tasks"])))
        return ""

    def _turns(self, one: Operation) -> str | None:
        if not self._loads:
            return None
        wait_for_progress(self._context, *self._loads, turns=1)
        return ""

    def _rest(self, one: Operation) -> str | None:
        if not self._loads:
            return None
        while self._loads:
            self._loads.pop().kill()
        return ""

    def _hold(self, one: Operation) -> str | None:
        if self._held or self._linked:
            return None
        try:
            with self.spent.on("loads"):
                self._held = HeldTasks(self._context, self._dsq, [int(vtime) for vtime in one.args["vtimes"]])
        except AgentError as error:
            if NO_PRIVATE_STACK in str(error):
                return None
            raise
        self._tasks = 0
        return ""

    def _arrive(self, one: Operation) -> str | None:
        tasks = int(one.args["tasks"])
        if not self._held or self._tasks + tasks > MOST_TASKS:
            return None
        self._tasks += tasks
        self._held.arrive(tasks)
        return ""

    def _release(self, one: Operation) -> str | None:
        if not self._held or not self._tasks:
            return None
        self._held.release(min(self._tasks, int(one.args["tasks"])))
        return ""

    def _reenqueue(self, one: Operation) -> str | None:
        return "" if self._held and self._held.reenqueue() else None

    def _regroup(self, one: Operation) -> str | None:
        if not self._held or not self._tasks:
            return None
        self._held.regroup(min(self._tasks, int(one.args["tasks"])))
        return ""

    def _look(self, one: Operation) -> str | None:
        if not self._held:
            return None
        self._held.check()
        return ""

    def _destroy_held(self, one: Operation) -> str | None:
        if not self._held or not self._tasks:
            return None
        self._context.expect(IN_USE)
        self._dsq.api.run("destroy", dsq_context(DSQ))
        self._gone(IN_USE)
        return ""

    def _intrude(self, one: Operation) -> str | None:
        if not self._held or not self._tasks:
            return None
        self._context.expect(r"already had (?:FIFO|PRIQ)-enqueued tasks")
        self._gone(f"already had {self._held.intrude()}-enqueued tasks")
        return ""

    def _gone(self, says: str) -> None:
        held, self._held = self._held, None
        if held is None:
            raise HarnessError("no scheduler holds tasks", step="report this sequence of moves")
        held.ejected(says)
        self._dsq.ejected(held.scheduler)
        held.scheduler.unload()

    def _let_go(self, one: Operation) -> str | None:
        if not self._held:
            return None
        held, self._held = self._held, None
        if self._tasks:  # where a count is wrong the end of the tasks may hang
            held.count_one_less()
        with self.spent.on("loads", 0):
            held.dismiss()
        held.scheduler.unload()
        return ""

    # --- the end ------------------------------------------------------------------------

    def _tidy(self, one: Operation) -> str | None:
        """Compare the set of live DSQs, then remove everything."""
        self._subs.tidy()
        self._dsq.check_live()
        self._let_go(one)
        while self._linked:
            self._detach(Operation("detach", {"which": 0}))
        self._rest(one)
        for dsq_id in sorted(self._dsq.model.live()):  # where DSQs need no scheduler
            self._dsq.destroy(dsq_id)
        if self._context.guest.read(STATE).strip() != "disabled":
            raise GuestError("a scheduler is still there after all were detached")
        return None
