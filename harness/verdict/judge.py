# SPDX-License-Identifier: GPL-2.0-only
"""The rules that turn an event log into one verdict.

Precedence: regressed, fail, inconclusive, pass. A pass has to be earned by a whole log; whatever is
missing, unwatched or unproved makes the run inconclusive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from harness.core.records import SCHEMA, Event, Outcome, Verdict
from harness.core.words import plural
from harness.verdict import allowed, coverage, lacks
from harness.verdict.compare import Compared, compare
from harness.verdict.log import Log, Reason
from harness.verdict.rows import PSEUDO, Results, RunRow, TestRow
from harness.verdict.sites import objection, remarks, table

_WORST_FIRST = (Verdict.REGRESSED, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)


def judge(events: Iterable[Event], archs: Collection[str] | None = None) -> Results:
    """The results of a run from its event log, run-end included; with `archs` what they would be of these
    architectures alone, in a run that goes on.

    Every kernel that takes part needs its kernel event, also one that did not build (its test-end has the
    id ``build`` or ``boot``). Raises HarnessError when an event's data is not what records.EventKind
    says; a log that lacks something is inconclusive, never pass.
    """
    log = Log(events, archs)
    log.settle(_settled)
    compared = compare(log)
    lost = (Reason(Verdict.INCONCLUSIVE, line) for line in lacks.gaps(log))
    reasons = [*log.complete(), *lost, *coverage.gaps(log), *compared.reasons]
    for test in log.rows():
        reasons += _for_itself(log, test, compared)
    reasons.sort(key=lambda reason: _WORST_FIRST.index(reason.verdict))  # a stable sort: otherwise in the log's order
    verdict = reasons[0].verdict if reasons else Verdict.PASS
    sites = table(log.rows())
    listed = allowed.table(log)
    step = next((reason.step for reason in reasons if reason.step), "") or log.again()
    return Results(
        schema=SCHEMA,
        verdict=verdict,
        run=log.run or RunRow(),
        kernels=tuple(log.kernels.values()),
        machines=tuple(log.machines),
        canaries=tuple(log.canaries),
        tests=tuple(_excused(log, test, compared) for test in log.rows()),
        comparison=compared.rows,
        why=tuple(dict.fromkeys(reason.line for reason in reasons)) or (_good(compared),),
        next=step if verdict is Verdict.INCONCLUSIVE else "",
        sites=sites,
        coverage=tuple(log.coverage.values()),
        remarks=(*remarks(log.declared, log.kernels.values(), sites), *allowed.notes(listed)),
        allowed=listed,
        patches=log.patches,
    )


def _good(compared: Compared) -> str:
    known = sum(row.change == "still-failing" for row in compared.rows)
    if known:
        fail = "fails, and fails" if known == 1 else "fail, and fail"
        return f"{plural(known, 'test')} {fail} on base in the same way; all else passed"
    return "every test passed or was skipped, and every oracle was shown to work"


def _settled(test: TestRow) -> TestRow:
    """The outcome that the evidence allows, whatever the test's own was."""
    against = [finding for finding in test.findings if finding.counts]
    if test.outcome is not Outcome.FAIL and against:
        return replace(test, outcome=Outcome.FAIL, why=against[0].title)
    if test.outcome is Outcome.SKIP and (why := _blind(test)):
        return replace(test, outcome=Outcome.INCONCLUSIVE, why=why)  # it did something before the skip
    if test.outcome is not Outcome.PASS or test.id in PSEUDO:
        return test
    if test.model.first_disagreement:
        return replace(test, outcome=Outcome.FAIL, why=test.model.first_disagreement)
    against_it, objected = objection(test.faults.sites, allowed.signatures(test))
    if against_it:
        return replace(test, outcome=Outcome.FAIL, why=objected)
    why = _blind(test) or (objected if test.evidence else "no oracle watched it")
    return replace(test, outcome=Outcome.INCONCLUSIVE, why=why) if why else test


def _blind(test: TestRow) -> str:
    """The oracle that did not see all of a test, if any."""
    why = ""
    for seen in test.evidence:
        if not seen.watched:
            why = f"{seen.oracle} was not watching" + (f": {seen.why}" if seen.why else "")
        elif seen.lost:
            why = f"{seen.oracle} lost {plural(seen.lost, 'record')}" + (f": {seen.why}" if seen.why else "")
    return why


def _for_itself(log: Log, test: TestRow, compared: Compared) -> Iterator[Reason]:
    """The reasons of one test without a comparison."""
    kernel = log.kernels.get(test.kernel)
    line = f"{test.id} [{test.kernel}]: {test.describe()}"
    if test.outcome is Outcome.INCONCLUSIVE:
        yield Reason(Verdict.INCONCLUSIVE, line, log.retry(test))
    elif kernel is not None and (not log.under_test(kernel) or kernel.arch in compared.archs):
        return  # base is not under test, and the patched kernel was judged against it
    elif test.outcome is Outcome.FAIL:
        yield Reason(Verdict.FAIL, line)
    elif test.flaky:
        yield Reason(Verdict.INCONCLUSIVE, line, log.retry(test))


def _excused(log: Log, test: TestRow, compared: Compared) -> TestRow:
    kernel = log.kernels.get(test.kernel)
    if test.bad and kernel is not None and not log.under_test(kernel):
        return replace(test, excused="base is not under test")
    return replace(test, excused=compared.excused.get((test.kernel, test.machine, test.id), ""))
