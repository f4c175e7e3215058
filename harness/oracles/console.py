# SPDX-License-Identifier: GPL-2.0-only
"""Comparing a guest's console with its kernel log: a report that only the console shows is lost evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from harness.core.records import Evidence, Finding, LogRecord
from harness.core.words import plural
from harness.oracles import dmesg
from harness.oracles.registry import Oracle, TestEnd
from harness.oracles.splat.frames import Symbolize
from harness.oracles.splat.log import parse_console, parse_kmsg

ORACLE = "console"

ALIKE = 0.8
"""A line of the console that is so similar to one of the log is that one, with characters lost: difflib's ratio, where
1.0 is equal."""


def unlogged(lines: Sequence[str], records: Iterable[LogRecord]) -> list[LogRecord]:
    """The kernel's lines on the console, recognised by time stamps, that are not among the `records` of its log."""
    known = {(record.time, record.text) for record in records}
    return [one for one in parse_console(lines) if one.time is not None and (one.time, one.text) not in known]


def findings(
    lines: Sequence[str], records: Sequence[LogRecord], symbolize: Symbolize | None = None, expect: Sequence[str] = ()
) -> list[Finding]:
    """The reports that the console shows and the log does not, without those that do not count.

    A report whose first line differs from one of the log in a few characters is the same: a console loses some.
    """
    strange = unlogged(lines, records)
    if not strange:
        return []
    found = [one for one in dmesg.findings(strange, symbolize, expect) if one.counts]
    texts = list({record.text for record in records}) if found else []
    return [one for one in found if not (one.log and get_close_matches(one.log[0], texts, 1, ALIKE))]


def watched(found: Sequence[Finding], lost: int) -> Evidence:
    """The evidence: `found` is only on the console, of which `lost` bytes were not kept."""
    if lost:
        return Evidence(ORACLE, lost=lost, why=f"it overflowed, {plural(lost, 'byte')} of it are lost")
    if found:
        return Evidence(ORACLE, watched=False, why=f"it shows what the kernel log does not: {found[0].title}")
    return Evidence(ORACLE)


def judge(test: TestEnd) -> None:
    """Compare the console with the log. Messages during the oracles' work are in neither's first reading."""
    vm, pristine = test.guest.vm, test.target.pristine
    lines, lost = vm.console_lines, vm.console.lost
    found = test.only_on_console(lines, test.records)
    if found:
        boot = [record for text in pristine.log for record in parse_kmsg(text)]
        fresh, overruns = test.log()
        late = fresh[len(test.records) :]
        seen = dmesg.watched(fresh, pristine.next_seq)
        test.evidence.append(replace(seen, payload=len(late), lost=seen.lost + overruns))
        test.findings += test.reports(late)
        found = test.only_on_console(lines, [*boot, *fresh])
    test.evidence.append(watched(found, lost))


ORACLES = (Oracle(ORACLE, judge, order=90),)
"""It judges what the other oracles were shown; no defect of the kernel's proves it, but tests/unit/session do."""
