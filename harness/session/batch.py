# SPDX-License-Identifier: GPL-2.0-only
"""The leak batch: the operations of the tests that passed, repeated in one guest, then one run of kmemleak."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NoReturn

import pytest

from harness.core.errors import Inconclusive
from harness.core.records import EventKind, Evidence, Outcome, TestResult
from harness.leaks.hunt import Hunt
from harness.leaks.repeat import Clock, Deed, again, deed
from harness.oracles.objects import LEAKS, SEEN_BESIDE, blamed
from harness.oracles.registry import trigger
from harness.session.context import BAD, TestContext
from harness.session.defects import record_canaries
from harness.session.outcome import KernelFinding
from harness.session.session import Target, TestSession

BATCH_PASSES, BATCH_SECONDS = 4, 6.0
"""Runs with faults are repeated up to so often, within so many nominal seconds: an error path leaks an object or
two at a time, and kmemleak does not see each object."""


class LeakBatch(pytest.Item):
    """The operations of the tests that passed, repeated in one guest, then kmemleak's whole protocol, once.

    Leaks are planted in the same guest, and kmemleak must see some of them: the tests may have disabled it. On a
    kernel's further machines they are its canaries, too.
    """

    def __init__(self, *, target: Target, test_session: TestSession, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.target = target
        self._session = test_session
        self.recorded = False
        """Whether its failure is in the event log."""

    @classmethod
    def make(cls, session: pytest.Session, target: Target, test_session: TestSession) -> LeakBatch:
        part = f"-{test_session.shard}" if target.first else ""
        name = f"kmemleak{part}[{target.name}]"
        return cls.from_parent(session, name=name, nodeid=f"batch::{name}", target=target, test_session=test_session)

    def runtest(self) -> None:
        """Raise KernelFinding for a leak, Inconclusive when kmemleak did not watch.

        Skipped where no test passed that can be repeated: the others have results of their own.
        """
        done = self._session.remembered(self.target)
        name = self.nodeid.replace(f"[{self.target.name}]", "")
        started = {"machine": self.target.machine.spec.name}
        self._session.event_log.emit(EventKind.TEST_START, started, kernel=self.target.kernel.id, test=name)
        if not done:
            self._skip(name, "no test passed whose operations could be repeated")
        deeds = [deed(other) for other in done]
        turns = all(other.sequential for other in done)
        context = TestContext(name, self.target, self._session.session.seed, sequential=turns)
        result = self._judge(context, done, deeds)
        self._session.event_log.emit(EventKind.TEST_END, result, kernel=result.kernel, test=result.id)
        self.recorded = result.outcome in BAD
        if result.outcome is Outcome.FAIL:
            raise KernelFinding("\n".join(f.title for f in result.findings if f.counts) or result.why)
        if result.outcome is not Outcome.PASS:
            raise Inconclusive(result.why)

    def _judge(self, context: TestContext, done: Sequence[TestContext], deeds: Sequence[Deed]) -> TestResult:
        """How the batch ended; its leaks with their culprits."""
        self._session.equip(context)
        error: BaseException | None = None
        clock = Clock()
        context.expect(*{pattern for other in done for pattern in other.expected})
        try:
            try:
                context.enter()
                self._again(context, deeds, clock)
            except Exception as raised:
                error = raised
            result = context.conclude(error)
        finally:
            context.guest.__exit__(None, None, None)

        # Only now, so that the memory of only one guest is in use.
        def fresh() -> TestContext:
            return TestContext("leak hunt", self.target, context.seed, sequential=context.sequential)

        hunt = Hunt(self.target, deeds, fresh, clock, self._say)
        findings = hunt.find(result.findings)
        if not hunt.steps:
            return result
        titles = {before.title: after.title for before, after in zip(result.findings, findings, strict=True)}
        return replace(
            result,
            findings=tuple(findings),
            seconds=time.monotonic() - context.started,
            why=titles.get(result.why, result.why),
        )

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
        kernel, machine = self.target.kernel, self.target.machine.spec.name
        result = TestResult(name, kernel.arch, kernel.id, machine, Outcome.SKIP, why=why)
        self._session.event_log.emit(EventKind.TEST_END, result, kernel=kernel.id, test=name)
        pytest.skip(why)

    def _again(self, context: TestContext, deeds: Sequence[Deed], clock: Clock) -> None:
        start = time.monotonic()
        most = BATCH_SECONDS * self.target.pristine.scale
        again(context.guest.agent, deeds, BATCH_PASSES, most, clock, lambda one: _within(context, one))
        context.guest.settle()
        took = time.monotonic() - start
        context.planted = LEAKS
        trigger(context.guest, "slab-leak", LEAKS)
        trigger(context.guest, "percpu-leak", LEAKS)
        found = context.unreferenced()
        context.blame(found)
        seconds = {"operations": round(took, 2), "kmemleak": round(time.monotonic() - start - took, 2)}
        context.evidence.append(Evidence("kmemleak", payload={"scenarios": len(deeds), "seconds": seconds}))
        seen = blamed(found, SEEN_BESIDE)
        if not self.target.first:  # the first machine has canaries of its own
            record_canaries(self._session, self.target, seen)
        if missed := [oracle for oracle, caught in seen.items() if not caught]:
            raise Inconclusive(f"{', '.join(missed)} did not see leaks that were planted beside")

    def reportinfo(self) -> tuple[str, None, str]:
        return "batch", None, self.name


def _within(context: TestContext, one: Deed) -> AbstractContextManager[None]:
    """Expect reports of shortage until a deed that arms faults is done: when within it is not known."""
    return context.arming() if one.arms else nullcontext()
