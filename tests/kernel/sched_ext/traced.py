# SPDX-License-Identifier: GPL-2.0-only
"""A scheduler whose tasks are traced on every CPU: its scripts, and the verdict on its trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.core.errors import Disagreed, GuestError, Inconclusive
from harness.core.records import Evidence
from harness.core.wire import Binary
from harness.guest.guest import BpfObject, Workload
from harness.machine.deadline import Deadline
from harness.session.context import TestContext
from sched_ext.dsq import SCHED_EXT, STALLED, STATE, Dsqs, HeldTooLong
from sched_ext.model.event import LOCAL_DSQ, NO_DSQ, Event, Flag, Kind
from sched_ext.model.traced import Found, Trace

PROGRAM = "dsq_traced"
FIRST_DSQ, NR_DSQS = 64, 4
MAX_EVENTS, MAX_SCRIPT, MAX_WORDS = 131072, 256, 24
"""As in bpf_progs/sched_ext/dsq_traced.bpf.c."""

ARRIVALS, VTIMES, MOVES, SLICES = range(4)
"""Its scripts, as there."""

FULL = f"{PROGRAM}.bpf.c has room for {MAX_EVENTS} events, and there were more"

ORACLE = "trace"
LENGTHS = (20_000_000, 1, 1_000_000, 0, (1 << 64) - 1, (1 << 64) - 2, 1 << 63, 3_000_000)
"""Slices in nanoseconds: the default, the least, none (it keeps its own), SCX_SLICE_INF and one less."""

U64 = (1 << 64) - 1
NEAR_ITS_END = U64 - 500
"""Virtual times wrap: they are drawn from both sides of the end of their type."""

PROBES = ("on_wakeup", "on_wakeup_new", "on_switch")
COLUMNS = (
    "event_begins",
    "event_ends",
    "event_times",
    "event_words",
    "event_pids",
    "event_vtimes",
    "event_slices",
    "event_masks",
)
PATIENCE_SECONDS = 10.0
KILL_SECONDS = 60.0
"""Nominal seconds for the agent to wait for all tasks: a killed one waits for its turn on a DSQ before it ends."""

CUSTODY = "ops.dequeue for tasks that leave a user DSQ"


def script(seed: int) -> tuple[list[int], ...]:
    """The scripts: what the program does with each arrival and each dispatch.

    Every second dispatch moves a task to another DSQ or to its CPU before it takes one; few virtual times, so that
    some are equal.
    """
    draw = random.Random(seed)
    arrivals = [
        draw.randrange(NR_DSQS) | (draw.random() < 0.3) << 8 | draw.randrange(len(LENGTHS)) << 16
        for _ in range(MAX_SCRIPT)
    ]
    vtimes = [(NEAR_ITS_END + 10 * draw.randrange(100)) & U64 for _ in range(MAX_SCRIPT)]
    moves = []
    for _ in range(MAX_SCRIPT):
        source = draw.randrange(NR_DSQS)
        others = [dsq for dsq in range(NR_DSQS) if dsq != source]
        moves.append(source | draw.choice([NO_DSQ] * 4 + others + [LOCAL_DSQ]) << 8)
    return arrivals, vtimes, moves, list(LENGTHS)


class TracedTasks:
    """A scheduler on which SCHED_EXT tasks run, and its trace, which :meth:`end` judges."""

    def __init__(self, context: TestContext, dsq: Dsqs) -> None:
        self._context = context
        self._dsq = dsq
        self._guest = context.guest
        self._held = False
        self.loads: list[Workload] = []
        self._beside: list[str] = []
        self._guest.agent.patience = KILL_SECONDS
        creates = [(FIRST_DSQ + number, -1) for number in range(NR_DSQS)]
        self.scheduler: BpfObject = dsq.attach(PROGRAM, creates, nr_cpus=context.target.machine.spec.online_cpus)
        for which, lines in enumerate(script(context.seed)):
            self.write_script(which, lines)
        self.scheduler.set("nr_script", MAX_SCRIPT)
        for probe in PROBES:
            self.scheduler.attach(probe)

    # --- what is done -------------------------------------------------------------------

    def write_script(self, which: int, lines: Sequence[int]) -> None:
        """Writes a script, from its first line on."""
        for first in range(0, len(lines), MAX_WORDS):
            words = lines[first : first + MAX_WORDS]
            context = Binary(f"3Q{MAX_WORDS}Q", which, first, len(words), *words, *[0] * (MAX_WORDS - len(words)))
            self.scheduler.run("write_script", context, record=False)

    def work(self, kind: str, workers: int = 1, *, us: int = 2000, cpu: int = -1) -> Workload:
        """Starts SCHED_EXT tasks."""
        load = self._guest.work(kind, workers, us=us, cpu=cpu, policy=SCHED_EXT)
        self.loads.append(load)
        return load

    def hold(self) -> None:
        """Stop ops.dispatch from taking tasks off their DSQs.

        If the kernel ejects the scheduler for it (check_rq_for_timeouts()), the host was too slow: that stall is ours.
        """
        self._context.expect(STALLED)
        self._held = True
        self.scheduler.set("hold", 1)

    def let_go(self) -> None:
        """Let ops.dispatch take tasks again. Raises HeldTooLong if the kernel has ejected the scheduler for holding them."""
        self._alive()
        self.scheduler.run("let_go", Binary("QQ", 1, 0))
        self._held = False

    def count(self, dsq: int) -> int:
        """scx_bpf_dsq_nr_queued(); its answer is judged with the trace."""
        (answer,) = self.scheduler.run("count", Binary("QQ", dsq, 0), record=False)
        return answer

    def reenqueue(self, dsq: int, times: int = 1) -> None:
        """scx_bpf_dsq_reenq() from the agent's CPU."""
        self.scheduler.run("reenqueue", Binary("QQQ", dsq, times, 0))

    def reenqueue_beside(self, times: int, cpus: Iterable[int]) -> None:
        """The same for one DSQ after the other, from a task on each of these CPUs at once; :meth:`reap` waits."""
        where = list(cpus)
        self.scheduler.set("together", 0)
        for cpu in where:
            task = f"asks{cpu}"
            context = Binary("QQQ", NO_DSQ, times, len(where))
            self._guest.agent.call(
                "run-beside",
                name=self.scheduler.name,
                prog="reenqueue",
                ctx=self.scheduler.hex(context),
                task=task,
                cpu=cpu,
            )
            self._beside.append(task)

    def reap(self) -> None:
        """Wait for the tasks of :meth:`reenqueue_beside`."""
        for task in self._beside:
            patience = int(1000 * PATIENCE_SECONDS * self._dsq.scale)
            status = self._guest.agent.call("reap", record=False, name=task, timeout_ms=patience)["status"]
            if status:
                raise GuestError(f"{task} ended with status {status}")
        self._beside.clear()

    def gather(self, tasks: int) -> None:
        """Wait until so many tasks are on the DSQs."""
        try:
            self.until(f"{tasks} tasks to lie on the DSQs", lambda: sum(map(self.count, range(NR_DSQS))) == tasks)
        except GuestError:
            self.let_go()  # as in settled()
            raise

    def wait_for_reenqueues(self, total: int) -> None:
        """Wait until the number of re-enqueues is `total`; raises Disagreed for less, or for more."""
        waited = ""
        try:
            self.until(f"tasks to be re-enqueued {total} times", lambda: self.number("nr_reenqueued") >= total)
        except GuestError as error:
            waited = f"{error}: "
        got = self.number("nr_reenqueued")
        self._context.count_model(1, 1)
        if got != total:
            self.let_go()  # as in settled()
            where = f"{self._dsq.model.features.source}: reenq_user"
            raise Disagreed(f"{waited}tasks were re-enqueued {got} times, {total} lay on the DSQs ({where})")

    def settled(self) -> None:
        """Wait until every requested re-enqueue is done: no task is where it was when its re-enqueue was requested."""
        try:
            self.until("all reenqueues", lambda: not self._forgotten())
        except GuestError as error:
            problem = self._forgotten() or str(error)
            self.let_go()  # or the stall of held tasks would be reported as well
            raise Disagreed(problem) from error

    def _forgotten(self) -> str:
        if self.number("lost"):
            raise Inconclusive(FULL)
        trace = Trace(self.events(), self._dsq.model.features.source)
        found = trace.judge()
        if found.problem:
            raise Disagreed(found.problem)
        return trace.forgotten()

    def number(self, name: str) -> int:
        """One of the program's variables."""
        return int(self.scheduler.get(name)[name])

    def until(self, what: str, happened: Callable[[], bool]) -> None:
        """Wait until something happened, nominal PATIENCE_SECONDS.

        Raises Disagreed where the scheduler is ejected, GuestError where nothing happens.
        """
        deadline = Deadline(PATIENCE_SECONDS * self._dsq.scale, what)
        while not happened():
            self._alive()
            if deadline.expired:
                raise GuestError(str(deadline))

    def run(self, events: int) -> None:
        """Wait until so many events were recorded."""
        self.until(f"{events} events", lambda: self.number("nr_events") >= events)

    def _alive(self) -> None:
        ended = self.scheduler.get("exited", "exit_msg")
        if ended["exited"] and self._held and STALLED in ended["exit_msg"]:
            raise HeldTooLong.by(ended["exit_msg"])
        if ended["exited"]:
            raise Disagreed(f"the kernel ejected the scheduler: {ended['exit_msg']}")

    def end_load(self, load: Workload) -> None:
        """Ends these tasks."""
        load.kill()
        self.loads.remove(load)

    # --- its end ------------------------------------------------------------------------

    def end(self) -> Found:
        """Ends all tasks, the last first, detaches, and judges the trace; raises as :meth:`judge` does."""
        for load in reversed(self.loads):
            load.kill()
        self._alive()
        self._dsq.detach(self.scheduler)
        self._guest.wait_for(STATE, "disabled")
        return self.judge()

    def judge(self) -> Found:
        """Judge all recorded events, after the last of them.

        Raises Disagreed, or Inconclusive where it could not be decided. Where events were lost, which is lost evidence,
        no other is judged: what looks impossible may be what is missing.
        """
        lost = self.number("lost")
        if lost:
            self._context.evidence.append(Evidence(ORACLE, lost=lost, why=FULL))
            raise Inconclusive(FULL)
        trace = Trace(self.events(), self._dsq.model.features.source)
        found = trace.judge()
        self._context.count_model(found.events, found.operations, found.problem or None)
        self._context.evidence.append(Evidence(ORACLE, payload=found.events))
        if found.problem:
            raise Disagreed(found.problem)
        if found.undecided:
            raise Inconclusive(found.undecided)
        return found

    def events(self) -> Iterator[Event]:
        """The events recorded so far, in no order."""
        total = min(self.number("nr_events"), MAX_EVENTS)
        rows = self.scheduler.get(*COLUMNS, most=total) if total else dict.fromkeys(COLUMNS, ())
        for begin, end, time, word, pid, vtime, length, mask in zip(*(rows[name] for name in COLUMNS), strict=True):
            kind, cpu, rq, dsq, other, flags = (word >> shift & 255 for shift in range(0, 48, 8))
            yield Event(begin, end, Kind(kind), cpu, rq, pid, dsq, other, Flag(flags), vtime, length, mask, time)
