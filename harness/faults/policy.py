# SPDX-License-Identifier: GPL-2.0-only
"""Operations under an entry of a fault plan: the BPF program that decides, armed for one, and the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from harness.core.errors import GuestError, Inconclusive
from harness.core.plan import FaultPlan
from harness.core.records import Fault, FaultSite, Frame, Operation
from harness.core.words import plural
from harness.faults import plans, types
from harness.faults.account import Account, Swept
from harness.faults.actions import Action
from harness.faults.cause import Cause
from harness.faults.context import FaultContext
from harness.faults.knobs import PERCPU_ALLOC
from harness.faults.sites import RawSite
from harness.faults.sweep import Faults
from harness.guest.guest import Answer, BpfObject, Tracers
from harness.machine.deadline import Deadline
from harness.suite.needs import need

PROGRAM = "fault_policy"
MAX_RANGES = 16
"""As in bpf_progs/observers/fault_policy.bpf.c."""

MOST = 10_000
"""Most faults in one operation: a page fault that gets no memory is taken again at once, endlessly if all fail."""

WAITS = ("settled", "wait-file")
"""Verbs that poll: how often, and so how much they allocate, differs from run to run."""

MISSES = 3
"""A sweep ends after so many consecutive allocations that did not occur."""

SWEEP_SECONDS = 120.0
OPERATION_MS = 60_000
"""Nominal times of a sweep, and of one operation."""

PERCPU_SITE = 1
"""The key of the call of alloc_percpu() that failed; those of the observer are hashes, 0 is none."""


@dataclass(frozen=True)
class Shot:
    """The result of a fault plan: how many allocations it was about, and how many of them failed."""

    calls: int
    fired: int


@dataclass(frozen=True)
class Planned(Swept):
    """An operation under one entry of a plan, in which the entry's own line describes the fault."""

    line: str = ""

    def plan(self, nth: int) -> str:
        """The entry that was carried out."""
        return self.line


class PlanAccount(Account):
    """The account of one operation. The observer does not see failed calls of alloc_percpu()."""

    def add(self, site: RawSite) -> None:
        """Book this call as the one that failed."""
        self._raw[PERCPU_SITE] = site


def window(program: str, during: Sequence[Operation], first: Sequence[Operation] = ()) -> tuple[Operation, ...]:
    """The operations, with the program `live` while they are done, but not during waits for their end."""
    waits = [number for number, one in enumerate(during) if one.verb in WAITS]
    end = waits[0] if waits else len(during)
    return (*first, live(program, 1), *during[:end], live(program, 0), *during[end:])


def live(program: str, value: int) -> Operation:
    """The store into the program's memory by which the agent lets it count, without a system call."""
    return Operation("set", {"name": program, "var": "live", "value": value})


def programs_of(what: str) -> tuple[str, ...]:
    """Which of its programs these types need."""
    return tuple(program for one in types.chosen(what) for program in one.programs)


def settings(fault: Fault) -> dict[str, int]:
    """The program's variables, except threads and text ranges, which depend on the guest."""
    return {
        "types": types.policy(fault.what),
        "nth": fault.nth or 0,
        "every": fault.every or 0,
        "probability": fault.probability or 0,
        "seed": fault.seed or 0,
        "times": MOST,
        "calls": 0,
        "fired": 0,
        "fired_depth": 0,
    }


