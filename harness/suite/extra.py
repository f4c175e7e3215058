# SPDX-License-Identifier: GPL-2.0-only
"""Owns what every session runs beside its tests: canaries that prove the oracles, and the leak batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NoReturn

import pytest

from harness.build.addresses import functions
from harness.errors import MachineEnded
from harness.guest import kmemleak
from harness.guest.freed import Quarantine
from harness.guest.guest import Guest
from harness.machine import local_dsqs
from harness.machine.examine import look_into
from harness.oracles import crash, dmesg, percpu
from harness.oracles import kmemleak as kmemleak_oracle
from harness.oracles import local_dsqs as local_dsqs_oracle
from harness.oracles.log import parse_kmsg
from harness.oracles.rules import FREED
from harness.records import Canary, EventKind, Evidence, Finding, Outcome, TestResult
from harness.suite import objects
from harness.suite.bench import Bench
from harness.suite.leakhunt import Hunt
from harness.suite.outcome import Inconclusive, KernelFinding
from harness.suite.repeat import Clock, Deed, again, deed
from harness.suite.session import Ready, Workshop

CANARY = "/sys/kernel/debug/kharness/canary"
LEAKS = 16
"""Leaked objects of a kind: some are always hidden from kmemleak by a stale pointer somewhere."""

SEEN, SEEN_BESIDE = 8, 2
"""How many of them must be seen in a guest of their own; and in that of a leak batch, where the tests have left stale
pointers (5 to 16 of 16 were seen): there the question is whether kmemleak scans and blames, not how well."""

HANG_SECONDS = 2.0

BATCH_PASSES, BATCH_SECONDS = 4, 6.0
"""What failed on purpose is done up to so often, for as long as this lasts (nominal): an error path leaks an object or
two at a time, and kmemleak does not see each object."""


def _provoke(guest: Guest, name: str, times: int = 1) -> None:
    for _ in range(times):
        guest.write(CANARY, name)


def _said(oracle: str, provoke: str, kind: str, function: str) -> Callable[[Guest, Ready], dict[str, bool]]:
    """A canary that the kernel itself speaks of: the log must have a finding of this kind in this function."""

    def run(guest: Guest, ready: Ready) -> dict[str, bool]:
        _provoke(guest, provoke)
        found = dmesg.findings([record for text in guest.log() for record in parse_kmsg(text)], ready.symbols)
        return {oracle: any(f.kind == kind and f.function == function for f in found)}

    return run


_warn = _said("dmesg", "warn", "warn", "kharness_warn")


def _counted(guest: Guest, ready: Ready) -> dict[str, bool]:
    """Leaks of both kinds, each counted exactly, by the ledger with the function that leaks."""
    _provoke(guest, "slab-leak", LEAKS)
    _provoke(guest, "percpu-leak", LEAKS)
    after = guest.settle()
    found = percpu.findings(percpu.parse(ready.pristine.percpu), percpu.parse(after))
    held = objects.look(guest.agent, ready, after)
    seen = {(f.kind, f.function, f.count) for f in held.findings()} if held.exact else set()
    wanted = {kind: (f"{kind} leak", f"kharness_leak_{kind}", LEAKS) for kind in ("slab", "percpu")}
    return {"percpu": any(f.count == LEAKS for f in found)} | {
        f"ledger {kind}": leak in seen for kind, leak in wanted.items()
    }


def _blamed(found: Sequence[Finding], least: int) -> dict[str, bool]:
    """Whether kmemleak's findings show `least` of the leaks that were planted."""
    blamed: Counter[tuple[str, str | None]] = Counter()
    for finding in found:
        blamed[finding.kind, finding.function] += finding.count
    return {
        f"kmemleak {kind}": blamed[f"{kind} leak", f"kharness_leak_{kind}"] >= least for kind in ("slab", "percpu")
    }


def _leaks(guest: Guest, ready: Ready) -> dict[str, bool]:
    counted = _counted(guest, ready)
    return counted | _blamed(kmemleak_oracle.findings(kmemleak.report(guest.agent), ready.symbols), SEEN)


