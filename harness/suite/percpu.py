# SPDX-License-Identifier: GPL-2.0-only
"""Owns the k-th alloc_percpu(): who calls it, and making exactly that call fail, on an unmodified kernel."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.errors import GuestError
from harness.faults.cause import Cause
from harness.faults.endings import Allowed, Ending, outcome, words
from harness.faults.plans import line
from harness.faults.sites import Ended, RawSite, normalise, summarise
from harness.guest.guest import BpfObject
from harness.oracles.blame import base_name, is_allocator
from harness.oracles.frames import culprit
from harness.plan import FaultPlan
from harness.records import Fault, Frame
from harness.suite.account import disputed
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.operations import CREATE
from harness.suite.sweep import Faults
from harness.suite.trials import Trials

ALLOC = "pcpu_alloc_noprof"
"""The function behind alloc_percpu() (mm/percpu.c)."""

PROGRAM = "fail_percpu"
MAX_CALLERS = 64
"""As in bpf_progs/fail_percpu.bpf.c."""


@dataclass(frozen=True)
class Callers:
    """The calls of alloc_percpu() that the source has in one function: their return addresses, wherever the compiler
    put that function. With neither, everybody's calls."""

    function: str = ""
    addresses: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One call that was to fail: whether it did, and the chain of functions that made it, innermost first."""

    cause: Cause
    frames: tuple[Frame, ...] = ()

    @property
    def fired(self) -> bool:
        return bool(self.frames)


class PercpuFaults:
    """The k-th alloc_percpu() fails. What an operation then leaves behind is written down under the fault's number."""

    def __init__(self, bench: Bench, faults: Faults) -> None:
        self._bench = bench
        self._guest = bench.guest
        self._trials = Trials(bench, faults)
        self._shim: BpfObject | None = None

    @property
    def shim(self) -> BpfObject:
        """The BPF program that lets calls fail, on pcpu_alloc_noprof() since its first use."""
        if self._shim is None:
            self._shim = self._guest.load(PROGRAM)
            self._shim.attach("alloc_percpu")
        return self._shim

    # --- who calls ----------------------------------------------------------------------

    def callers(self, dsq: Dsqs) -> Callers:
        """The calls by which DSQs get their percpu data: those of the function from which one create makes its own.

        Found by watching an attach and a create without a fault, so it holds whatever the function is called and
        wherever it was inlined. Raises GuestError where it is not one function.
        """
        self.shim.set("learn", 1)
        scheduler = dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
        every = self._seen()
        self.shim.set("only_tid", self._guest.tid())
        dsq.create(1)
        mine = self._seen()
        self.shim.set("learn", 0)
        dsq.detach(scheduler)
        scheduler.unload()
        chains = {address: self._chain([address]) for address in every | mine}
        found = {base_name(guilty.function) for a in mine if (guilty := culprit(chains[a], is_allocator))}
        if len(found) != 1:
            told = ", ".join(sorted(found)) or "none was seen"
            raise GuestError(f"which function allocates the percpu data of a DSQ is not clear: {told}")
        function = found.pop()
        addresses = [a for a, frames in chains.items() if function in {base_name(f.function) for f in frames}]
        return Callers(function, tuple(sorted(addresses)))

    def _seen(self) -> set[int]:
        found = {struct.unpack("<Q", key)[0] for key, _ in self.shim.dump("seen")}
        self.shim.clear("seen")
        return found

    def _chain(self, stack: Sequence[int]) -> tuple[Frame, ...]:
        """Return addresses as frames, with what was inlined there."""
        return self._bench.ready.symbols.chain([0, *stack])[1:]

    # --- a call fails -------------------------------------------------------------------

    @contextlib.contextmanager
    def failing(
        self, operation: str, callers: Callers, nth: int, *, thread: str = "", under: Sequence[str] = ()
    ) -> Iterator[list[Trial]]:
        """The `nth` of these calls, from 1, fails once within the block; with `thread` only that one's calls count, the
        asking one's if it is ``self``.

        After the block the list holds the Trial. Objects that are allocated within it under `under`, by the thread that
        asks and the one that enables, are written down: see :meth:`settle`.
        """
        made = (ALLOC, callers.function) if callers.function else (ALLOC,)
        cause = Cause(operation, "function", made, _plan(operation, callers, nth, thread))
        trials: list[Trial] = []
        self._arm(callers, thread)
        with self._trials.of(cause, under or CREATE) as number, self._bench.arming():
            self.shim.set("nth", nth)
            yield trials
            self.shim.set("nth", 0)
        trial = Trial(cause, self._fired())
        if trial.fired:
            trial = Trial(replace(cause, stack=normalise(frame.function for frame in trial.frames)), trial.frames)
        self._trials.learn(number, trial.cause)
        trials.append(trial)

    def _arm(self, callers: Callers, thread: str) -> None:
        for number, address in enumerate(callers.addresses[:MAX_CALLERS]):
            self.shim.set("callers", address, number)
        asking = self._guest.tid()
        only = asking if thread == "self" else self._guest.thread(thread) if thread else 0
        if thread and not only:
            raise GuestError(f"there is no thread {thread}")
        for name, value in (
            ("nr_callers", len(callers.addresses)), ("only_tid", only), ("calls", 0), ("fired", 0), ("fired_depth", 0),
        ):  # fmt: skip
            self.shim.set(name, value)

    def _fired(self) -> tuple[Frame, ...]:
        """Who made the call that failed; empty if none did."""
        seen = self.shim.get("fired", "fired_caller", "fired_depth", "fired_stack")
        if not seen["fired"]:
            return ()
        stack = seen["fired_stack"][: seen["fired_depth"]]
        caller = seen["fired_caller"]
        outer = stack[stack.index(caller) + 1 :] if caller in stack else stack[1:]
        return (Frame(ALLOC), *self._chain([caller, *outer]))

    def unload(self) -> None:
        """Takes the program off alloc_percpu()."""
        if self._shim is not None:
            self._shim.unload()
            self._shim = None

    # --- what came of it ----------------------------------------------------------------

    def book(self, trial: Trial, answer: int, allowed: Allowed, under: Sequence[str]) -> None:
        """Books the fault on the test: what the operation answered, which must be one of the allowed errors."""
        ending = Ending(1, answer, 0, 1, 1)
        ended = (Ended(outcome(ending, allowed), words(answer)),)
        row = RawSite("function", trial.frames, reached=1, injected=1, endings=ended)
        self._bench.count_faults(summarise(trial.cause.operation, [row], under))
        self._bench.count_model(1, 1)
        self._bench.findings += disputed(ending, allowed, trial.cause, trial.frames)

    def settle(self) -> None:
        """Waits for quiescence; what the operations under a fault have left then are findings, each with its fault."""
        self._trials.settle()


def _plan(operation: str, callers: Callers, nth: int, thread: str) -> str:
    """The plan of one line that makes this call fail again."""
    fault = Fault(what="function", caller=callers.function, task=thread or "all", nth=nth)
    return line(FaultPlan(operation, fault))
