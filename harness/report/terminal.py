# SPDX-License-Identifier: GPL-2.0-only
"""The summary at the end of a run: findings first, one screen, the verdict on the last line."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from rich.text import Text

from harness.core.records import Outcome, PatchHow, Role, Verdict
from harness.core.words import plural
from harness.host.progress import console
from harness.host.streams import Lossy
from harness.report import claims, coverage, sites
from harness.report.text import (
    allowed_lines,
    callers,
    clean,
    distinct,
    dump_line,
    duration,
    fate_line,
    kept_line,
    kernel_line,
    machine_line,
    one_line,
    place,
    replay_line,
    search_lines,
    sequence_lines,
    source_line,
    stack_line,
    totals,
    verdict_line,
)
from harness.verdict import MachineRow, Results
from harness.verdict.sites import is_bad

WIDTH = 80
_LABEL = 10
_FINDINGS = 3
_REASONS = 4
_CALLERS = 3
_OPERATIONS = 3
_STACKS = 2
_PATCHES = 6
_STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.REGRESSED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
}


def show(results: Results, stream: TextIO, report: str = "out/latest/report.html") -> None:
    """Print the summary; `report` is where the reader finds the rest.

    Colours only on a terminal and without NO_COLOR in the environment; the words are the same either way.
    """
    colour = Lossy(stream).isatty() and not os.environ.get("NO_COLOR")
    screen = console(stream, colour=colour)
    lines = render(results, report).splitlines()
    for line in lines[:-1]:
        text = Text(line)
        if line[:_LABEL].strip():
            text.stylize("bold", 0, _LABEL)
        screen.print(text)
    last = Text(lines[-1])
    last.stylize(_STYLES[results.verdict], 0, len(f"verdict: {results.verdict}"))
    screen.print(last)


def render(results: Results, report: str = "out/latest/report.html") -> str:
    """The summary as plain text, wrapped at 80 columns but for commands and the last line."""
    lines = [*_findings(results, report), *_reasons(results, report), *_facts(results)]
    if results.next:
        lines.append(f"{'next':<{_LABEL}}{one_line(results.next)}")  # never wrapped: it is to be pasted
    return "\n".join([*map(one_line, lines), verdict_line(results, report)]) + "\n"


def _entry(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        clean(text),
        WIDTH,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _findings(results: Results, report: str) -> Iterator[str]:
    """Each distinct finding once, with the first test that showed it; excused ones are left to the report."""
    found = distinct(results)
    for number, (test, finding, times) in enumerate(found[:_FINDINGS]):
        yield from _entry("FINDING", f"{finding.kind}: {finding.title}")
        if place(finding):
            by = ", ".join(callers(finding)[:_CALLERS])
            yield from _entry("", f"at {place(finding)}" + (f", called by {by}" if by else ""))
        for stack in finding.stacks[:_STACKS]:
            yield from _entry("", stack_line(stack))
        for line in finding.excerpt:
            yield " " * _LABEL + one_line(source_line(line, finding))
        for text in sequence_lines(finding):
            yield " " * _LABEL + one_line(text)
        if under := sites.under_fault(finding):
            yield from _entry("", under)
        others = f" and {plural(times - 1, 'more test')}" if times > 1 else ""
        yield from _entry("", f"in {test.id} [{test.kernel}]{others}")
        if finding.fault and not number:  # they are long: the report has those of the other findings
            yield " " * _LABEL + one_line(sites.fault_line(results, test, finding))
        if test.replay:
            yield " " * _LABEL + one_line(replay_line(results, test))
        if test.kept:
            yield " " * _LABEL + one_line(kept_line(test))
        if test.dump:
            yield " " * _LABEL + one_line(dump_line(test))
    if len(found) > _FINDINGS:
        yield " " * _LABEL + f"and {plural(len(found) - _FINDINGS, 'more finding')} in {report}"


def _reasons(results: Results, report: str) -> Iterator[str]:
    if results.verdict is Verdict.PASS and not any(test.excused for test in results.under_test()):
        return
    for number, line in enumerate(results.why[:_REASONS]):
        yield from _entry("" if number else "why", line)
    if len(results.why) > _REASONS:
        yield " " * _LABEL + f"and {plural(len(results.why) - _REASONS, 'more reason')} in {report}"


def _facts(results: Results) -> Iterator[str]:
    sums = totals(results)
    for kernel in results.kernels:
        yield from _entry("kernel", kernel_line(kernel))
    odd = [fate for fate in results.patches.fates if fate.how is not PatchHow.APPLIED]
    lines = [*map(fate_line, odd), *results.patches.remarks]
    for number, line in enumerate(lines[:_PATCHES]):
        yield from _entry("" if number else "patch", line)
    for number, line in enumerate(claims.lines(results)):
        yield from _entry("" if number else "claims", line)
    if len(lines) > _PATCHES:
        yield from _entry("", f"and {plural(len(lines) - _PATCHES, 'more line')} in results.json")
    # Base and patched run on the same machine: it is shown once, with the slower one's times.
    alike = {(m.arch, m.spec, m.accelerator, m.why): m for m in sorted(results.machines, key=_times)}
    known: set[tuple[str, str]] = set()
    for machine in alike.values():
        yield from _entry("machine", machine_line(machine, explained=(machine.accelerator, machine.why) in known))
        known.add((machine.accelerator, machine.why))
    if results.run.protection.lacking:
        yield from _entry("sandbox", results.run.protection.describe())
    oracles = sorted({canary.oracle for canary in results.canaries})
    yield from _entry("canaries", f"{sums.caught} of {sums.canaries} caught: {', '.join(oracles) or 'none run'}")
    outcomes = ", ".join(f"{number} {word}" for word, number in sums.outcomes)
    turns = sum(test.turns for test in results.under_test())
    how = f"; in {turns} of them the CPUs took turns (one thread of QEMU)" if turns else ""
    yield from _entry("tests", f"{sums.tests}: {outcomes}{how}" if sums.tests else "none")
    skipped = [test for test in results.under_test() if test.outcome is Outcome.SKIP]
    if skipped:
        yield from _entry("skipped", f"{skipped[0].id}: {skipped[0].describe()}{_more(len(skipped) - 1)}")
    changes = Counter(row.change for row in results.comparison)
    if changes:
        yield from _entry("to base", ", ".join(f"{number} {change}" for change, number in sorted(changes.items())))
    if sums.reached or sums.injected:
        counts = f"{sums.reached} reached, {sums.injected} injected, {sums.handled} handled"
        yield from _entry("faults", f"{plural(sums.sites, 'site')}: {counts}")
    yield from _sites(results)
    for number, line in enumerate(allowed_lines(results)):
        yield from _entry("" if number else "allowed", line)
    for line in coverage.lines(results):
        yield from _entry("coverage", line)
    for number, line in enumerate(coverage.patch_lines(results)):
        yield from _entry("" if number else "patch", line)
    for number, line in enumerate(claims.lines(results)):
        yield from _entry("" if number else "claims", line)
    if sums.operations:
        compared = f"{plural(sums.operations, 'operation')}, {plural(sums.compared, 'answer')} compared"
        agreement = sums.disagreements[0] if sums.disagreements else "the model agrees with each"
        yield from _entry("model", f"{compared}: {agreement}" if sums.compared else compared)
    for line in search_lines(results):
        yield from _entry("search", line)
    seed = "" if results.run.seed is None else f", seed {results.run.seed}"
    guarded = results.run.protection
    within = f"; sandbox: {guarded.how}, nothing lacking" if guarded.how and not guarded.lacking else ""
    yield from _entry("time", f"{duration(results.run.seconds)}{seed}{within}")


def _sites(results: Results) -> Iterator[str]:
    """How the faults ended, by operation; names each bad site that has no finding."""
    for table in (table for table in sites.tables(results) if table.role is not Role.BASE):
        rows = [site for group in table.groups for site in group.sites]
        yield from _entry("sites", f"{table.arch} {'; '.join(sites.by_operation(rows, _OPERATIONS))}")
        alone = [site for site in rows if is_bad(site) and not site.findings]
        if alone:
            how = f"{sites.outcome(alone[0])}, declared nowhere" if alone[0].outcome == "absorbed" else alone[0].outcome
            where = f"{how}: {alone[0].operation}, fault at {sites.called(alone[0].stack)}"
            yield from _entry("", where + _more(len(alone) - 1))


def _times(machine: MachineRow) -> tuple[str, float, float]:
    return machine.arch, machine.boot_seconds, machine.restore_seconds


def _more(number: int) -> str:
    return f" (and {number} more)" if number else ""
