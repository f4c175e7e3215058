# SPDX-License-Identifier: GPL-2.0-only
"""The event log as evidence: what it contains, and what it lacks."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from harness.core.errors import HarnessError, UsageError
from harness.core.records import (
    Canary,
    Event,
    EventKind,
    Outcome,
    Patches,
    Protection,
    Role,
    Selection,
    SessionEnd,
    SessionError,
    SessionStart,
    Verdict,
    WorkerEnd,
    Workers,
    decode,
)
from harness.coverage.coverage import Coverage
from harness.faults.optional import Declared
from harness.session import replay_file
from harness.verdict.order import Order
from harness.verdict.rows import PATCH, PSEUDO, SELFTESTS_BUILD, KernelRow, MachineRow, RunRow, TestRow

_WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.SKIP)

T = TypeVar("T")


class Reason(NamedTuple):
    """Why a verdict is not a better one, as one line, and the command to run next."""

    verdict: Verdict
    line: str
    step: str = ""


def _payload(event: Event, kind: type[T], part: Any = None) -> T:
    try:
        return decode(event.data if part is None else part, kind)
    except UsageError as error:
        raise HarnessError(
            f"the event log holds a damaged {event.kind} event ({event.test or event.kernel}): {error.what}",
            step="run again; this log cannot be judged",
        ) from error


def _without_selftests(test: TestRow) -> bool:
    """Whether the run was to test the tree's selftests, and it has none."""
    return test.id == SELFTESTS_BUILD and test.outcome is Outcome.INCONCLUSIVE