def _dies(kind: str, provoke: str, where: str = "") -> Callable[[Guest, Ready], dict[str, bool]]:
    """A canary that kills its guest: the crash oracle must say `kind`, and of a hang also `where`."""

    def run(guest: Guest, ready: Ready) -> dict[str, bool]:
        try:
            guest.agent.call("write", seconds=HANG_SECONDS, path=CANARY, data=provoke)
            guest.agent.call("ping", seconds=HANG_SECONDS)
        except MachineEnded as error:
            ended = look_into(guest.vm, error, ready.pristine.scale, ready.layout)
            found = crash.of(ended, ready.symbols, resolve=ready.addresses)
            return {kind: any(f.kind == kind and (not where or f.function == where) for f in found)}
        return {kind: False}

    return run


def _poisoned(guest: Guest, ready: Ready) -> dict[str, bool]:
    """Freed percpu objects: one is written to, one freed again; a task of its own follows a pointer out of a third."""
    wrong = {"kharness_use_freed_percpu": "percpu use-after-free", "kharness_free_percpu_twice": "percpu double free"}
    follows = "kharness_follow_freed_percpu"
    own = [one for one in functions(ready.pristine.own) if one.name in (*wrong, follows)]
    quarantine = Quarantine(guest.agent)
    quarantine.arm([(one.start, one.start + one.size) for one in own])
    _provoke(guest, "percpu-use-after-free")
    _provoke(guest, "percpu-double-free")
    quarantine.drain()
    guest.agent.call("spawn", name="follows", a0="sh", a1="-c", a2=f"echo percpu-follow-freed > {CANARY}")
    guest.agent.call("reap", name="follows", timeout_ms=10_000)
    found = dmesg.findings([record for text in guest.log() for record in parse_kmsg(text)], ready.symbols)
    seen = {f.function: f.kind for f in found}
    followed = any(f.function == follows and FREED in f.title for f in found)
    return {"percpu poison": followed and all(seen.get(where) == kind for where, kind in wrong.items())}


def _miscounted(guest: Guest, ready: Ready) -> dict[str, bool]:
    """A CPU's local DSQ, on which no task lies, counts one."""
    layout = ready.layout
    if layout is None:
        return {}
    at = local_dsqs.address(layout, 0, local_dsqs.peeking(guest.vm))
    if at is not None:
        guest.write(CANARY, f"count-one-more {at + layout.nr:#x}")
    first, later = (local_dsqs.look(guest.vm, layout) for _ in range(2))
    found = local_dsqs_oracle.findings(first, later)
    return {local_dsqs_oracle.ORACLE: [one.count for one in found] == [1]}


def _shape(guest: Guest, ready: Ready) -> dict[str, bool]:
    """All in one guest, but for what takes long: kmemleak is proved by the machine's leak batch."""
    seen = _warn(guest, ready) | _miscounted(guest, ready) | _counted(guest, ready)
    return seen | _dies("panic", "panic")(guest, ready)


CANARIES: dict[str, Callable[[Guest, Ready], dict[str, bool]]] = {
    "warn": _warn,
    "leaks": _leaks,
    "panic": _dies("panic", "panic"),
    "hang": _dies("hang", "hang", "hang_here"),
    "atomic": _said("atomic sleep", "sleep-atomic", "atomic sleep", "kharness_sleep_atomic"),
    "kasan": _said("kasan", "use-after-free", "kasan", "kharness_use_after_free"),
    "preempt": _said("preemptible", "cpu-not-held", "preemptible", "kharness_cpu_not_held"),
    "lockdep": _said("lockdep", "lock-order", "lockdep", "kharness_lock_order"),
    "freed": _poisoned,
    "local": _miscounted,
    "shape": _shape,
}


PROVES = {
    "warn": ("dmesg",),
    "leaks": ("kmemleak slab", "kmemleak percpu", "percpu", "ledger slab", "ledger percpu"),
    "panic": ("panic",),
    "hang": ("hang",),
    "atomic": ("atomic sleep",),
    "kasan": ("kasan",),
    "lockdep": ("lockdep",),
    "preempt": ("preemptible",),
    "freed": ("percpu poison",),
    "local": ("local dsq",),
    "shape": ("dmesg", "local dsq", "percpu", "ledger slab", "ledger percpu", "panic"),
}
"""The oracles that each canary proves, by the names in its events."""

