# SPDX-License-Identifier: GPL-2.0-only
"""Owns operations under an entry of a fault plan: the BPF program that decides, armed for one, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from harness.errors import GuestError
from harness.faults import plans
from harness.faults.cause import Cause
from harness.faults.knobs import PERCPU_ALLOC
from harness.faults.sites import RawSite
from harness.guest.guest import Answer, BpfObject, Tracers
from harness.machine.deadline import Deadline
from harness.plan import FaultPlan
from harness.records import Fault, FaultSite, Frame, Operation
from harness.suite.account import Account, Swept
from harness.suite.bench import Bench
from harness.suite.features import need
from harness.suite.operations import Action
from harness.suite.outcome import Inconclusive
from harness.suite.sweep import Faults
from harness.words import plural

PROGRAM = "fault_policy"
MAX_RANGES = 16
"""As in bpf_progs/fault_policy.bpf.c."""

TYPES = {"failslab": 1, "page": 2, "any": 3, "function": 4}
"""As in bpf_progs/fault_policy.bpf.c."""

PROGRAMS = {
    "failslab": ("fail_slab",),
    "page": ("fail_page",),
    "any": ("fail_slab", "fail_page"),
    "function": ("fail_percpu",),
}
"""Which of its programs these need."""

MOST = 10_000
"""Faults in one operation: a page fault that gets no memory is taken again at once, without end if all failed."""

WAITS = ("settled", "wait-file")
"""Verbs that ask until something is so: how often, and so what they allocate, differs from run to run."""

MISSES = 3
"""A sweep ends after so many allocations in a row that were not there."""

SWEEP_SECONDS = 120.0
OPERATION_MS = 60_000
"""Nominal times of a sweep, and of one operation."""

PERCPU_SITE = 1
"""The key of the call of alloc_percpu() that failed; those of the observer are hashes, 0 is none."""


@dataclass(frozen=True)
class Shot:
    """What became of a fault plan: how many allocations it was about, and how many of them were made to fail."""

    calls: int
    fired: int


@dataclass(frozen=True)
class Planned(Swept):
    """An operation under one entry of a plan, which is its own line."""

    line: str = ""

    def plan(self, nth: int) -> str:
        """The entry that was carried out."""
        return self.line


class PlanAccount(Account):
    """The account of one operation. A call of alloc_percpu() that failed is not among what the observer sees."""

    def add(self, site: RawSite) -> None:
        """Books this call as what failed."""
        self._raw[PERCPU_SITE] = site


def window(program: str, during: Sequence[Operation], first: Sequence[Operation] = ()) -> tuple[Operation, ...]:
    """The operations, with the program `live` while they are done, but not while it is waited for their end."""
    waits = [number for number, one in enumerate(during) if one.verb in WAITS]
    end = waits[0] if waits else len(during)
    return (*first, live(program, 1), *during[:end], live(program, 0), *during[end:])


def live(program: str, value: int) -> Operation:
    """The store into the program's memory by which the agent lets it count, without asking the kernel."""
    return Operation("set", {"name": program, "var": "live", "value": value})


def settings(fault: Fault) -> dict[str, int]:
    """The program's variables, but for threads and text, which are the guest's."""
    return {
        "types": TYPES[fault.what], "nth": fault.nth or 0, "every": fault.every or 0,
        "probability": fault.probability or 0, "seed": fault.seed or 0, "times": MOST,
        "calls": 0, "fired": 0, "fired_depth": 0,
    }  # fmt: skip


