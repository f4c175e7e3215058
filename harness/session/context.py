# SPDX-License-Identifier: GPL-2.0-only
"""One test on one guest: what it did, the evidence at its end, and the result that is recorded."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from harness.core import allow
from harness.core.errors import HarnessError, How, Inconclusive, KernelFailure, MachineEnded, MachineLost
from harness.core.plan import RETRY_LOST_MACHINE, Allowed
from harness.core.records import (
    Dump,
    Evidence,
    FaultSummary,
    Finding,
    Kept,
    LogRecord,
    ModelSummary,
    Operation,
    Outcome,
    Retry,
    Scenario,
    SearchSummary,
    TestResult,
)
from harness.core.words import plural
from harness.faults.cause import LAST_WORDS_BYTES, Cause, Window, last_words, read_last_words, swept_cause
from harness.faults.sites import blame, total
from harness.guest import kmemleak
from harness.guest.guest import Guest
from harness.machine.examine import Hung, look_into
from harness.oracles import console, crash, dmesg, registry
from harness.oracles import kmemleak as kmemleak_oracle
from harness.oracles.objects import PLANTED
from harness.oracles.splat.log import parse_kmsg
from harness.session.dump import Dumper
from harness.session.keep import Keeper
from harness.session.outcome import Ending, ending_of
from harness.session.session import Target

BAD = (Outcome.FAIL, Outcome.INCONCLUSIVE)
"""Outcomes after which a guest is worth a look."""

SHORTAGE_REPORTS = (
    r"^percpu: allocation failed",
    r"page allocation failure",
    r"[Uu]nable to allocate memory",
    r"^WARNING at mm/vmalloc\.c:\d+ in va_alloc",
)
"""The kernel's reports when memory runs out: expected only while a fault is armed."""

WORDS = 400
"""Characters of the error that are reported of a lost guest."""