OF_A_KERNEL = ("warn", "leaks", "panic", "hang", "freed")
OF_A_CONFIG = {
    "DEBUG_ATOMIC_SLEEP": "atomic", "KASAN": "kasan", "PROVE_LOCKING": "lockdep", "DEBUG_PREEMPT": "preempt",
}  # fmt: skip
"""What proves the detectors that a kernel has only if its configuration says so."""

OF_A_FURTHER_MACHINE = ("shape",)
"""What a kernel that was proved on one machine is asked on each other."""


def _tell(workshop: Workshop, ready: Ready, caught: dict[str, bool], why: str = "") -> None:
    """Journals which canaries were caught."""
    for oracle, seen in caught.items():
        canary = Canary(oracle, ready.kernel.id, seen, why, ready.machine.spec.name)
        workshop.journal.emit(EventKind.CANARY, canary, kernel=ready.kernel.id)


class CanaryItem(pytest.Item):
    """One deliberate defect on one target, in a guest of its own."""

    def __init__(self, *, ready: Ready, workshop: Workshop, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.ready = ready
        self._workshop = workshop

    @property
    def kind(self) -> str:
        return self.name.partition("[")[0]

    @property
    def oracles(self) -> tuple[str, ...]:
        """What this canary proves."""
        return tuple(one for one in PROVES[self.kind] if one != local_dsqs_oracle.ORACLE or self.ready.layout)

    def runtest(self) -> None:
        """Raises Inconclusive naming the oracles that did not see it."""
        name = self.kind
        try:
            with self.ready.restore() as guest:
                caught = CANARIES[name](guest, self.ready)
        except Exception as error:
            self._report(dict.fromkeys(self.oracles, False), str(error))
            raise
        self._report(caught, "")
        missed = [oracle for oracle, seen in caught.items() if not seen]
        if missed:
            raise Inconclusive(
                f"the {', '.join(missed)} oracle did not see a deliberate defect on this kernel"
            )

    def _report(self, caught: dict[str, bool], why: str) -> None:
        _tell(self._workshop, self.ready, caught, why)

    def reportinfo(self) -> tuple[str, None, str]:
        return "canary", None, self.name


class LeakBatch(pytest.Item):
    """What the tests that passed did, done again in one guest, then kmemleak's whole protocol, paid once.

    Leaks are planted in the very guest, and kmemleak must see some of them: what the tests did may have blinded it. On
    a kernel's further machines they are its canaries, too.
    """

    def __init__(self, *, ready: Ready, workshop: Workshop, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.ready = ready
        self._workshop = workshop

    @classmethod
    def make(cls, session: pytest.Session, ready: Ready, workshop: Workshop, shard: int) -> LeakBatch:
        part = f"-{shard}" if ready.first else ""
        name = f"kmemleak{part}[{ready.name}]"
        return cls.from_parent(session, name=name, nodeid=f"batch::{name}", ready=ready, workshop=workshop)

    def runtest(self) -> None:
        """Raises KernelFinding for a leak, Inconclusive when kmemleak did not watch.

        Skipped where no test passed that can be repeated: those that did not pass speak for themselves.
        """
        done = self._workshop.remembered(self.ready)
        name = self.nodeid.replace(f"[{self.ready.name}]", "")
        started = {"machine": self.ready.machine.spec.name}
        self._workshop.journal.emit(EventKind.TEST_START, started, kernel=self.ready.kernel.id, test=name)
        if not done:
            self._skip(name, "no test passed whose operations could be repeated")
        deeds = [deed(other) for other in done]
        result = self._judge(Bench(name, self.ready, self._workshop.session.seed), done, deeds)
        self._workshop.journal.emit(EventKind.TEST_END, result, kernel=result.kernel, test=result.id)
        if result.outcome is Outcome.FAIL:
            raise KernelFinding("\n".join(f.title for f in result.findings if f.counts) or result.why)
        if result.outcome is not Outcome.PASS:
            raise Inconclusive(result.why)

    def _judge(self, bench: Bench, done: Sequence[Bench], deeds: Sequence[Deed]) -> TestResult:
        """How the batch ended; where it leaks, with whose leaks they are."""
        self._workshop.equip(bench)
        error: BaseException | None = None
        clock = Clock()
        with bench.guest:
            bench.expect(*{pattern for other in done for pattern in other.expected})
            try:
                self._again(bench, deeds, clock)
            except Exception as raised:
                error = raised
            result = bench.conclude(error)
        # Only now: a guest's memory is counted once.
        hunt = Hunt(self.ready, deeds, bench.seed, clock, self._say)
        findings = hunt.find(result.findings)
        if not hunt.steps:
            return result
        titles = {before.title: after.title for before, after in zip(result.findings, findings, strict=True)}
        return replace(
            result, findings=tuple(findings), seconds=time.monotonic() - bench.started,
            why=titles.get(result.why, result.why),
        )  # fmt: skip

    def _say(self, line: str) -> None:
        """One line of pytest's output, now."""
        plugins = self.config.pluginmanager
        terminal, capture = plugins.get_plugin("terminalreporter"), plugins.get_plugin("capturemanager")
        if isinstance(terminal, pytest.TerminalReporter) and capture is not None:
            with capture.global_and_fixture_disabled():
                terminal.ensure_newline()
                terminal.write_line(f"{self.name}: {line}")
                terminal.flush()

    def _skip(self, name: str, why: str) -> NoReturn:
        kernel, machine = self.ready.kernel, self.ready.machine.spec.name
        result = TestResult(name, kernel.arch, kernel.id, machine, Outcome.SKIP, why=why)
        self._workshop.journal.emit(EventKind.TEST_END, result, kernel=kernel.id, test=name)
        pytest.skip(why)

    def _again(self, bench: Bench, deeds: Sequence[Deed], clock: Clock) -> None:
        start = time.monotonic()
        most = BATCH_SECONDS * self.ready.pristine.scale
        again(bench.guest.agent, deeds, BATCH_PASSES, most, clock, lambda one: _within(bench, one))
        bench.guest.settle()
        took = time.monotonic() - start
        bench.planted = LEAKS
        _provoke(bench.guest, "slab-leak", LEAKS)
        _provoke(bench.guest, "percpu-leak", LEAKS)
        found = bench.unreferenced()
        bench.blame(found)
        seconds = {"operations": round(took, 2), "kmemleak": round(time.monotonic() - start - took, 2)}
        bench.evidence.append(Evidence("kmemleak", payload={"scenarios": len(deeds), "seconds": seconds}))
        seen = _blamed(found, SEEN_BESIDE)
        if not self.ready.first:  # which has canaries of its own
            _tell(self._workshop, self.ready, seen)
        if missed := [oracle for oracle, caught in seen.items() if not caught]:
            raise Inconclusive(f"{', '.join(missed)} did not see leaks that were planted beside")

    def reportinfo(self) -> tuple[str, None, str]:
        return "batch", None, self.name


def _within(bench: Bench, one: Deed) -> AbstractContextManager[None]:
    """What a deed that arms faults provokes is expected until it is done: when within it, nobody tells."""
    return bench.arming() if one.arms else nullcontext()


def canaries(session: pytest.Session, ready: Ready, workshop: Workshop) -> list[CanaryItem]:
    """The canaries of one target: all for a kernel's first, few for its others."""
    built = [name for symbol, name in OF_A_CONFIG.items() if ready.config.get(symbol) == "y"]
    built += ["local"] if ready.layout else []
    return [
        CanaryItem.from_parent(
            session,
            name=f"{name}[{ready.name}]",
            nodeid=f"canary::{name}[{ready.name}]",
            ready=ready,
            workshop=workshop,
        )
        for name in ((*OF_A_KERNEL, *built) if ready.first else OF_A_FURTHER_MACHINE)
    ]
