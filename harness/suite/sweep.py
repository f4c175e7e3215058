# SPDX-License-Identifier: GPL-2.0-only
"""Owns fault injection as tests see it: knobs armed in the guest, sites observed, fail-nth sweeps."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.faults import knobs
from harness.faults.sites import RawSite, summarise
from harness.guest.guest import BpfObject
from harness.records import Fault, FaultSite, FaultSummary, GuestError
from harness.suite.bench import Bench
from harness.suite.dsq import ENABLE_SECONDS, STATE
from harness.suite.outcome import Disagreed

TYPES = {1: "failslab", 2: "page"}
"""As in bpf_progs/fault_sites.bpf.c."""

ENOMEM = -12

PROVOKED = (r"^percpu: allocation failed", r"page allocation failure", r"[Uu]nable to allocate memory")
"""What the kernel says when memory runs out: expected while faults are injected, and only then."""


@dataclass(frozen=True)
class Swept:
    """A fail-nth sweep: counts of runs, injections and undone runs; `seconds` is guest time in the sweep alone."""

    ids: int
    runs: int
    injected: int
    undone: int
    seconds: float
    summary: FaultSummary


STAYED, ENDED, STUCK = 0, 1, 2
"""How an attach that did not fail ended; as in vm/agent/attach.c."""


class Faults:
    """Fault injection on one guest. Observed are the allocations of the agent's thread, or of the named one."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._guest = bench.guest
        self._observer: BpfObject | None = None

    @property
    def observer(self) -> BpfObject:
        """The tracing object that sees each fault site, loaded and attached on first use."""
        if self._observer is None:
            self._observer = self._guest.load("fault_sites")
            self._observer.attach("slab_site")
            self._observer.attach("page_site")
        return self._observer

    def ranges(self, functions: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Text ranges of functions in the running kernel; what has several ranges is left out."""
        found = self._bench.ready.symbols.ranges(functions)
        return {name: spans[0] for name, spans in found.items() if len(spans) == 1}

    @contextlib.contextmanager
    def armed(self, fault: Fault) -> Iterator[None]:
        """Arms `fault` for the block. A path with /proc/self means the agent, which does the operations."""
        self._bench.expect(*PROVOKED)
        try:
            for path, value in knobs.arm(fault, self.ranges(fault.within)):
                self._guest.write(path, value)
            yield
        finally:
            for path, value in knobs.disarm(fault):
                self._guest.agent.call("write", check=False, path=path, data=value)

    def watch(self, *, everybody: bool = False) -> None:
        """Observes from now on the agent's thread; of `everybody` (enabling runs in a kthread) only injected sites."""
        self.observer.set("only_injected", int(everybody))
        tid = int(self._guest.agent.call("ping", record=False)["tid"])
        self.observer.set("watch_tid", -1 if everybody else tid)

    def stop_watching(self) -> None:
        """Observes nobody any more."""
        self.observer.set("watch_tid", 0)

    @contextlib.contextmanager
    def failing_percpu(self, caller: str, nth: int, tid: int = 0) -> Iterator[BpfObject]:
        """The `nth` alloc_percpu() that function `caller` makes, from 1, fails once: by BPF, exact on any architecture.

        An empty `caller` is anybody; with `tid` only that thread's calls count. Yields the object; its `fired` is 1
        once that happened. Raises GuestError where `caller` has not one text range.
        """
        found = self.ranges([caller]).get(caller) if caller else (0, knobs.ULONG_MAX)
        if found is None:
            raise GuestError(f"{caller} was inlined or cloned in this kernel: its calls cannot be told apart")
        start, end = found
        shim = self._guest.load("fail_percpu", start=start, end=end, nth=nth, only_tid=tid)
        shim.attach("alloc_percpu")
        try:
            yield shim
        finally:
            shim.unload()

    def fired_functions(self) -> int:
        """How often fail_function fired since it was armed for one call: its `times` counts down."""
        return 1 - int(self._guest.read(f"{knobs.FUNCTION}/times"))

    def function_summary(self, operation: str, stack: tuple[str, ...]) -> FaultSummary:
        """One call of the function under `stack` that was made to fail, and whose failure was reported."""
        site = FaultSite(operation, "function", ("pcpu_alloc_noprof", *stack), 0, 0, 1, 1, "handled")
        return FaultSummary(1, 1, 1, (site,))

    def sweep_create(
        self, api: BpfObject, context: bytes, *, ids: int, under: Sequence[str], budget_ms: int = 30000
    ) -> Swept:
        """Every allocation of each of `ids` creates fails once; the create without a fault is kept.

        `under` are the functions under test: sites elsewhere (the syscall's own copy) are injected but not counted.
        Raises Disagreed when an answer is neither success nor -ENOMEM, or a create fails with nothing injected.
        """
        observer = self.observer
        self._bench.expect(*PROVOKED)
        for path, value in knobs.arm(Fault(nth=1), {})[:-1]:
            self._guest.write(path, value)
        got = api.sweep("create", "destroy", context, observer, ids=ids, keep=True, budget_ms=budget_ms)
        observer.set("watch_tid", 0)
        if got["disputed"] or got["lost"]:
            raise GuestError(
                f"fail-nth and the tracer disagree on {got['disputed']} faults ({got['lost']} lost)"
            )
        if got["ids"] != ids:
            raise GuestError(f"the sweep did {got['ids']} of {ids} creates in {budget_ms} ms")
        self._judge(got["outcomes"])
        summary = self.collect("create", under, got["outcomes"])
        self._bench.count_faults(summary)
        self._bench.count_model(got["runs"], got["runs"])
        return Swept(got["ids"], got["runs"], got["injected"], got["undone"], got["sweep_us"] / 1e6, summary)

    def sweep_attach(
        self, scheduler: BpfObject, *, thread: str, under: Sequence[str], budget_ms: int = 120000
    ) -> FaultSummary | None:
        """Every allocation that `thread` (empty: the loader) makes while `scheduler` is attached fails once.

        After each the scheduler is gone again; the sweep ends when three in a row were not there. None where the kernel
        has no such thread. Raises Disagreed when an attach fails with something else than -ENOMEM, fails with nothing
        injected, or leaves sched_ext neither on nor off.
        """
        self._bench.expect(*PROVOKED)
        for path, value in knobs.arm(Fault(nth=1), {})[:-1]:
            self._guest.write(path, value)
        got = scheduler.sweep_attach(
            self.observer, thread=thread, state=STATE, on="enabled", off="disabled", ended="exited", misses=3,
            budget_ms=budget_ms, wait_ms=int(ENABLE_SECONDS * self._bench.ready.pristine.scale * 1000),
        )  # fmt: skip
        self.observer.set("watch_tid", 0)
        if got is None:
            return None
        if got["disputed"] or got["lost"]:
            raise GuestError(f"fail-nth and the tracer disagree on {got['disputed']} faults ({got['lost']} lost)")
        self._judge_attach(got["outcomes"])
        if not got["done"]:
            raise GuestError(f"the sweep came to allocation {got['next']} of an attach in {budget_ms} ms")
        ended = {ENDED: ENOMEM}
        errors = [(site, ended.get(answer, answer), times) for site, answer, times in got["outcomes"]]
        summary = self.collect(f"attach, {thread or 'loader'}", under, errors)
        self._bench.count_faults(summary)
        self._bench.count_model(got["runs"], got["runs"])
        return summary

    def _judge_attach(self, outcomes: Sequence[Sequence[int]]) -> None:
        for site, answer, times in outcomes:
            if answer == STUCK:
                raise Disagreed("sched_ext was neither enabled nor disabled after an attach under a fault")
            if not site:
                raise Disagreed(f"attach answered {answer} {times} times although no fault was injected")
            if answer not in (STAYED, ENDED, ENOMEM):
                raise Disagreed(f"attach answered {answer} {times} times under a fault, the model allows -ENOMEM")

    def _judge(self, outcomes: Sequence[Sequence[int]]) -> None:
        for site, answer, times in outcomes:
            if not site:
                raise Disagreed(f"create answered {answer} {times} times although no fault was injected")
            if answer not in (0, ENOMEM):
                raise Disagreed(f"create answered {answer} {times} times under a fault, the model allows 0 or -ENOMEM")

    def collect(
        self, operation: str, under: Sequence[str], outcomes: Sequence[Sequence[int]] = (), failed: int = 0
    ) -> FaultSummary:
        """The sites seen since the observer was loaded, decoded.

        `outcomes` are a sweep's [site, answer, times]. Without a sweep, `failed` says how many operations ended with
        an error: it is booked on the last site that fired, which is the one that ended them.
        """
        seen = self.observer.get("lost", "last_site")
        if seen["lost"]:
            step = "raise MAX_SITES in fault_sites.bpf.c"
            raise GuestError(f"{seen['lost']} fault observations were lost", step=step)
        results: dict[int, tuple[int, int]] = {seen["last_site"]: (failed, 0)} if failed else {}
        for site, answer, times in outcomes:
            errors, ok = results.get(site, (0, 0))
            results[site] = (errors + times, ok) if answer else (errors, ok + times)
        return summarise(operation, [self._row(entry, results) for entry in self.observer.dump("sites")], under)

    def _row(self, entry: tuple[bytes, bytes], results: Mapping[int, tuple[int, int]]) -> RawSite:
        """One entry of the observer's map (struct site of bpf_progs/fault_sites.bpf.c)."""
        (site,) = struct.unpack("<Q", entry[0])
        reached, injected, kind, size, gfp, depth = struct.unpack_from("<QQIIII", entry[1])
        stack = struct.unpack_from(f"<{depth}Q", entry[1], 32)
        errors, ok = results.get(site, (0, 0))
        names = tuple(frame.function for frame in self._bench.ready.symbols.chain(stack))
        return RawSite(TYPES[kind], names, size, gfp, reached, injected, errors, ok)
