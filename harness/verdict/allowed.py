# SPDX-License-Identifier: GPL-2.0-only
"""The use of the allow-list: how often each entry was used, and which are expired or fit nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from harness.core import allow
from harness.core.errors import HarnessError, UsageError
from harness.core.plan import Allowed
from harness.core.records import decode
from harness.core.words import plural
from harness.verdict.log import Log
from harness.verdict.rows import PSEUDO, AllowedRow, TestRow


def table(log: Log) -> tuple[AllowedRow, ...]:
    """One row for each entry of the run's allow-list. Raises HarnessError where the log's plan holds no such list."""
    plan = log.run.plan if log.run and isinstance(log.run.plan, dict) else {}
    try:
        listed = decode(plan.get("allow", ()), tuple[Allowed, ...])
    except UsageError as error:
        raise HarnessError(
            f"the event log holds a damaged allow-list: {error.what}", step="run again; this log cannot be judged"
        ) from error
    reasons = {entry.reason for entry in listed if not entry.expired}
    tests = list(log.rows())
    # A replay does one test, and an architecture on which none ran had nothing to allow.
    ran = {test.arch for test in tests if test.id not in PSEUDO} if not plan.get("test_id") else set()
    return tuple(_row(entry, tests, reasons, ran) for entry in listed)


def _row(entry: Allowed, tests: list[TestRow], reasons: Collection[str], ran: Collection[str]) -> AllowedRow:
    """The entry with the findings that it fits: those that were allowed or, once it has expired, still count."""
    used = [
        finding
        for test in tests
        for finding in test.findings
        if (finding.counts if entry.expired else finding.allowed_by in reasons)
        and allow.fits(entry, finding.signature, test.arch)
    ]
    could = bool(ran) and (not entry.arch or bool({*entry.arch} & {*ran}))
    return AllowedRow(**vars(entry), findings=len(used), could=could)


def notes(rows: Collection[AllowedRow]) -> Iterator[str]:
    """What to fix in the list, one line each: entries that have expired, and those that no finding fitted."""
    for row in rows:
        if row.expired:
            count = "counts" if row.findings == 1 else "count"
            more = f"; {plural(row.findings, 'finding')} that it fits {count} now" if row.findings else ""
            yield f"{row.place}: expired on {row.expires} and allows no longer: {row.reason}{more}"
        elif row.could and not row.findings:
            yield f"{row.place}: no finding of this run fits {row.signature}, allowed for: {row.reason}"


def signatures(test: TestRow) -> frozenset[str]:
    """The signatures of a test's findings that are allowed, and of no other."""
    counting = {finding.signature for finding in test.findings if finding.counts}
    return frozenset(f.signature for f in test.findings if f.allowed_by is not None) - counting
