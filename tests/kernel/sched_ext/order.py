# SPDX-License-Identifier: GPL-2.0-only
"""Tasks that are held on one DSQ: arrivals, releases, and whether the kernel's order is the model's."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.core.errors import Disagreed, GuestError
from harness.core.wire import Binary
from harness.guest.guest import BpfObject, Workload
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from harness.session.load import wait_for_progress, whereabouts
from sched_ext.dsq import SCHED_EXT, STALLED, STATE, Dsqs, HeldTooLong
from sched_ext.model.order import Event, Kind, Replay
from sched_ext.sub import CGROUP_ROOT

PROGRAM = "dsq_held"
DSQ = 7
CPU = 0
"""As in bpf_progs/sched_ext/dsq_held.bpf.c; tasks of one CPU, so that what is seen of them has one order."""

REGROUPED = "/held"
"""Tasks change between this cgroup and the hierarchy's root."""

MAX_EVENTS, MAX_TASKS = 4096, 256
"""As there."""

NAP_US = 3000
"""How long a task that ran sleeps before it comes back."""

ARRIVE_SECONDS = 10.0
COUNT_SECONDS = 2.0
EVERY = 1 << 32
EVENTS = ("event_kinds", "event_pids", "event_vtimes", "event_flags")


class HeldTasks:
    """A scheduler that holds its tasks, and the model of its DSQ. Every comparison is counted."""

    def __init__(self, context: TestContext, dsq: Dsqs, vtimes: Sequence[int] = ()) -> None:
        self._context = context
        self._dsq = dsq
        self._guest = context.guest
        self._replay = Replay(bool(vtimes), dsq.model.features.source)
        self._fed = 0
        self._loads: list[Workload] = []
        self._tasks = 0
        self._grouped = False
        self._away: set[int] = set()
        context.expect(STALLED)
        self.scheduler: BpfObject = dsq.attach(PROGRAM, [(DSQ, -1)])
        for number, vtime in enumerate(vtimes):  # no task is there yet
            self.scheduler.set("vtimes", vtime, number)
        self.scheduler.set("nr_vtimes", len(vtimes))

    # --- what is done -------------------------------------------------------------------

    def arrive(self, tasks: int) -> None:
        """Start so many more tasks; returns when all tasks are on the DSQ."""
        self._loads.append(self._guest.work("sleep", tasks, us=NAP_US, cpu=CPU, policy=SCHED_EXT))
        self._tasks += tasks
        self.gather()

    def gather(self) -> None:
        """Wait until every task is on the DSQ, and compare."""
        try:
            self._until(f"{self._tasks} tasks to lie on the DSQ", self._gathered)
        except HeldTooLong:
            raise
        except GuestError:
            self.check()  # it may be the count that is wrong
            raise
        self.check()

    def release(self, tasks: int) -> None:
        """Let so many tasks go, wait until they ran and are back, and compare."""
        self._let_go(tasks)
        self.gather()

    def count_one_less(self) -> None:
        """Let one task go and compare the count with the tasks on the DSQ, whether it comes back or not.

        Cheaper than :meth:`release`; for a moment the two may differ.
        """
        self._let_go(1)
        deadline = Deadline(COUNT_SECONDS * self._dsq.scale, "count and tasks of the DSQ to be equal")
        while (count := self._count()) != (lying := self._number("nr_queued")):
            if deadline.expired:
                return self._judge(self._miscounted(count, lying))
        self._judge("")

    def _let_go(self, tasks: int) -> None:
        """Let so many tasks go, and wait until they left. Raises Disagreed where they do not.

        A CPU whose local DSQ counts tasks that are gone takes no others: balance_one() then skips ops.dispatch.
        """
        before = self._number("nr_moved")
        self.scheduler.run("release", Binary("Q", tasks))
        try:
            self._until(f"{tasks} tasks to leave the DSQ", lambda: self._number("nr_moved") >= before + tasks)
        except GuestError as error:
            self.check()
            where = self._where("consume_dispatch_q, or the count of the local DSQ: task_unlink_from_dsq")
            raise Disagreed(f"no task is moved off a DSQ that holds some ({where})") from error

    def reenqueue(self) -> bool:
        """scx_bpf_dsq_reenq(): every task is re-enqueued, then all is compared; False where the kernel has none."""
        before = self._number("nr_inserted")
        (answer,) = self.scheduler.run("reenqueue", Binary("Q", 0))
        if answer == -errno.EOPNOTSUPP:
            return False
        try:
            self._until(
                f"{self._tasks} tasks to be re-enqueued (scx_bpf_dsq_reenq)",
                lambda: self._number("nr_inserted") >= before + self._tasks,
            )
        except HeldTooLong:
            raise
        except GuestError as error:
            self.check()
            done, where = self._number("nr_inserted") - before, self._where("process_deferred_reenq_users, reenq_user")
            raise Disagreed(f"{done} of {self._tasks} tasks on the DSQ were re-enqueued ({where})") from error
        self.gather()
        return True

    def regroup(self, tasks: int) -> None:
        """The first so many tasks on the DSQ change their cgroup, one after the other; then all is compared.

        The kernel takes each off and calls ops.enqueue once, as for one that arrives: it goes to the end of a FIFO
        (sched_move_task(), enqueue_task_scx()).
        """
        if not self._grouped:
            self._guest.write(f"{CGROUP_ROOT}/cgroup.subtree_control", "+cpu")  # else they stay in one task group
            self._guest.agent.call("mkdir", path=f"{CGROUP_ROOT}{REGROUPED}")
            self._grouped = True
        before, moving = self._number("nr_inserted"), self._replay.order()[:tasks]
        for pid in moving:
            self._guest.write(f"{CGROUP_ROOT}{'' if pid in self._away else REGROUPED}/cgroup.procs", str(pid))
            self._away ^= {pid}
        asked, where = self._number("nr_inserted") - before, self._where("enqueue_task_scx")
        wrong = f"ops.enqueue is called {asked} times for {len(moving)} tasks that change their cgroup ({where})"
        self._judge("" if asked == len(moving) else wrong)
        self.gather()

    def _ungroup(self) -> None:
        """Remove the cgroup after all tasks are gone."""
        if self._grouped:
            self._guest.wait_for(f"{CGROUP_ROOT}{REGROUPED}/cgroup.events", "populated 0")
            self._guest.agent.call("rmdir", path=f"{CGROUP_ROOT}{REGROUPED}")
            self._guest.write(f"{CGROUP_ROOT}/cgroup.subtree_control", "-cpu")

    def intrude(self) -> str:
        """Start one more task, whose order is of the other kind than that of the DSQ.

        Returns the DSQ's kind in the kernel's message (dispatch_enqueue()).
        """
        self.scheduler.set("nr_vtimes", 0 if self._replay.by_vtime else 1)
        self._loads.append(self._guest.work("sleep", us=NAP_US, cpu=CPU, policy=SCHED_EXT))
        return "PRIQ" if self._replay.by_vtime else "FIFO"

    def ejected(self, says: str) -> None:
        """Wait until the kernel ejects the scheduler with this message; its tasks continue without it."""
        self._until("the scheduler to be ejected", lambda: bool(self._number("exited")), stays=False)
        message = str(self.scheduler.get("exit_msg")["exit_msg"])
        wrong = f"the scheduler was ejected for {message!r}, not for {says!r} ({self._where('scx_error')})"
        self._judge("" if says in message else wrong)
        wait_for_progress(self._context, *self._loads)
        for load in self._loads:
            load.kill()
        self._ungroup()
        self.scheduler.detach()

    def dismiss(self) -> None:
        """End all tasks, for which they must run, wait until none is on the DSQ, and detach."""
        self.scheduler.run("release", Binary("Q", EVERY))
        for load in self._loads:
            load.kill()
        self._tasks = 0
        self._until("the DSQ to be empty", lambda: self._count() == 0)
        self._ungroup()
        self._dsq.detach(self.scheduler)
        self._guest.wait_for(STATE, "disabled")

    # --- what is compared ---------------------------------------------------------------

    def _miscounted(self, count: int, lying: int) -> str:
        where = self._where("dispatch_enqueue, task_unlink_from_dsq")
        return f"scx_bpf_dsq_nr_queued() answers {count} with {lying} tasks on the DSQ ({where})"

    def _gathered(self) -> bool:
        """Whether the kernel counts every task; or none is on its way any more, so that the count is final.

        A task that was about to be queued is queued once each CPU has run another: that is under a runqueue's lock.
        """
        if self._count() == self._tasks:
            return True
        if not self._all_lie():
            return False
        self._guest.visit(self._context.target.machine.spec.online_cpus)
        return self._all_lie()

    def _all_lie(self) -> bool:
        """Whether every task is on the DSQ according to the events."""
        self._feed()
        return len(self._replay.order()) == self._tasks and not self._replay.moved

    def _where(self, function: str) -> str:
        return f"{self._replay.source}: {function}"

    def check(self) -> None:
        """Compare order, count and first task with the DSQ's state after the events; no task may be on its way."""
        count = self._count()
        if count < 0:
            ended = self.scheduler.get("exited", "exit_reason", "exit_msg", "let_go")
            self._held_too_long(ended)
            how = f"{ended['exit_reason']}: {ended['exit_msg']}" if ended["exited"] else "without a word"
            state = self._guest.read(STATE).strip()
            where = self._where("scx_bpf_dsq_nr_queued")
            self._judge(f"the scheduler with the DSQ is gone, {how} ({state}; {where} answers {count})")
        seen = self.scheduler.get("nr_queued", "queued", most=MAX_TASKS)
        self._feed()
        wanted, got = self._replay.order(), seen["queued"][: seen["nr_queued"]]
        where = self._where("scx_dsq_priq_less" if self._replay.by_vtime else "dispatch_enqueue")
        self._judge("" if got == wanted else f"the DSQ holds the tasks {got}, the model {wanted} ({where})")
        self._judge("" if count == len(got) else self._miscounted(count, len(got)))
        (first,) = self.scheduler.run("peek", Binary("Q", 0))
        if first != -errno.EOPNOTSUPP:
            head = wanted[0] if wanted else 0
            where = self._where("scx_bpf_dsq_peek")
            wrong = f"scx_bpf_dsq_peek() answers task {first}, the model {head} ({where})"
            self._judge("" if first == head else wrong)

    def _feed(self) -> None:
        """Feed the model the new events."""
        total = self._number("nr_events")
        if total > MAX_EVENTS:
            step = "raise MAX_EVENTS in dsq_held.bpf.c"
            raise GuestError(f"{total} events, {MAX_EVENTS} were written down", step=step)
        rows = self.scheduler.get(*EVENTS, most=total) if total else dict.fromkeys(EVENTS, ())
        for kind, pid, vtime, flags in list(zip(*(rows[name] for name in EVENTS), strict=True))[self._fed : total]:
            if not kind:  # its slot is taken, and not written yet
                return
            self._fed += 1
            self._judge(self._replay.feed(Event(Kind(kind), pid, vtime, flags)) or "")

    def _number(self, name: str) -> int:
        return int(self.scheduler.get(name)[name])

    def _count(self) -> int:
        (count,) = self.scheduler.run("look", Binary("Q", 0))
        return count

    def _judge(self, problem: str) -> None:
        self._context.count_model(1, 1, problem or None)
        if problem:
            raise Disagreed(problem)

    def _held_too_long(self, ended: Mapping[str, Any]) -> None:
        """Raise HeldTooLong where that is why the scheduler was ejected."""
        if ended["exited"] and STALLED in ended["exit_msg"] and not ended["let_go"]:
            raise HeldTooLong.by(ended["exit_msg"])

    def _until(self, what: str, happened: Callable[[], bool], *, stays: bool = True) -> None:
        """Wait until something happened; nominal ARRIVE_SECONDS.

        Raises Disagreed where the scheduler has to stay meanwhile and does not, GuestError where nothing happens, or
        where tasks were held for too long for the kernel's watchdog (check_rq_for_timeouts()).
        """
        deadline = Deadline(ARRIVE_SECONDS * self._dsq.scale, what)
        while not happened():
            ended = self.scheduler.get("exited", "exit_msg", "let_go")
            if stays and ended["exited"]:
                self._held_too_long(ended)
                raise Disagreed(f"the kernel ejected the scheduler: {ended['exit_msg']}")
            if deadline.expired:
                raise GuestError(f"{deadline}; {self._whereabouts()}")

    def _whereabouts(self) -> str:
        """The state of each task that is not on the DSQ."""
        seen = self.scheduler.get("nr_queued", "queued", most=MAX_TASKS)
        away = {pid for load in self._loads for pid in load.pids} - set(seen["queued"][: seen["nr_queued"]])
        return "; ".join(whereabouts(self._guest, pid) for pid in sorted(away)) or "all lie on it now"
