# SPDX-License-Identifier: GPL-2.0-only
"""Fault injection as tests see it: knobs armed in the guest, sites observed, every allocation failing once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.core.errors import Disagreed, GuestError
from harness.core.records import Fault, FaultSite, FaultSummary, Operation
from harness.core.wire import Binary
from harness.core.words import plural
from harness.faults import knobs, types
from harness.faults.account import Account, Swept
from harness.faults.actions import Action
from harness.faults.cause import Cause
from harness.faults.context import FaultContext
from harness.faults.endings import Allowed, words
from harness.faults.sites import Ended, key, total
from harness.guest.guest import Answer, BpfObject, Tracers

NOTHING = Swept("", "", Allowed(), ())
NO_OBJECTS: Answer = {"left": [], "count": 0}

ROUNDS = 6
"""A sweep is repeated until a round brings no new site, at most so often."""

PAGE_ROUNDS, PAGE_RUNS = 2, 20
"""Pages are allocated when a slab or chunk happens to be full, seldom in the run that fails them: so many rounds of so
many runs in which each page allocation fails."""

BUDGET_MS = 120_000
"""Nominal time of one round."""

PROGRAM_MS = 60_000
"""Nominal time of a sweep of a program. A test of 3000 creates took 4 s (x86_64) and 8 (arm64), 15 on a busy host."""


@dataclass(frozen=True)
class Rate:
    """How fast a sweep was: injections, and seconds of guest time in the sweep alone."""

    injected: int
    seconds: float


class Faults:
    """Fault injection on one guest. It observes the allocations of the agent's thread, or of the named one."""

    def __init__(self, context: FaultContext, optional: Callable[[FaultSite], str] = lambda site: "") -> None:
        self._context = context
        self._guest = context.guest
        self._optional = optional
        self._observer: BpfObject | None = None
        self._ledger: BpfObject | None = None
        self._attached: set[str] = set()
        self._inlined: dict[str, tuple[int, int]] = {}
        self.rates: list[Rate] = []

    # --- observers ----------------------------------------------------------------------

    @property
    def observer(self) -> BpfObject:
        """The tracing object that records each fault site, loaded and attached on first use."""
        if self._observer is None:
            self._observer = self._guest.load("fault_sites")
            for program in (one.observed_by for one in types.TYPES if one.observed_by):
                self._observer.attach(program)
            self._observer.attach("record_printed")
            start, end = self._context.target.symbols.extent()
            self._observer.set("text_start", start)
            self._observer.set("text_end", end)
        return self._observer

    def ledger(self, under: Sequence[str], *, deep: bool) -> BpfObject:
        """The tracing object that records objects allocated in functions; `deep`: also in their callees."""
        if self._ledger is None:
            self._ledger = self._guest.load("ledger")
        # A sweep of thousands of runs a second only records its own run, and direct allocations.
        for program in LEDGER_DEEP if deep else LEDGER_PROGRAMS:
            if program not in self._attached:
                self._ledger.attach(program)
                self._attached.add(program)
        found = self._context.target.symbols.ranges(under)
        spans = [span for name in under for span in found[name]]
        for number, (start, end) in enumerate(spans):
            self._ledger.set("starts", start, number)
            self._ledger.set("ends", end, number)
        self._ledger.set("nr_ranges", len(spans))
        self._ledger.set("deep", int(deep))
        return self._ledger

    def ranges(self, functions: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Text ranges of functions in the running kernel; functions with several ranges are left out."""
        found = self._context.target.symbols.ranges(functions)
        return {name: spans[0] for name, spans in found.items() if len(spans) == 1}

    def span(self, function: str) -> tuple[int, int] | None:
        """The text range with a function's allocations: its own range, or, where it was inlined, from the first to the
        last of its calls among the sites seen so far, if they are close together. None if there is neither.
        """
        own = self.ranges([function]).get(function) or self._inlined.get(function)
        if own:
            return own
        mine: set[int] = set()
        others: set[int] = set()
        for address, names in Account(self._context, self.observer, NOTHING).addresses().items():
            (mine if function in names else others).add(address)
        if not mine or any(min(mine) <= address <= max(mine) for address in others):
            return None
        self._inlined[function] = min(mine), max(mine) + 1
        return self._inlined[function]

    def met(self, function: str) -> bool:
        """Whether a site seen so far is below this function."""
        found = Account(self._context, self.observer, NOTHING).addresses().values()
        return any(function in names for names in found)

    def watch(self, *, everybody: bool = False, tid: int = 0) -> None:
        """Start to observe the agent's thread, or the named one; with `everybody` all, but only injected sites."""
        self.observer.set("only_injected", int(everybody))
        tid = tid or self._guest.tid()
        self.observer.set("watch_tid", -1 if everybody else tid)

    def stop_watching(self) -> None:
        """Stop observing."""
        self.observer.set("watch_tid", 0)

    def seen(self, operation: str, under: Sequence[str], *, handled: int) -> FaultSummary:
        """The sites observed since the last call, for operations of which `handled` ended with -ENOMEM.

        These are booked on the last site that fired, which ended them.
        """
        last = self.observer.get("lost", "last_site")
        if last["lost"]:
            step = "raise MAX_SITES in fault_sites.bpf.c"
            raise GuestError(f"{plural(last['lost'], 'fault observation')} did not fit", step=step)
        account = Account(self._context, self.observer, Swept(operation, "", Allowed(), tuple(under)))
        summary = account.observed({last["last_site"]: [Ended("handled", "-ENOMEM", handled)]} if handled else {})
        self.observer.clear("sites")
        self._context.count_faults(summary)
        return summary

    # --- one fault ----------------------------------------------------------------------

    @contextlib.contextmanager
    def armed(
        self, fault: Fault, operation: str = "", target: str = knobs.PERCPU_ALLOC, retval: int = 0
    ) -> Iterator[None]:
        """Arm `fault` for the block. A path with /proc/self means the agent, which does the operations.

        `target` is the function that a fault of type ``function`` makes return `retval`.
        """
        under = self._context.under(Cause(operation)) if operation else contextlib.nullcontext()
        with under, self._context.arming():
            try:
                for path, value in knobs.arm(fault, self._spans(fault.within), target, retval):
                    self._guest.write(path, value)
                yield
            finally:
                for path, value in knobs.disarm(fault):
                    self._guest.agent.call("write", check=False, path=path, data=value)

    def _spans(self, functions: Sequence[str]) -> dict[str, tuple[int, int]]:
        found = {name: self.span(name) for name in functions}
        return {name: span for name, span in found.items() if span}

    def fired_functions(self) -> int:
        """How often fail_function fired since it was armed for one call: its `times` counts down."""
        return 1 - int(self._guest.read(f"{knobs.FUNCTION}/times"))

    # --- every allocation once ----------------------------------------------------------

    def arm_nth(self, within: str = "") -> None:
        """Set the knobs so that fail-nth also fails sleeping allocations, below one function or anywhere.

        The agent arms fail-nth itself.
        """
        self._set(Fault(nth=1, within=(within,) if within else ()))

    def _set(self, fault: Fault) -> None:
        """Write all settings of a fault except the one that makes it live."""
        for path, value in knobs.arm(fault, self.ranges(fault.within))[:-1]:
            self._guest.write(path, value)

    def sweep_program(
        self,
        api: BpfObject,
        operation: str,
        programs: tuple[str, str, str],
        context: Binary,
        under: Sequence[str],
        *,
        repeat: int,
        budget_ms: int = PROGRAM_MS,
        **wanted: int,
    ) -> FaultSummary:
        """Fail every allocation of a SYSCALL program once, `repeat` times over; the run without a fault is kept.

        `programs` of the object `api` are the swept one, the one that undoes it and the one that checks whether it is
        there; `context` is their argument, whose first 8 bytes count up. `wanted` is how many objects a successful run
        must leave (``want_percpu``, ``want_slab``). After each fault the answer, the objects that are left, and the
        kernel log are judged. Sites that are not below `under` fail too, but are not counted.
        """
        self.arm_nth()
        swept = Swept(operation, "", Allowed(), tuple(under))
        tracers = Tracers(self.observer, self.ledger(under, deep=False), swept.operation)
        with self._context.arming(whole=False):
            program, undo, check = programs
            got = api.sweep(
                program, undo, check, context, tracers, repeat=repeat, keep=1, fifo=1, budget_ms=budget_ms, **wanted
            )
        if got["ids"] != repeat:
            raise GuestError(f"the sweep did {got['ids']} of {repeat} runs of {operation} in {budget_ms} ms")
        return self._close(swept, got, got)

    def sweep(self, action: Action, *, thread: str | None = None, budget_ms: int = BUDGET_MS) -> FaultSummary | None:
        """Fail every allocation of an operation once, in each of its threads or in the named one.

        Each thread is swept again until a round brings no new site. Returns None where the kernel has none of the
        threads.
        """
        self.arm_nth(action.within)
        threads = action.threads if thread is None else (thread,)
        done = [self._sweep_thread(action, name, budget_ms) for name in threads]
        there = [part for part in done if part is not None]
        return total(there) if there else None

    def once(self, action: Action) -> int:
        """Do and undo the operation without a fault; returns its answer, in the numbers of harness.faults.endings."""
        for one in action.before:
            self._step(one)
        answers = map(self._step, action.during)
        answer = next((answer for answer in answers if answer), 0)
        for one in action.after:
            self._step(one)
        return answer

    def _step(self, one: Operation) -> int:
        got = self._guest.agent.call(one.verb, check=False, **one.args)
        return int(got.get("ret", 0)) if got["ok"] else -int(got["errno"])

    def _sweep_thread(self, action: Action, thread: str, budget_ms: int) -> FaultSummary | None:
        """Sweep one thread in rounds, until one brings nothing new; then the sites that never failed."""
        swept = Swept(action.name, thread, action.allowed, action.under)
        done: list[FaultSummary] = []
        for _ in range(ROUNDS):
            summary = self._round(action, swept, budget_ms)
            if summary is None:
                return total(done) if done else None
            done.append(summary)
            if not _fresh(done):
                break
        for _ in range(PAGE_ROUNDS):
            if all(site.injected for site in total(done).sites if site.type == "page"):
                break
            summary = self._page_round(action, replace(swept, every=True), budget_ms)
            done += [summary] if summary else []
        return total(done)

    def _round(self, action: Action, swept: Swept, budget_ms: int, **settings: int) -> FaultSummary | None:
        ledger = self.ledger(swept.under, deep=True)
        label = f"{swept.operation} [{swept.thread}]" if swept.thread else swept.operation
        with self._context.arming(whole=False):
            got = self._guest.sweep(
                action.during,
                action.before,
                action.after,
                Tracers(self.observer, ledger, label),
                swept.thread,
                **{"misses": 3, "budget_ms": budget_ms, "fine": swept.allowed.fine, "all": 1, **settings},
            )
        if got is None:
            return None
        if got["stuck"] or got["unready"]:
            self._close(swept, got, NO_OBJECTS)
            raise Disagreed(_spoilt(swept, got))
        self._guest.settle()
        left = self._guest.agent.call("left", record=False, name=ledger.name)
        summary = self._close(swept, got, left)
        if left["count"] > len(left["left"]):
            step = "raise MAX_LEFT"
            raise GuestError(f"{left['count']} objects are left, {len(left['left'])} were reported", step=step)
        if not got["done"]:
            raise GuestError(f"the sweep came to allocation {got['next']} of {swept.operation} in {budget_ms} ms")
        return summary

    def _page_round(self, action: Action, swept: Swept, budget_ms: int) -> FaultSummary | None:
        """Fail every page allocation under test in each run: rare ones fail whenever they occur."""
        fault = Fault(what="page", probability=100, within=(action.within,) if action.within else ())
        try:
            self._set(fault)
            return self._round(action, swept, budget_ms, every=1, to=PAGE_RUNS, misses=PAGE_RUNS + 1)
        finally:
            for path, value in knobs.disarm(fault):
                self._guest.agent.call("write", check=False, path=path, data=value)

    def _close(self, swept: Swept, got: Answer, left: Answer) -> FaultSummary:
        lost = self.observer.get("lost")["lost"], self._ledger.get("lost")["lost"] if self._ledger else 0
        if any(lost):
            step = "raise MAX_SITES or MAX_OBJECTS in bpf_progs"
            what = f"{plural(lost[0], 'fault observation')} and {plural(lost[1], 'object')}"
            raise GuestError(f"{what} did not fit", step=step)
        self.rates.append(Rate(got["injected"], got["sweep_us"] / 1e6))
        summary = Account(self._context, self.observer, swept, self._optional).close(got, left)
        for tracer, name in ((self.observer, "sites"), (self._ledger, "objects")):
            if tracer is not None:
                tracer.clear(name)
        return summary


def _fresh(rounds: Sequence[FaultSummary]) -> bool:
    """Whether the last round failed a site, except of pages, that no round before had."""
    *before, last = ({key(site) for site in part.sites if site.injected and site.type != "page"} for part in rounds)
    return bool(last.difference(*before))


def _spoilt(swept: Swept, got: Answer) -> str:
    """The reason why a sweep could not continue."""
    if got["stuck"]:
        return f"{swept.operation} came to no end, its allocation {got['next']} being the last that was to fail"
    answered = words(got["unready"])
    if not got["runs"]:
        raise GuestError(f"{swept.operation} cannot be swept: the steps before it answered {answered}")
    return f"after {swept.operation} with a fault at allocation {got['next'] - 1} the steps before it answer {answered}"


LEDGER_PROGRAMS = ("percpu_allocated", "percpu_freed", "percpu_empty_handed", "slab_allocated", "slab_freed")
LEDGER_DEEP = (
    *LEDGER_PROGRAMS,
    "cache_allocated",
    "slab_freed_again",
    "cache_freed",
    "cache_freed_again",
    "freed_later",
)
"""Of bpf_progs/observers/ledger.bpf.c."""
