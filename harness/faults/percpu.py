# SPDX-License-Identifier: GPL-2.0-only
"""The k-th alloc_percpu(): its callers, and making exactly that call fail, on an unmodified kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from harness.core.errors import Disagreed, GuestError, KharnessError
from harness.core.plan import FaultPlan
from harness.core.records import Fault, Frame
from harness.faults.account import disputed
from harness.faults.cause import Cause
from harness.faults.context import FaultContext
from harness.faults.endings import Allowed, Ending, outcome, words
from harness.faults.plans import line
from harness.faults.sites import Ended, RawSite, normalise, summarise
from harness.faults.sweep import Faults
from harness.faults.trials import Trials
from harness.guest.guest import BpfObject
from harness.oracles.splat.blame import base_name, is_allocator
from harness.oracles.splat.frames import culprit

ALLOC = "pcpu_alloc_noprof"
"""The function behind alloc_percpu() (mm/percpu.c)."""

PROGRAM = "fail_percpu"
MAX_CALLERS = 64
"""As in bpf_progs/observers/fail_percpu.bpf.c."""


@dataclass(frozen=True)
class Callers:
    """The calls of alloc_percpu() in one function of the source: their return addresses, inlined or not. With neither
    of them, all calls."""

    function: str = ""
    addresses: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One call that should fail: whether it did, and its chain of functions, innermost first."""

    cause: Cause
    frames: tuple[Frame, ...] = ()

    @property
    def fired(self) -> bool:
        return bool(self.frames)


class PercpuFaults:
    """Lets the k-th alloc_percpu() fail. Objects that an operation then leaves are recorded with the fault."""

    def __init__(self, context: FaultContext, faults: Faults) -> None:
        self._context = context
        self._guest = context.guest
        self._trials = Trials(context, faults)
        self._shim: BpfObject | None = None

    @property
    def shim(self) -> BpfObject:
        """The BPF program that lets calls fail, attached to pcpu_alloc_noprof() on first use."""
        if self._shim is None:
            self._shim = self._guest.load(PROGRAM)
            self._shim.attach("alloc_percpu")
        return self._shim

    # --- callers ------------------------------------------------------------------------

    def callers(
        self, one: Callable[[], None], around: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Callers:
        """The calls by which an operation gets its percpu data: those of the function from which `one` allocates.

        `one` does the operation once, without a fault, within the block `around`, whose calls of the same function
        count as well. So the function may have any name and may be inlined anywhere. Raises GuestError unless it is
        exactly one function.
        """
        self.shim.set("learn", 1)
        with around():
            every = self._seen()
            self.shim.set("only_tid", self._guest.tid())
            one()
            mine = self._seen()
            self.shim.set("learn", 0)
        chains = {address: self._chain([address]) for address in every | mine}
        found = {base_name(guilty.function) for a in mine if (guilty := culprit(chains[a], is_allocator))}
        if len(found) != 1:
            seen = ", ".join(sorted(found)) or "none was seen"
            raise GuestError(f"which function allocates the operation's percpu data is not clear: {seen}")
        function = found.pop()
        addresses = [a for a, frames in chains.items() if function in {base_name(f.function) for f in frames}]
        return Callers(function, tuple(sorted(addresses)))

    def _seen(self) -> set[int]:
        found = {self.shim.unpack("Q", key)[0] for key, _ in self.shim.dump("seen")}
        self.shim.clear("seen")
        return found

    def _chain(self, stack: Sequence[int]) -> tuple[Frame, ...]:
        """Return addresses as frames, with inlined functions."""
        return self._context.target.symbols.chain([0, *stack])[1:]

    # --- a call fails -------------------------------------------------------------------

    @contextlib.contextmanager
    def failing(
        self, operation: str, callers: Callers, nth: int, *, thread: str = "", under: Sequence[str], helper: str = ""
    ) -> Iterator[list[Trial]]:
        """Let the `nth` of these calls, from 1, fail once within the block; with `thread` only that thread's calls
        count, the agent's if it is ``self``.

        After the block the list has the Trial. Objects that are allocated within it under `under`, by the agent's
        thread and the one named `helper`, are recorded: see :meth:`settle`. If the kernel's answer is judged wrong
        within the block, that finding has the site of the call that failed.
        """
        made = (ALLOC, callers.function) if callers.function else (ALLOC,)
        cause = Cause(operation, "function", made, _plan(operation, callers, nth, thread))
        trials: list[Trial] = []
        self._arm(callers, thread)
        try:
            with self._trials.of(cause, under, helper) as number, self._context.arming():
                self.shim.set("nth", nth)
                yield trials
                self.shim.set("nth", 0)
        except (Disagreed, AssertionError):
            with contextlib.suppress(KharnessError):  # a guest that dies now is seen at the test's end
                self._learn(number, cause)
            raise
        trials.append(self._learn(number, cause))

    def _learn(self, number: int, cause: Cause) -> Trial:
        """The trial of this number, with the site if a call failed."""
        trial = Trial(cause, self._fired())
        if trial.fired:
            trial = Trial(replace(cause, stack=normalise(frame.function for frame in trial.frames)), trial.frames)
        self._trials.learn(number, trial.cause)
        return trial

    def _arm(self, callers: Callers, thread: str) -> None:
        for number, address in enumerate(callers.addresses[:MAX_CALLERS]):
            self.shim.set("callers", address, number)
        asking = self._guest.tid()
        only = asking if thread == "self" else self._guest.thread(thread) if thread else 0
        if thread and not only:
            raise GuestError(f"there is no thread {thread}")
        for name, value in (
            ("nr_callers", len(callers.addresses)),
            ("only_tid", only),
            ("calls", 0),
            ("fired", 0),
            ("fired_depth", 0),
        ):
            self.shim.set(name, value)

    def _fired(self) -> tuple[Frame, ...]:
        """The chain of the call that failed; empty if none did."""
        seen = self.shim.get("fired", "fired_caller", "fired_depth", "fired_stack")
        if not seen["fired"]:
            return ()
        stack = seen["fired_stack"][: seen["fired_depth"]]
        caller = seen["fired_caller"]
        outer = stack[stack.index(caller) + 1 :] if caller in stack else stack[1:]
        return (Frame(ALLOC), *self._chain([caller, *outer]))

    def unload(self) -> None:
        """Detach the program from alloc_percpu()."""
        if self._shim is not None:
            self._shim.unload()
            self._shim = None

    # --- results ------------------------------------------------------------------------

    def book(self, trial: Trial, answer: int, allowed: Allowed, under: Sequence[str]) -> None:
        """Book the fault on the test, with the operation's answer, which must be one of the allowed errors."""
        ending = Ending(1, answer, 0, 1, 1)
        ended = (Ended(outcome(ending, allowed), words(answer)),)
        row = RawSite("function", trial.frames, reached=1, injected=1, endings=ended)
        self._context.count_faults(summarise(trial.cause.operation, [row], under))
        self._context.count_model(1, 1)
        self._context.findings += disputed(ending, allowed, trial.cause, trial.frames)

    def settle(self) -> None:
        """Wait for quiescence; objects that the operations under a fault left become findings, each with its fault."""
        self._trials.settle()


def _plan(operation: str, callers: Callers, nth: int, thread: str) -> str:
    """The plan of one line that makes this call fail again."""
    fault = Fault(what="function", caller=callers.function, task=thread or "all", nth=nth)
    return line(FaultPlan(operation, fault))