class Log:
    """The event log sorted by subject, and what it lacks."""

    def __init__(self, events: Iterable[Event], archs: Collection[str] | None = None) -> None:
        """Read all events. With `archs` the run still goes on: these architectures are done."""
        self.archs = archs
        self.run: RunRow | None = None
        self.protection = Protection()
        self.patches = Patches()
        self.kernels: dict[str, KernelRow] = {}
        self.machines: list[MachineRow] = []
        self.canaries: list[Canary] = []
        self.raw: list[TestRow] = []
        self.tests: dict[tuple[str, str, str], TestRow] = {}
        self.selections: list[Selection] = []
        self.workers: list[Workers] = []
        self.sessions: list[SessionStart] = []
        self.session_ends: list[SessionEnd] = []
        self.worker_ends: list[WorkerEnd] = []
        self.errors: list[SessionError] = []
        self.declared: dict[str, Declared] = {}
        """The declared optional sites, by place; each part of a session has them."""
        self.coverage: dict[str, Coverage] = {}
        self.starts: Counter[tuple[str, str, str]] = Counter()
        self.ends: Counter[tuple[str, str, str]] = Counter()
        """The test-end events of a test, by kernel, machine and id."""
        self.order = Order()
        for event in events:
            self.order.take(event)
            self._take(event)
        if self.run:
            self.run = replace(
                self.run, started=self.order.first, seconds=self.order.seconds, protection=self.protection
            )

    def _take(self, event: Event) -> None:
        match event.kind:
            case EventKind.RUN_START:
                self.run = replace(_payload(event, RunRow), id=event.run)
            case EventKind.PROTECTION:
                self.protection = _payload(event, Protection)
            case EventKind.PATCHES:
                self.patches = _payload(event, Patches)
            case EventKind.SURVEY:
                self.selections.append(_payload(event, Selection))
            case EventKind.KERNEL:
                kernel = _payload(event, KernelRow)
                self.kernels[kernel.id] = kernel
            case EventKind.MACHINE:
                self.machines.append(_payload(event, MachineRow))
            case EventKind.CHILDREN:
                self.workers.append(_payload(event, Workers))
            case EventKind.CANARY:
                self.canaries.append(_payload(event, Canary))
            case EventKind.SESSION_START:
                self.sessions.append(_payload(event, SessionStart))
                for item in self.sessions[-1].optional:
                    entry = _payload(event, Declared, item)
                    self.declared[entry.place] = entry
            case EventKind.COVERAGE:
                self.coverage[event.kernel] = _payload(event, Coverage)
            case EventKind.SESSION_END:
                self.session_ends.append(_payload(event, SessionEnd))
            case EventKind.CHILD_END:
                self.worker_ends.append(_payload(event, WorkerEnd))
            case EventKind.ERROR:
                self.errors.append(_payload(event, SessionError))
            case EventKind.TEST_START:
                self.starts[event.kernel, str(event.data.get("machine", "")), event.test] += 1
            case EventKind.SEARCH | EventKind.RETRY:
                pass  # progress only: the test's end has it all
            case EventKind.TEST_END:
                test = _payload(event, TestRow)
                self.ends[test.kernel, test.machine, test.id] += 1
                self.raw.append(test)
            case EventKind.RUN_END:
                pass  # the order keeps it

    def settle(self, settled: Callable[[TestRow], TestRow]) -> None:
        """Judge each test's result by `settled`, and of two for one test keep the worse: a second try
        must not wipe out the first."""
        for test in map(settled, self.raw):
            key = (test.kernel, test.machine, test.id)
            old = self.tests.get(key)
            if old is None or _WORST_FIRST.index(test.outcome) <= _WORST_FIRST.index(old.outcome):
                self.tests[key] = test

    def rows(self) -> Iterator[TestRow]:
        """The tests, as judged, in the order they ended."""
        yield from self.tests.values()

    def of(self, arch: str, role: Role | None = None) -> list[KernelRow]:
        return [k for k in self.kernels.values() if k.arch == arch and role in (None, k.role)]

    def on(self, kernel: KernelRow) -> list[TestRow]:
        """The real tests of a kernel, without the pseudo-tests."""
        return [t for t in self.rows() if t.kernel == kernel.id and t.id not in PSEUDO]

    def fell(self, kernel: KernelRow, machine: str = "") -> bool:
        """Whether a kernel did not build, or did not boot on any machine or on this one, so that no test can follow.

        The same holds for selftests that do not compile, or do not exist.
        """
        own = [t for t in self.rows() if t.kernel == kernel.id and t.id in PSEUDO]
        fallen = {t.machine for t in own if t.outcome is Outcome.FAIL or _without_selftests(t)}
        made = any(row.kernel == kernel.id for row in self.machines)
        return machine in fallen or (bool(fallen) and not made)

    def unchanged(self, kernel: KernelRow) -> TestRow | None:
        """The pseudo-test that says that the patch changes nothing in this kernel, if that is so."""
        rows = (t for t in self.rows() if t.kernel == kernel.id and t.id == PATCH and t.outcome is Outcome.SKIP)
        return next(rows, None)

    def under_test(self, kernel: KernelRow) -> bool:
        """Whether the verdict is about this kernel: a base is only compared with, unless it is alone."""
        return kernel.role is not Role.BASE or self.alone

    def standing(self) -> list[KernelRow]:
        """The kernels that tests must have run on: they booted, and so did the other side of a comparison."""
        tested = [k for k in self.kernels.values() if self.under_test(k) and not self.unchanged(k)]
        archs = {k.arch for k in tested if not self.fell(k)}
        return [k for k in self.kernels.values() if k.arch in archs and not self.fell(k)]

    def again(self, *more: str, drop: str = "") -> str:
        """The command line of this run once more: `more` behind it, the option `drop` and its value left out."""
        argv = list(self.run.argv) if self.run else ["run"]
        if argv and PurePath(argv[0]).name in ("kharness", "__main__.py", "cli.py"):
            del argv[0]
        if drop in argv:
            at = argv.index(drop)
            del argv[at : at + 2]
        return shlex.join(["kharness", *argv, *(() if set(more) <= set(argv) else more)])

    def retry(self, test: TestRow) -> str:
        """The command that repeats one test."""
        if test.replay:
            return replay_file.one_line(test.replay, self.run.argv if self.run else ())
        if test.id in PSEUDO:
            return self.again(drop="--suite" if _without_selftests(test) else "")
        name = test.id.rpartition("::")[2].partition("[")[0]  # -k takes names, not paths and brackets
        return shlex.join([*shlex.split(self.again(drop="-k")), "-k", name])

    @property
    def plan(self) -> Mapping[str, Any]:
        """The request, from run-start."""
        return self.run.plan if self.run and isinstance(self.run.plan, dict) else {}

    @property
    def alone(self) -> bool:
        """Whether this is a replay: one test on one kernel, without its former comparison."""
        return bool(self.plan.get("test_id"))

    def complete(self) -> Iterator[Reason]:
        """What the log lacks; each line makes the run inconclusive."""
        if self.sessions and not any(s.collected for s in self.sessions):
            yield Reason(Verdict.INCONCLUSIVE, "no test was collected", self._unselected())
        for line in (*self._run_gaps(), *self._kernel_gaps(), *self._test_gaps()):
            yield Reason(Verdict.INCONCLUSIVE, line)
        yield from self._patch_gaps()
        yield from self._canary_gaps()

    def _patch_gaps(self) -> Iterator[Reason]:
        """A patch that changes nothing on one architecture is no gap, one that changes nothing at all is."""
        patched = [kernel for kernel in self.kernels.values() if kernel.role is Role.PATCHED]
        idle = [row for kernel in patched if (row := self.unchanged(kernel))]
        if idle and len(idle) == len(patched):
            for row in idle:
                step = self.again(*shlex.split(row.step)) if row.step else ""
                yield Reason(Verdict.INCONCLUSIVE, f"{row.arch}: {row.why}", step)

    def _unselected(self) -> str:
        """The command line of this run without its selection of tests."""
        # A plan file's selection is not on the command line: an empty one overrides it.
        planned = self.plan.get("select")
        more = ("-k", "") if self.run and planned and "-k" not in self.run.argv else ()
        return self.again(*more, drop="-k")

    def _canary_gaps(self) -> Iterator[Reason]:
        due = [item for session in self.sessions for item in session.canaries]
        for kernel in self.standing():
            for machine in dict.fromkeys(test.machine for test in self.on(kernel)):
                place = (kernel.id, machine)
                wanted = Counter(c.oracle for c in due if (c.kernel, c.machine) == place)
                mine = [canary for canary in self.canaries if (canary.kernel, canary.machine) == place]
                for line in self._missed(wanted, mine):
                    yield Reason(Verdict.INCONCLUSIVE, f"{kernel.id} on {machine}: {line}", self.again())

    @staticmethod
    def _missed(wanted: Counter[str], mine: list[Canary]) -> Iterator[str]:
        """The gaps in the canaries of one kernel on one machine."""
        if not mine:
            yield "no canary was run: no oracle is proved"
        for name in wanted - Counter(canary.oracle for canary in mine) if mine else ():
            yield f"the {name} canary was not run"
        for canary in mine:
            if not canary.caught:
                yield f"{canary.oracle} missed its canary" + (f": {canary.why}" if canary.why else "")

    def _run_gaps(self) -> Iterator[str]:
        yield from self.order.gaps(goes_on=self.archs is not None)
        if not any(kernel.role is not Role.BASE for kernel in self.kernels.values()):
            if not (self.alone and self.kernels):
                yield "no kernel under test took part"

    def _kernel_gaps(self) -> Iterator[str]:
        seen = Counter((kernel.arch, kernel.role) for kernel in self.kernels.values())
        for (arch, role), number in seen.items():
            if role is not Role.TREE and number > 1:
                yield f"{arch}: {number} {role} kernels have the same id"
            if self.alone:
                continue
            if role is Role.PATCHED and not seen[arch, Role.BASE]:
                yield f"{arch}: no base kernel to compare the patched one with"
            if role is Role.BASE and not seen[arch, Role.PATCHED]:
                yield f"{arch}: no patched kernel to compare with base"
        for kernel in self.standing():
            tests = self.on(kernel)
            if not tests:
                yield f"{kernel.id}: no test ran on this kernel"
            elif kernel.role is not Role.BASE and all(t.outcome is Outcome.SKIP for t in tests):
                yield f"{kernel.id}: every test was skipped ({tests[0].why or 'no reason given'})"
            else:
                yield from self._machine_gaps(kernel, tests)
        known = {(machine.kernel, machine.spec.name) for machine in self.machines}
        for name in sorted({(t.kernel, t.machine) for t in self.rows() if t.id not in PSEUDO} - known):
            yield f"tests ran on machine {name[1]!r} with kernel {name[0]}, which the log does not describe"

    def _machine_gaps(self, kernel: KernelRow, tests: list[TestRow]) -> Iterator[str]:
        """Machines without a test: those that were made, and those that the command line requested."""
        asked = [str(name) for name in self.plan.get("machines", ())]
        made = [machine.spec.name for machine in self.machines if machine.kernel == kernel.id]
        for name in dict.fromkeys((*asked, *made)):
            mine = [test for test in tests if test.machine == name]
            if not mine and not self.fell(kernel, name):
                yield f"{kernel.id}: no test ran on machine {name}"
            elif name in asked and mine and all(t.outcome is Outcome.SKIP for t in mine):
                yield f"{kernel.id}: every test was skipped on machine {name} ({mine[0].why or 'no reason given'})"

    def _test_gaps(self) -> Iterator[str]:
        standing = {kernel.id for kernel in self.standing()}
        for session in self.sessions:
            for item in session.collected:
                if item.kernel in standing and not self.ends[item.kernel, item.machine, item.id]:
                    yield f"{item.id} [{item.kernel} on {item.machine}]: collected, but it never ended"
        for key in sorted(self.starts.keys() | self.ends.keys()):
            starts, ends = self.starts[key], self.ends[key]
            kernel, machine, name = key
            if starts > ends:
                yield f"{name} [{kernel} on {machine}]: started, but it never ended"
            if ends > starts and name not in PSEUDO:
                yield f"{name} [{kernel} on {machine}]: ended, but the log does not show that it started"
        for test in self.rows():
            if test.kernel not in self.kernels:
                yield f"{test.id}: ran on kernel {test.kernel!r}, which the log does not describe"