class Policy:
    """Operations on one guest, each under a fault that is chosen deterministically."""

    def __init__(
        self, context: FaultContext, faults: Faults, optional: Callable[[FaultSite], str] = lambda site: ""
    ) -> None:
        self._context = context
        self._guest = context.guest
        self._faults = faults
        self._optional = optional
        self._program: BpfObject | None = None
        self._attached: set[str] = set()

    def carry_out(self, plan: FaultPlan, action: Action) -> Shot:
        """Do the operation under the fault, or under each one of a plan that does not say which.

        A wrong ending becomes a finding of the test. Skips on a kernel without the functions; raises Inconclusive
        where there is no such thread.
        """
        fault = plan.fault
        if any(getattr(fault, which) is not None for which in plans.WHICH):
            seed = fault.seed if fault.seed is not None or fault.probability is None else self._context.seed
            return self._shoot(replace(plan, fault=replace(fault, seed=seed)), action)
        if fault.what == "any" and not fault.within:
            return self._sweep_all(plan, action)
        return self._sweep(plan, action)

    @contextmanager
    def armed(self, fault: Fault, thread: int, within: Sequence[str] = ()) -> Iterator[BpfObject]:
        """The program, armed for the block, in which :func:`window` lets it decide; `thread` 0 means all threads."""
        if self._program is None:
            self._program = self._guest.load(PROGRAM)
            bits = {name: number for number, name in self._context.target.gfp_bits.items()}
            self._program.set("gfp_nofail", 1 << bits["NOFAIL"])
        for name in programs_of(fault.what):
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
        """The text ranges of functions, including clones and functions of the same name."""
        found = self._context.target.symbols.ranges(functions)
        for function in functions:
            need(bool(found[function]), f"function {function}")
        spans = [span for function in functions for span in found[function]]
        if len(spans) > MAX_RANGES:
            raise GuestError(f"{', '.join(functions)} have {len(spans)} text ranges", step="name fewer functions")
        return spans

    # --- one fault ----------------------------------------------------------------------

    def _shoot(self, plan: FaultPlan, action: Action) -> Shot:
        """Do the operation once, under a fault."""
        fault = plan.fault
        under = tuple(fault.within) or ((fault.caller,) if fault.caller else action.under)
        thread = "" if fault.task in ("self", "all") else fault.task
        swept = Planned(action.name, thread, action.allowed, under, line=plans.line(plan))
        observer, ledger = self._faults.observer, self._faults.ledger(action.under, deep=True)
        for one in action.before:  # here, as a thread may exist only after them
            self._guest.agent.call(one.verb, **one.args)
        everybody = fault.task == "all"
        tid = 0 if everybody else self._thread(plan)
        with (
            self._context.under(Cause(action.name, fault=swept.line)),
            self.armed(fault, tid, (action.within,) if action.within else ()) as program,
            self._context.arming(whole=False),
        ):
            watch = Operation("set", {"name": observer.name, "var": "watch_tid", "value": -1})
            got = self._guest.sweep(
                window(program.name, action.during, [watch] if everybody else []),
                (),
                (live(program.name, 0), *action.after),
                Tracers(observer, ledger, action.name),
                thread,
                every=1,
                to=1,
                misses=1,
                budget_ms=OPERATION_MS,
                fine=action.allowed.fine,
                all=int(not everybody),
            )
            if got is None:
                raise Inconclusive(f"{swept.line}: thread {thread} is gone")
            self._guest.settle()
            left = self._guest.agent.call("left", record=False, name=ledger.name)
        return self._book(fault, swept, got, left, observer, ledger)

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
        """Book the agent's counts on the test."""
        assert self._program is not None
        seen = self._program.get("calls", "fired", "fired_caller", "fired_depth", "fired_stack")
        shot = Shot(seen["calls"], seen["fired"])
        due = min(MOST, sum(plans.chosen(fault, number) for number in range(1, shot.calls + 1)))
        if shot.fired != due:
            counted = f"of {plural(shot.calls, 'allocation')} {shot.fired} failed, {due} should have"
            raise GuestError(f"{swept.line}: {counted}")
        lost = observer.get("lost")["lost"], ledger.get("lost")["lost"]
        if any(lost):
            raise GuestError(f"{plural(lost[0], 'fault observation')} and {plural(lost[1], 'object')} did not fit")
        account = PlanAccount(self._context, observer, swept, self._optional)
        if fault.what == "function" and shot.fired:
            account.add(RawSite("function", self._caller(seen), reached=shot.calls, injected=shot.fired))
            got, left = booked_on(PERCPU_SITE, got, left, swept.allowed.fine)
        account.close(got, left)
        observer.clear("sites")
        ledger.clear("objects")
        return shot

    def _caller(self, seen: Answer) -> tuple[Frame, ...]:
        """The chain of the call of alloc_percpu() that failed last."""
        stack = seen["fired_stack"][: seen["fired_depth"]]
        caller = seen["fired_caller"]
        outer = stack[stack.index(caller) + 1 :] if caller in stack else stack[1:]
        return (Frame(PERCPU_ALLOC), *self._context.target.symbols.chain([0, caller, *outer])[1:])

    # --- each allocation once -----------------------------------------------------------

    def _sweep_all(self, plan: FaultPlan, action: Action) -> Shot:
        """Fail each allocation once, in each thread; without a restriction that is what the suite's own sweeps do."""
        thread = {"self": "", "all": None}.get(plan.fault.task, plan.fault.task)
        before = len(self._faults.rates)
        if self._faults.sweep(action, thread=thread) is None:
            raise Inconclusive(f"{plans.line(plan)}: there is no such thread", step="name another, self, or all")
        fired = sum(rate.injected for rate in self._faults.rates[before:])
        return Shot(fired, fired)

    def _sweep(self, plan: FaultPlan, action: Action) -> Shot:
        """Fail the first allocation that the plan is about, then the second, until there are no more."""
        deadline = Deadline(SWEEP_SECONDS * self._context.target.pristine.scale, f"the end of {plans.line(plan)}")
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
    """The agent's account of a run in which its observer saw no fault, with `site` as the failed one."""
    outcomes = [[site, *row[1:]] for row in got["outcomes"]] or [[site, fine, 0, 1, 1]]
    loud = [[site, *row[1:]] for row in got["loud"]]
    return {**got, "outcomes": outcomes, "loud": loud}, {**left, "left": [[site, *row[1:]] for row in left["left"]]}