class Policy:
    """Operations on one guest, each under a fault that is decided the same way each time."""

    def __init__(
        self, bench: Bench, faults: Faults, optional: Callable[[FaultSite], str] = lambda site: ""
    ) -> None:
        self._bench = bench
        self._guest = bench.guest
        self._faults = faults
        self._optional = optional
        self._program: BpfObject | None = None
        self._attached: set[str] = set()

    def carry_out(self, plan: FaultPlan, action: Action) -> Shot:
        """The operation under the fault, or under each one of a plan that does not say which.

        What is wrong with how it ended becomes a finding of the test. Skips on a kernel that has not the functions;
        raises Inconclusive where there is no such thread.
        """
        fault = plan.fault
        if any(getattr(fault, which) is not None for which in plans.WHICH):
            seed = fault.seed if fault.seed is not None or fault.probability is None else self._bench.seed
            return self._shoot(replace(plan, fault=replace(fault, seed=seed)), action)
        if fault.what == "any" and not fault.within:
            return self._sweep_all(plan, action)
        return self._sweep(plan, action)

    @contextmanager
    def armed(self, fault: Fault, thread: int, within: Sequence[str] = ()) -> Iterator[BpfObject]:
        """The program, armed for the block, in which :func:`window` lets it decide; `thread` 0 is everybody."""
        if self._program is None:
            self._program = self._guest.load(PROGRAM)
            bits = {name: number for number, name in self._bench.ready.gfp_bits.items()}
            self._program.set("gfp_nofail", 1 << bits["NOFAIL"])
        for name in PROGRAMS[fault.what]:
            if name not in self._attached:
                self._program.attach(name)
                self._attached.add(name)
        spans = {"": self.spans(fault.within or within), "caller_": self.spans([fault.caller] if fault.caller else [])}
        for prefix, ranges in spans.items():
            for number, (start, end) in enumerate(ranges):
                self._program.set(f"{prefix}starts", start, number)
                self._program.set(f"{prefix}ends", end, number)
        numbers = {"nr_ranges": len(spans[""]), "nr_callers": len(spans["caller_"]), "only_tid": thread}
        for name, value in {**settings(fault), **numbers}.items():
            self._program.set(name, value)
        yield self._program
        self._program.set("types", 0)

    def spans(self, functions: Sequence[str]) -> list[tuple[int, int]]:
        """The text of functions, clones and namesakes included."""
        found = self._bench.ready.symbols.ranges(functions)
        for function in functions:
            need(bool(found[function]), f"function {function}")
        spans = [span for function in functions for span in found[function]]
        if len(spans) > MAX_RANGES:
            raise GuestError(f"{', '.join(functions)} have {len(spans)} text ranges", step="name fewer functions")
        return spans

    # --- one fault ----------------------------------------------------------------------

    def _shoot(self, plan: FaultPlan, action: Action) -> Shot:
        """The operation, once, under a fault."""
        fault = plan.fault
        under = tuple(fault.within) or ((fault.caller,) if fault.caller else action.under)
        thread = "" if fault.task in ("self", "all") else fault.task
        swept = Planned(action.name, thread, action.allowed, under, line=plans.line(plan))
        observer, ledger = self._faults.observer, self._faults.ledger(action.under, deep=True)
        self._prepare(action)
        everybody = fault.task == "all"
        tid = 0 if everybody else self._thread(plan)
        with (
            self._bench.under(Cause(action.name, fault=swept.line)),
            self.armed(fault, tid, (action.within,) if action.within else ()) as program,
            self._bench.arming(whole=False),
        ):
            watch = Operation("set", {"name": observer.name, "var": "watch_tid", "value": -1})
            got = self._guest.sweep(
                window(program.name, action.during, [watch] if everybody else []), (),
                (live(program.name, 0), *action.after), Tracers(observer, ledger, action.name), thread,
                every=1, to=1, misses=1, budget_ms=OPERATION_MS, fine=action.allowed.fine, all=int(not everybody),
            )  # fmt: skip
            if got is None:
                raise Inconclusive(f"{swept.line}: thread {thread} is gone")
            self._guest.settle()
            left = self._guest.agent.call("left", record=False, name=ledger.name)
        return self._book(fault, swept, got, left, observer, ledger)

    def _prepare(self, action: Action) -> None:
        """What comes before the operation; here, since a thread may be there only from then on."""
        for one in action.before:
            self._guest.agent.call(one.verb, **one.args)

    def _thread(self, plan: FaultPlan) -> int:
        task = plan.fault.task
        if task == "self":
            return self._guest.tid()
        tid = self._guest.thread(task)
        if not tid:
            what = f"{plans.line(plan)}: there is no thread {task} when {plan.operation} is done"
            raise Inconclusive(what, step="name another, self, or all")
        return tid

    def _book(
        self, fault: Fault, swept: Planned, got: Answer, left: Answer, observer: BpfObject, ledger: BpfObject
    ) -> Shot:
        """What the agent counted, onto the test."""
        assert self._program is not None
        seen = self._program.get("calls", "fired", "fired_caller", "fired_depth", "fired_stack")
        shot = Shot(seen["calls"], seen["fired"])
        due = min(MOST, sum(plans.chosen(fault, number) for number in range(1, shot.calls + 1)))
        if shot.fired != due:
            told = f"of {plural(shot.calls, 'allocation')} {shot.fired} failed, {due} should have"
            raise GuestError(f"{swept.line}: {told}")
        lost = observer.get("lost")["lost"], ledger.get("lost")["lost"]
        if any(lost):
            raise GuestError(f"{plural(lost[0], 'fault observation')} and {plural(lost[1], 'object')} found no room")
        account = PlanAccount(self._bench, observer, swept, self._optional)
        if fault.what == "function" and shot.fired:
            account.add(RawSite("function", self._caller(seen), reached=shot.calls, injected=shot.fired))
            got, left = booked_on(PERCPU_SITE, got, left, swept.allowed.fine)
        account.close(got, left)
        observer.clear("sites")
        ledger.clear("objects")
        return shot

    def _caller(self, seen: Answer) -> tuple[Frame, ...]:
        """Who made the call of alloc_percpu() that failed last."""
        stack = seen["fired_stack"][: seen["fired_depth"]]
        caller = seen["fired_caller"]
        outer = stack[stack.index(caller) + 1 :] if caller in stack else stack[1:]
        return (Frame(PERCPU_ALLOC), *self._bench.ready.symbols.chain([0, caller, *outer])[1:])

    # --- each allocation once -----------------------------------------------------------

    def _sweep_all(self, plan: FaultPlan, action: Action) -> Shot:
        """Without a restriction that is what the suite's own sweeps do."""
        thread = {"self": "", "all": None}.get(plan.fault.task, plan.fault.task)
        before = len(self._faults.rates)
        if self._faults.sweep(action, thread=thread) is None:
            raise Inconclusive(f"{plans.line(plan)}: there is no such thread", step="name another, self, or all")
        fired = sum(rate.injected for rate in self._faults.rates[before:])
        return Shot(fired, fired)

    def _sweep(self, plan: FaultPlan, action: Action) -> Shot:
        """The first allocation that the plan is about, then the second, until there are no more."""
        deadline = Deadline(SWEEP_SECONDS * self._bench.ready.pristine.scale, f"the end of {plans.line(plan)}")
        nth, missed, fired = 0, 0, 0
        while missed < MISSES:
            nth += 1
            shot = self._shoot(replace(plan, fault=replace(plan.fault, nth=nth)), action)
            fired += shot.fired
            missed = 0 if shot.fired else missed + 1
            if deadline.expired:
                raise GuestError(f"{deadline}: it came to allocation {nth}", step="narrow it down, with within")
        return Shot(shot.calls, fired)


def booked_on(site: int, got: Answer, left: Answer, fine: int) -> tuple[Answer, Answer]:
    """The agent's account of a run in which its observer saw no fault, with `site` as the one that failed."""
    outcomes = [[site, *row[1:]] for row in got["outcomes"]] or [[site, fine, 0, 1, 1]]
    loud = [[site, *row[1:]] for row in got["loud"]]
    return {**got, "outcomes": outcomes, "loud": loud}, {**left, "left": [[site, *row[1:]] for row in left["left"]]}
