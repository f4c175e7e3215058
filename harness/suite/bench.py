# SPDX-License-Identifier: GPL-2.0-only
"""Owns one test on one guest: what it did, the evidence at its end, and the result that is journalled."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness import allow
from harness.errors import HarnessError, How, KernelFailure, MachineEnded, MachineLost
from harness.faults.cause import TOLD, Cause, Window, read_told, swept_cause, told
from harness.faults.sites import blame, total
from harness.guest import kmemleak
from harness.guest.guest import Guest
from harness.machine import local_dsqs
from harness.machine.examine import Hung, look_into
from harness.oracles import alive, dmesg, ledger, lockdep, percpu
from harness.oracles import kmemleak as kmemleak_oracle
from harness.oracles import local_dsqs as local_dsqs_oracle
from harness.oracles.log import parse_kmsg
from harness.plan import Allowed
from harness.records import (
    Dump,
    Evidence,
    FaultSummary,
    Finding,
    Kept,
    LogRecord,
    ModelSummary,
    Operation,
    Outcome,
    Scenario,
    SearchSummary,
    TestResult,
)
from harness.suite import objects
from harness.suite.dump import Dumper
from harness.suite.keep import Keeper
from harness.suite.outcome import Ending, Inconclusive, ending_of
from harness.suite.session import Ready
from harness.words import plural

BAD = (Outcome.FAIL, Outcome.INCONCLUSIVE)
"""How a test may end whose guest is worth a look."""

PROVOKED = (
    r"^percpu: allocation failed", r"page allocation failure", r"[Uu]nable to allocate memory",
    r"^WARNING at mm/vmalloc\.c:\d+ in va_alloc",
)  # fmt: skip
"""What the kernel says when memory runs out: expected while a fault is armed, and only then."""

PLANTED = ("kharness_leak_slab", "kharness_leak_percpu")
"""The functions of our module that leak on purpose."""


class Bench:
    """A guest, and what the test on it did and saw."""

    def __init__(self, test_id: str, ready: Ready, seed: int) -> None:
        self.test_id = test_id
        self.ready = ready
        self.seed = seed
        self.guest: Guest = ready.restore()
        self.expected: list[str] = []
        self.summaries: list[FaultSummary] = []
        self.model = ModelSummary()
        self.evidence: list[Evidence] = []
        self.findings: list[Finding] = []
        self.must_inject: tuple[str, ...] = ()
        self.planted = 0
        """How many objects of each kind our module leaked on purpose."""
        self.allow: tuple[Allowed, ...] = ()
        """Known findings that do not count."""
        self.keeper: Keeper | None = None
        self.kept: Kept | None = None
        self.dumper: Dumper | None = None
        self.dump: Dump | None = None
        self.started = time.monotonic()
        self.windows: list[Window] = []
        """Which part of the kernel log came under which injected fault."""
        self.armed: list[tuple[int, int]] = []
        """Which records of the kernel log, first and last, came while a fault was armed."""
        self.arms = False
        """Whether one ever was."""
        self.sequence: tuple[Operation, ...] = ()
        """Of a search: the moves that show what it found."""
        self.search: SearchSummary | None = None
        self._cause: Cause | None = None

    # --- what a test says of itself -----------------------------------------------------

    def expect(self, *patterns: str) -> None:
        """Titles of log findings that this test provokes on purpose (regular expressions), at any time."""
        self.expected.extend(patterns)

    @contextlib.contextmanager
    def arming(self, *, whole: bool = True) -> Iterator[None]:
        """A fault is armed within the block, and what is PROVOKED by it expected.

        Not `whole`: only in the parts that :attr:`armed` is told of; of a block that ends by an exception it is not.
        """
        self.arms = True
        first = self.next_record()
        try:
            yield
        except BaseException:
            self.armed.append((first, sys.maxsize))
            raise
        if whole:
            self.armed.append((first, self.next_record() - 1))

    @contextlib.contextmanager
    def under(self, cause: Cause) -> Iterator[None]:
        """What fails within the block came under this fault, also if the block ends by an exception."""
        self._cause, outer = cause, self._cause
        first = self.next_record()
        try:
            yield
        except BaseException:
            self.windows.append(Window(first, sys.maxsize, cause))
            raise
        self.windows.append(Window(first, self.next_record() - 1, cause))
        self._cause = outer

    def learn(self, cause: Cause, more: Cause) -> None:
        """More is known now of a fault than was when its block began."""
        self.windows = [replace(window, cause=more) if window.cause == cause else window for window in self.windows]

    def next_record(self) -> int:
        """The sequence number of the kernel log's next record."""
        self.guest.log()
        records = self.guest.agent.kmsg
        return int(records[-1].split(",", 2)[1]) + 1 if records else self.ready.pristine.next_seq

    def count_faults(self, summary: FaultSummary) -> None:
        """Adds the faults of one operation."""
        self.summaries.append(summary)

    def count_model(self, operations: int, compared: int, disagreement: str | None = None) -> None:
        """Adds operations done and answers judged."""
        now = self.model
        self.model = ModelSummary(
            now.operations + operations, now.compared + compared, now.first_disagreement or disagreement
        )

    # --- its end ------------------------------------------------------------------------

    def gather(self) -> None:
        """Quietens the guest and brings home what the oracles look at. Raises MachineEnded if it is dead."""
        self.guest.reset()
        after = self.guest.settle()
        records, overruns = self.log()
        self._judge_log(records, overruns)
        self._judge_objects(after)
        self._judge_local_dsqs()
        self._watch_kmemleak(records)
        self._watch_lockdep()

    def log(self) -> tuple[list[LogRecord], int]:
        """The whole kernel log since the snapshot, what the test read itself included, and how often it overran."""
        self.guest.log()
        agent = self.guest.agent
        return [record for text in agent.kmsg for record in parse_kmsg(text)], agent.overruns

    def _judge_log(self, records: Sequence[LogRecord], overruns: int) -> None:
        seen = dmesg.watched(records, self.ready.pristine.next_seq)
        self.evidence.append(replace(seen, payload=len(records), lost=seen.lost + overruns))
        found = self.reports(records)
        for window in self.windows:
            # What is expected in it may not be so elsewhere, under the same signature.
            during = {(f.signature, f.expected) for f in self.reports(window.within(records))}
            found = [window.cause.of(f) if (f.signature, f.expected) in during else f for f in found]
            for finding in found:
                if finding.counts and (finding.signature, finding.expected) in during:
                    self._blame(window.cause, "splat", finding)
        self.findings += found

    def reports(self, records: Sequence[LogRecord]) -> list[Finding]:
        """What these records of the kernel log hold, what is expected of them marked."""
        provoked = dmesg.Provoked(PROVOKED, tuple(self.armed))
        return dmesg.findings(records, self.ready.symbols, self.expected, provoked)

    def blame_sites(self, outcome: str, findings: Sequence[Finding], causes: Sequence[Cause]) -> None:
        """Books findings that tell their fault on the sites of these causes."""
        for finding in findings:
            for cause in dict.fromkeys(causes):
                if (cause.fault or None) == finding.fault and cause.site == finding.site:
                    self._blame(cause, outcome, finding)

    def _blame(self, cause: Cause, outcome: str, finding: Finding) -> None:
        """Books a finding on the site that it came under."""
        site = cause.operation, cause.type, cause.stack
        self.summaries = [blame(total(self.summaries), site, outcome, finding.signature)]

    def _judge_objects(self, after: str) -> None:
        """What lives and should not. Ledger and exact count cost nothing; only where they show something kmemleak is
        asked, which has the whole stack of what it sees. They count as well where it stopped watching."""
        before = percpu.parse(self.ready.pristine.percpu)
        held = objects.look(self.guest.agent, self.ready, after)
        counted = percpu.findings(before, percpu.parse(after), self.planted)
        if counted or self._left(held) or not held.exact:
            leaks: list[Finding] = []
            with contextlib.suppress(Inconclusive):
                leaks = self._reported()
            # What a chain of deferred frees gave back meanwhile was late, not lost.
            after = self.guest.settle()
            held = objects.look(self.guest.agent, self.ready, after)
            told, leaks = alive.supported([*self.findings, *self._left(held)], leaks)
            self.findings = told
            if not self.blame(leaks) and not held.exact:
                self.findings += percpu.findings(before, percpu.parse(after), self.planted)
        self.evidence += [Evidence("percpu", payload=percpu.parse(after).nr_cur_alloc), held.evidence]

    def _left(self, held: objects.Living) -> list[Finding]:
        """What the ledger holds and neither was planted nor has been told with the fault that it came under."""
        told = {(finding.kind, finding.function) for finding in self.findings if finding.oracle == ledger.ORACLE}
        return [
            finding for finding in held.findings()
            if (finding.kind, finding.function) not in told
            and not (finding.function in PLANTED and finding.count <= self.planted)
        ]  # fmt: skip

    def _reported(self) -> list[Finding]:
        """What kmemleak reports; where it has been asked before, those of its findings that count, taken back."""
        known = [finding for finding in self.findings if finding.oracle == kmemleak_oracle.ORACLE and finding.counts]
        self.findings = [finding for finding in self.findings if finding not in known]
        return known or self.unreferenced()

    def blame(self, leaks: Sequence[Finding]) -> bool:
        """Adds what kmemleak found; True if any of it was not planted by us."""
        told = [
            replace(leak, allowed_by="planted as a canary") if self.planted and leak.function in PLANTED else leak
            for leak in leaks
        ]
        self.findings += told
        return any(leak.counts for leak in told)

    def unreferenced(self) -> list[Finding]:
        """What kmemleak finds, after its whole protocol. Raises Inconclusive where it did not look to the end."""
        try:
            text = kmemleak.report(self.guest.agent)
        except kmemleak.Refused as error:
            seen = kmemleak_oracle.watched("", self.log()[0], error.reason)
            raise Inconclusive(f"{seen.oracle} did not watch: {seen.why}") from error
        return kmemleak_oracle.findings(text, self.ready.symbols)

    def _judge_local_dsqs(self) -> None:
        """Whether each CPU's local DSQ counts what it holds; looked at again only where it does not."""
        layout = self.ready.layout
        if layout is None:
            return
        seen = local_dsqs.look(self.guest.vm, layout)
        if any(one.wrong for one in seen):
            self.guest.visit(self.ready.machine.spec.online_cpus)
            self.findings += local_dsqs_oracle.findings(seen, local_dsqs.look(self.guest.vm, layout))
        self.evidence.append(local_dsqs_oracle.watched(seen, layout.cpus))

    def _watch_kmemleak(self, records: Sequence[LogRecord]) -> None:
        """kmemleak turns itself off for good when it runs out of memory: its silence is then worth nothing."""
        seen = kmemleak_oracle.watched("", records, kmemleak.refusal(self.guest.agent))
        self.evidence.append(replace(seen, payload=None))

    def _watch_lockdep(self) -> None:
        """Where the kernel has lockdep: what made it turn itself off may be expected, what it then missed is not."""
        if self.ready.config.get("LOCKDEP") != "y":
            return
        answer = self.guest.agent.call("read", check=False, record=False, path=lockdep.STATS)
        self.evidence.append(lockdep.watched(answer.get("data") if answer["ok"] else None))

    def conclude(self, error: BaseException | None) -> TestResult:
        """The result, from what the test raised and from what the evidence shows."""
        error, ending = self.ending(error)
        if ending.outcome in BAD:  # before it is quietened: as the test left it
            self._keep(ending.why)
        # Whatever else went wrong, what a living guest shows against its kernel must not be lost.
        if ending.outcome is not Outcome.SKIP and not isinstance(error, MachineEnded | HarnessError | KernelFailure):
            try:
                self.gather()
            except Exception as late:  # the guest may die of what the test did, only now
                ending = _worse(ending, self.ending(late)[1])
        self.findings = [*ending.findings, *allow.applied(self.findings, self.allow, self.ready.kernel.arch)]
        outcome, why = self._outcome(ending)
        if outcome in BAD:
            self._keep(why)
        return TestResult(
            id=self.test_id,
            arch=self.ready.kernel.arch,
            kernel=self.ready.kernel.id,
            machine=self.ready.machine.spec.name,
            outcome=outcome,
            seconds=time.monotonic() - self.started,
            why=why,
            faults=total(self.summaries) if self.summaries else FaultSummary(),
            model=self.model,
            evidence=tuple(self.evidence),
            findings=tuple(self.findings),
            kept=self.kept,
            dump=self.dump,
            search=self.search,
        )

    def ending(self, error: BaseException | None) -> tuple[BaseException | None, Ending]:
        """What was raised, examined if the guest hangs, and what it means."""
        if isinstance(error, MachineEnded):
            error = look_into(self.guest.vm, error, self.guest.agent.scale, self.ready.layout)
        resolve = self.ready.addresses if isinstance(error, Hung) else None
        ending = self._caused(ending_of(error, self.ready.symbols, self.expected, resolve), error)
        if isinstance(error, MachineEnded) and ending.outcome is Outcome.FAIL and self.dumper and not self.dump:
            self.dump = self.dumper.dump(self.guest, self.ready, self.test_id)
            told = f"guest memory: {self.dump.path or self.dump.why}"
            ending = replace(ending, findings=tuple(replace(f, log=(told, *f.log)) for f in ending.findings))
        return error, self._allowed(ending)

    def _caused(self, ending: Ending, error: BaseException | None) -> Ending:
        """The ending, its findings told under which fault they came; that of a guest that died is in its last words."""
        cause, outcome = self._cause, ""
        if isinstance(error, MachineEnded):
            outcome = "hang" if any(finding.kind == "hang" for finding in ending.findings) else "crash"
            last = told(error.lines) or self._last_words(error)
            if last is not None:
                planned = cause.fault if cause else ""  # a sweep counts its runs, a plan says what it is
                cause = swept_cause(*last)
                cause = replace(cause, fault=planned or cause.fault)
        if cause is None or ending.outcome is not Outcome.FAIL:
            return ending
        findings = tuple(cause.of(finding) for finding in ending.findings)
        if outcome:
            self.summaries.append(cause.summary(outcome, findings))
        return replace(ending, findings=findings)

    def _allowed(self, ending: Ending) -> Ending:
        """The ending; one that is all allowed does not fail the test, but cut it short, so that it cannot pass."""
        findings = tuple(allow.applied(ending.findings, self.allow, self.ready.kernel.arch))
        if ending.outcome is Outcome.FAIL and findings and all(finding.allowed_by for finding in findings):
            why = f"cut short by what is allowed ({findings[0].allowed_by}): {ending.why}"
            return Ending(Outcome.INCONCLUSIVE, why, findings)
        return replace(ending, findings=findings)

    def _last_words(self, error: MachineEnded) -> tuple[Cause, int] | None:
        """What a guest that answers no more was at: it stands in its memory, as long as QEMU lives."""
        where = self.guest.agent.told
        if error.ended.how is not How.RUNNING or not where:
            return None
        try:
            memory = self.guest.vm.memory(where, TOLD.size)
        except (MachineEnded, MachineLost):
            return None  # it ended meanwhile: the console has the word
        return read_told(memory, lambda address: self.ready.symbols.chain([0, address])[-1].function)

    def _keep(self, why: str) -> None:
        """Saves the guest, where that is asked for and not done yet."""
        if self.keeper is not None and self.kept is None:
            self.kept = self.keeper.keep(self.guest, self.ready, self.test_id, why)

    def _outcome(self, ending: Ending) -> tuple[Outcome, str]:
        counting = [finding for finding in self.findings if finding.counts]
        if counting:
            return Outcome.FAIL, ending.why or counting[0].title
        if ending.outcome is not Outcome.PASS:
            return ending.outcome, ending.why
        blind = [evidence for evidence in self.evidence if not evidence.watched or evidence.lost]
        if blind:
            return (
                Outcome.INCONCLUSIVE,
                f"{blind[0].oracle} did not watch: {blind[0].why or 'records were lost'}",
            )
        faults = total(self.summaries) if self.summaries else FaultSummary()
        hit = {name for site in faults.sites if site.injected for name in site.stack}
        spared = [name for name in self.must_inject if name not in hit]
        if spared:
            return Outcome.INCONCLUSIVE, f"no fault was injected under {', '.join(spared)}"
        absorbed = [site for site in faults.sites if site.outcomes.get("absorbed") and not site.optional]
        if absorbed:
            site = absorbed[0]
            return (
                Outcome.INCONCLUSIVE,
                f"{site.operation} succeeds although its {site.type} allocation fails at {' < '.join(site.stack)}"
                f" ({plural(len(absorbed), 'such site')}), and nobody declared it optional",
            )
        return Outcome.PASS, ""

    def scenario(self) -> Scenario:
        """What was done, for the replay file and the leak batch."""
        operations: tuple[Operation, ...] = tuple(done.operation for done in self.guest.agent.history)
        return Scenario(self.ready.machine.spec.name, operations, self.seed, self.sequence)


def _worse(first: Ending, second: Ending) -> Ending:
    """Both happened: a failure of the kernel outranks what could not be seen, which outranks a pass."""
    worse = first if first.outcome in (Outcome.FAIL, second.outcome) else second
    return replace(worse, findings=(*first.findings, *second.findings))