class TestContext:
    """A guest, and what the test did and saw on it."""

    __test__ = False  # nothing that pytest collects

    def __init__(self, test_id: str, target: Target, seed: int, *, sequential: bool = False) -> None:
        self.test_id = test_id
        self.target = target
        self.seed = seed
        self.sequential = sequential
        """Whether what it does needs no two CPUs at the same instant."""
        self.guest: Guest = target.restore(sequential=sequential)
        self.expected: list[str] = []
        self.summaries: list[FaultSummary] = []
        self.model = ModelSummary()
        self.evidence: list[Evidence] = []
        self.findings: list[Finding] = []
        self.must_inject: tuple[str, ...] = ()
        self.planted = 0
        """How many objects of each kind our module leaked on purpose."""
        self.after = ""
        self.records: list[LogRecord] = []
        self.overruns = 0
        self.allow: tuple[Allowed, ...] = ()
        """Known findings that do not count."""
        self.keeper: Keeper | None = None
        self.kept: Kept | None = None
        self.dumper: Dumper | None = None
        self.dump: Dump | None = None
        self.attempts = 1
        """How often its guest was restored: more than once only if QEMU was lost before the test began."""
        self.hears: Callable[[Retry], None] | None = None
        """Called for a guest that was lost and is restored again."""
        self.started = time.monotonic()
        self.windows: list[Window] = []
        """The parts of the kernel log that came under an injected fault, with the fault."""
        self.armed: list[tuple[int, int]] = []
        """The first and last records of the kernel log while a fault was armed."""
        self.arms = False
        """Whether a fault was ever armed."""
        self.sequence: tuple[Operation, ...] = ()
        """The moves of a search that show its finding."""
        self.search: SearchSummary | None = None
        self._cause: Cause | None = None

    # --- its beginning ------------------------------------------------------------------

    def enter(self) -> None:
        """Restore the guest; once more if QEMU was lost, which is reported and keeps the test from passing.

        Raises MachineEnded where the kernel died, hangs or reset itself, MachineLost where QEMU is lost again.
        """
        for left in reversed(range(RETRY_LOST_MACHINE + 1)):
            try:
                self.guest.__enter__()
                return
            except (MachineEnded, MachineLost) as error:
                self.guest.__exit__(None, None, None)
                if not left or not crash.hosts(error):
                    self.kept = Kept(why="it was never restored")
                    raise
                self.retried(Retry(self.target.machine.spec.name, error.line()[:WORDS]))
                self.guest = self.target.restore(sequential=self.sequential)

    def retried(self, retry: Retry) -> None:
        """Record that a guest of this test was lost and is restored once more."""
        self.attempts += 1
        if self.hears is not None:
            self.hears(retry)

    # --- called by tests ----------------------------------------------------------------

    def expect(self, *patterns: str) -> None:
        """Expect log findings with these titles (regular expressions) at any time: the test causes them on purpose."""
        self.expected.extend(patterns)

    @contextlib.contextmanager
    def arming(self, *, whole: bool = True) -> Iterator[None]:
        """Expect SHORTAGE_REPORTS within the block, in which a fault is armed.

        Not `whole`: only in the parts that are added to :attr:`armed`, unless the block ends by an exception.
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
        """Book failures within the block under this fault, also if the block ends by an exception."""
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
        """Replace what was known of a fault when its block began."""
        self._cause = more if self._cause == cause else self._cause
        self.windows = [replace(window, cause=more) if window.cause == cause else window for window in self.windows]

    def next_record(self) -> int:
        """The sequence number of the kernel log's next record."""
        self.guest.log()
        records = self.guest.agent.kmsg
        return int(records[-1].split(",", 2)[1]) + 1 if records else self.target.pristine.next_seq

    def count_faults(self, summary: FaultSummary) -> None:
        """Add the faults of one operation."""
        self.summaries.append(summary)

    def count_model(self, operations: int, compared: int, disagreement: str | None = None) -> None:
        """Add operations done and answers judged."""
        now = self.model
        self.model = ModelSummary(
            now.operations + operations, now.compared + compared, now.first_disagreement or disagreement
        )

    # --- its end ------------------------------------------------------------------------

    def gather(self) -> None:
        """Quiesce the guest and call each oracle. Raises MachineEnded if it is dead."""
        self.guest.reset()
        self.after = self.guest.settle()
        self.records, self.overruns = self.log()
        for oracle in registry.every(self.target.suite.oracles):
            if oracle.judge is not None and oracle.applies(self.target):
                oracle.judge(self)
                booked = {evidence.oracle for evidence in self.evidence}
                # Without evidence it did not watch, which is evidence, too.
                missing = [name for name in oracle.due if name not in booked]
                self.evidence += [Evidence(name, watched=False, why="it booked no evidence") for name in missing]

    def log(self) -> tuple[list[LogRecord], int]:
        """The whole kernel log since the snapshot, including what the test has read, and how often it overran."""
        self.guest.log()
        agent = self.guest.agent
        return [record for text in agent.kmsg for record in parse_kmsg(text)], agent.overruns

    def only_on_console(self, lines: Sequence[str], records: Sequence[LogRecord]) -> list[Finding]:
        """Reports that the console shows and these records do not, without known or expected ones."""
        expected = (*self.expected, *(SHORTAGE_REPORTS if self.arms else ()))
        found = console.findings(lines, records, self.target.symbols, expected)
        return [one for one in allow.applied(found, self.allow, self.target.kernel.arch) if one.counts]

    def reports(self, records: Sequence[LogRecord]) -> list[Finding]:
        """The reports in these records of the kernel log, the expected ones marked."""
        during = dmesg.ExpectedReports(SHORTAGE_REPORTS, tuple(self.armed))
        return dmesg.findings(records, self.target.symbols, self.expected, during)

    def blame_sites(self, outcome: str, findings: Sequence[Finding], causes: Sequence[Cause]) -> None:
        """Book findings with a fault on the sites of these causes."""
        for finding in findings:
            for cause in dict.fromkeys(causes):
                if (cause.fault or None) == finding.fault and cause.site == finding.site:
                    self.book(cause, outcome, finding)

    def book(self, cause: Cause, outcome: str, finding: Finding) -> None:
        """Book a finding on the site that it came under."""
        site = cause.operation, cause.type, cause.stack
        self.summaries = [blame(total(self.summaries), site, outcome, finding.signature)]

    def blame(self, leaks: Sequence[Finding]) -> bool:
        """Add kmemleak's findings; True if any of them was not planted by us."""
        found = [
            replace(leak, allowed_by="planted as a canary") if self.planted and leak.function in PLANTED else leak
            for leak in leaks
        ]
        self.findings += found
        return any(leak.counts for leak in found)

    def unreferenced(self) -> list[Finding]:
        """kmemleak's findings, after its whole protocol. Raises Inconclusive where it did not complete its scan."""
        try:
            text = kmemleak.report(self.guest.agent, self.target.pristine.age_ms)
        except kmemleak.Refused as error:
            seen = kmemleak_oracle.watched("", self.log()[0], error.reason)
            raise Inconclusive(f"{seen.oracle} did not watch: {seen.why}") from error
        return kmemleak_oracle.findings(text, self.target.symbols)

    def conclude(self, error: BaseException | None) -> TestResult:
        """The result, from the test's exception and from the evidence."""
        error, ending = self.ending(error)
        if ending.outcome in BAD:  # before it is quiesced: as the test left it
            self._keep(ending.why)
        # Whatever else went wrong, a live guest's evidence against its kernel must not be lost.
        idle = ending.outcome is Outcome.SKIP and not self.guest.agent.history
        if not idle and not isinstance(error, MachineEnded | HarnessError | KernelFailure):
            try:
                self.gather()
            except Exception as late:  # the guest may die of the test only now
                ending = _worse(ending, self.ending(late)[1])
        self.findings = [*ending.findings, *allow.applied(self.findings, self.allow, self.target.kernel.arch)]
        outcome, why = self._outcome(ending)
        if outcome in BAD:
            self._keep(why)
        return TestResult(
            id=self.test_id,
            arch=self.target.kernel.arch,
            kernel=self.target.kernel.id,
            machine=self.target.machine.spec.name,
            outcome=outcome,
            seconds=time.monotonic() - self.started,
            attempts=self.attempts,
            turns=self.target.takes_turns(self.sequential),
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
        """The test's exception, with an examination if the guest hangs, and what it means."""
        if isinstance(error, MachineEnded):
            error = look_into(self.guest.vm, error, self.guest.agent.scale, self.target.readers)
        resolve = self.target.addresses if isinstance(error, Hung) else None
        ending = self._caused(ending_of(error, self.target.symbols, self.expected, resolve), error)
        if isinstance(error, MachineEnded) and ending.outcome is Outcome.FAIL and self.dumper and not self.dump:
            self.dump = self.dumper.dump(self.guest, self.target, self.test_id)
            line = f"guest memory: {self.dump.path or self.dump.why}"
            ending = replace(ending, findings=tuple(replace(f, log=(line, *f.log)) for f in ending.findings))
        return error, self._allowed(ending)

    def _caused(self, ending: Ending, error: BaseException | None) -> Ending:
        """Add to the ending's findings their fault; that of a dead guest is in its last words."""
        cause, outcome = self._cause, ""
        if isinstance(error, MachineEnded):
            outcome = "hang" if any(finding.kind == "hang" for finding in ending.findings) else "crash"
            last = last_words(error.lines) or self._last_words(error)
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
        """The ending; allowed findings do not fail the test, but cut it short, so that it cannot pass."""
        findings = tuple(allow.applied(ending.findings, self.allow, self.target.kernel.arch))
        if ending.outcome is Outcome.FAIL and findings and all(finding.allowed_by for finding in findings):
            why = f"cut short by what is allowed ({findings[0].allowed_by}): {ending.why}"
            return Ending(Outcome.INCONCLUSIVE, why, findings)
        return replace(ending, findings=findings)

    def _last_words(self, error: MachineEnded) -> tuple[Cause, int] | None:
        """The operation of a guest that no longer answers, from its memory, as long as QEMU runs."""
        where = self.guest.agent.last_words
        if error.ended.how is not How.RUNNING or not where:
            return None
        try:
            memory = self.guest.vm.memory(where, LAST_WORDS_BYTES)
        except (MachineEnded, MachineLost):
            return None  # it ended meanwhile: the console has its last words
        return read_last_words(
            memory, self.guest.agent.order, lambda address: self.target.symbols.chain([0, address])[-1].function
        )

    def _keep(self, why: str) -> None:
        """Save the guest, if requested and not done yet."""
        if self.keeper is not None and self.kept is None:
            self.kept = self.keeper.keep(self.guest, self.target, self.test_id, why)

    def _outcome(self, ending: Ending) -> tuple[Outcome, str]:
        counting = [finding for finding in self.findings if finding.counts]
        if counting:
            why = "" if ending.outcome is Outcome.SKIP else ending.why
            return Outcome.FAIL, why or counting[0].title
        if ending.outcome not in (Outcome.PASS, Outcome.SKIP):
            return ending.outcome, ending.why
        blind = [evidence for evidence in self.evidence if not evidence.watched or evidence.lost]
        if blind:
            return (Outcome.INCONCLUSIVE, f"{blind[0].oracle} did not watch: {blind[0].why or 'records were lost'}")
        if ending.outcome is Outcome.SKIP:
            return ending.outcome, ending.why
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
                f" ({plural(len(absorbed), 'such site')}), and is not declared optional",
            )
        return Outcome.PASS, ""

    def scenario(self) -> Scenario:
        """What was done, for the replay file and the leak batch."""
        operations: tuple[Operation, ...] = tuple(done.operation for done in self.guest.agent.history)
        return Scenario(self.target.machine.spec.name, operations, self.seed, self.sequence)


def _worse(first: Ending, second: Ending) -> Ending:
    """The worse of two endings: a failure of the kernel outranks lost evidence, which outranks a pass."""
    worse = first if first.outcome in (Outcome.FAIL, second.outcome) else second
    return replace(worse, findings=(*first.findings, *second.findings))
