# SPDX-License-Identifier: GPL-2.0-only
"""Base against patched: what a patch changed, and what base had already."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.core.records import Comparison, Outcome, Role, Verdict
from harness.verdict.log import Log, Reason
from harness.verdict.rows import BATCH, BUILD, PATCH, PSEUDO, KernelRow, TestRow

_WORST_FIRST = ("regressed", "missing", "inconclusive", "flaky", "still-failing", "fixed", "same")


@dataclass
class Compared:
    """The comparison: one row for each test and architecture, with its meaning for the verdict.

    `archs` are the architectures that have both sides; `excused` maps (kernel, machine, test) to why a
    failure does not speak against the patch.
    """

    rows: tuple[Comparison, ...] = ()
    archs: set[str] = field(default_factory=set)
    reasons: list[Reason] = field(default_factory=list)
    excused: dict[tuple[str, str, str], str] = field(default_factory=dict)


def compare(log: Log) -> Compared:
    """Base against patched on every architecture that has one kernel of each."""
    out = Compared()
    for arch in sorted({kernel.arch for kernel in log.kernels.values()}):
        base, patched = log.of(arch, Role.BASE), log.of(arch, Role.PATCHED)
        if len(base) == len(patched) == 1:
            out.archs.add(arch)
            out.rows += _Side(log, base[0], patched[0]).judge(out)
    return out


def signatures(test: TestRow) -> frozenset[str]:
    """The signatures that identify a failure: of its findings, or the test's own message if it has none.

    In a message, addresses and times are masked, which differ between two boots of the same kernel.
    """
    found = frozenset(finding.signature for finding in test.findings if finding.counts)
    words = re.sub(r"\b(0x)?[0-9a-f]{8,16}\b|\d+\.\d+", "#", test.describe())
    return found or frozenset({words})


def change(base: TestRow | None, patched: TestRow | None) -> str:
    """One of the words of results.json's comparison for one test on one machine."""
    if base is None or patched is None:
        return "missing"
    was, now = base.outcome, patched.outcome
    if Outcome.INCONCLUSIVE in (was, now):
        return "inconclusive"
    if now is Outcome.SKIP and patched.id.startswith(BATCH):
        return "same" if was is now else "inconclusive"  # it repeats the tests that passed: their own results say more
    if now is Outcome.SKIP:
        return {Outcome.PASS: "regressed", Outcome.SKIP: "same"}.get(was, "inconclusive")
    if base.flaky or patched.flaky:
        return "flaky"
    if now is Outcome.FAIL:
        known = was is Outcome.FAIL and signatures(patched) <= signatures(base)
        return "still-failing" if known or (was is now and patched.id in PSEUDO) else "regressed"
    return "same" if was is Outcome.PASS else "fixed"


class _Side:
    """One architecture's two kernels."""

    def __init__(self, log: Log, base: KernelRow, patched: KernelRow) -> None:
        self.log, self.base, self.patched = log, base, patched
        self.was = {(t.id, t.machine): t for t in log.rows() if t.kernel == base.id}
        self.now = {(t.id, t.machine): t for t in log.rows() if t.kernel == patched.id}

    def judge(self, out: Compared) -> tuple[Comparison, ...]:
        worst: dict[str, str] = {}
        for name, machine in dict.fromkeys((*self.was, *self.now)):
            if name == PATCH:
                continue  # it is about the pair already
            was = self.was.get((name, machine)) or self._came_up(self.base, name, machine)
            now = self.now.get((name, machine)) or self._came_up(self.patched, name, machine)
            changed = change(was, now)
            worst[name] = min(worst.get(name, "same"), changed, key=_WORST_FIRST.index)
            verdict = self._meaning(changed, was, now)
            if verdict is not Verdict.PASS:
                side = now or was
                step = self.log.retry(side) if side else ""
                out.reasons.append(Reason(verdict, self._line(name, changed, was, now), step))
            elif now is not None and now.bad:
                out.excused[now.kernel, now.machine, now.id] = "base fails too"
        return tuple(Comparison(name, self.base.arch, word) for name, word in worst.items())

    def _came_up(self, kernel: KernelRow, name: str, machine: str) -> TestRow | None:
        """A pseudo-test that passed without an event: a kernel that booted had been built."""
        booted = any(m.kernel == kernel.id for m in self.log.machines) or bool(self.log.on(kernel))
        tried = any(t.kernel == kernel.id and t.id != BUILD for t in self.log.rows())
        if name in PSEUDO and (booted or (name == BUILD and tried)):
            return TestRow(name, kernel.arch, kernel.id, machine, Outcome.PASS)
        return None

    def _meaning(self, changed: str, was: TestRow | None, now: TestRow | None) -> Verdict:
        """The meaning of a change for the verdict; an inconclusive test has been judged already."""
        failed = now is not None and now.outcome is Outcome.FAIL
        if changed == "regressed":
            return Verdict.REGRESSED
        if changed == "still-failing":
            return Verdict.INCONCLUSIVE if now is not None and now.id in PSEUDO else Verdict.PASS
        if changed == "missing" and now is None:
            # If base failed, and nothing is known of the patched kernel, the comparison stays open.
            machine = was.machine if was else ""
            return Verdict.PASS if self.log.fell(self.patched, machine) else Verdict.INCONCLUSIVE
        if changed == "missing" and now is not None:
            if failed and now.id in PSEUDO:
                return Verdict.INCONCLUSIVE if self.log.fell(self.base, now.machine) else Verdict.FAIL
            open_end = now.flaky or not self.log.fell(self.base, now.machine)
            return Verdict.FAIL if failed else Verdict.INCONCLUSIVE if open_end else Verdict.PASS
        if failed:
            return Verdict.FAIL
        if changed == "flaky" and now is not None and was is not None:
            return Verdict.INCONCLUSIVE if now.flaky and not was.bad else Verdict.PASS
        unsure = changed == "inconclusive" and was is not None and was.outcome is Outcome.FAIL
        return Verdict.INCONCLUSIVE if unsure else Verdict.PASS

    def _line(self, name: str, changed: str, was: TestRow | None, now: TestRow | None) -> str:
        def side(test: TestRow | None) -> str:
            if test is None:
                return "no result"
            return test.describe() if test.bad or test.why else str(test.outcome)

        return f"{name} [{self.base.arch}] {changed}: base: {side(was)}; patched: {side(now)}"
