# SPDX-License-Identifier: GPL-2.0-only
"""Owns the summary at the end of a run: findings first, one screen, the verdict on the last line."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.text import Text

from harness.records import Outcome, Role, Verdict
from harness.report import coverage, sites
from harness.report.text import (
    allowed_lines,
    callers,
    clean,
    distinct,
    dump_line,
    duration,
    kept_line,
    kernel_line,
    machine_line,
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
from harness.words import plural

WIDTH = 80
_LABEL = 10
_FINDINGS = 3
_REASONS = 4
_CALLERS = 3
_OPERATIONS = 3
_STACKS = 2
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
    colour = stream.isatty() and not os.environ.get("NO_COLOR")
    console = Console(
        file=stream,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
    lines = render(results, report).splitlines()
    for line in lines[:-1]:
        text = Text(line)
        if line[:_LABEL].strip():
            text.stylize("bold", 0, _LABEL)
        console.print(text)
    last = Text(lines[-1])
    last.stylize(_STYLES[results.verdict], 0, len(f"verdict: {results.verdict}"))
    console.print(last)


def render(results: Results, report: str = "out/latest/report.html") -> str:
    """The summary as plain text, wrapped at 80 columns but for commands and the last line."""
    lines = [*_findings(results, report), *_reasons(results, report), *_facts(results)]
    if results.next:
        lines.append(f"{'next':<{_LABEL}}{clean(results.next)}")  # never wrapped: it is to be pasted
    return "\n".join([*lines, verdict_line(results, report)]) + "\n"


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
            yield " " * _LABEL + clean(source_line(line, finding))
        for told in sequence_lines(finding):
            yield " " * _LABEL + clean(told)
        if under := sites.under_fault(finding):
            yield from _entry("", under)
        others = f" and {plural(times - 1, 'more test')}" if times > 1 else ""
        yield from _entry("", f"in {test.id} [{test.kernel}]{others}")
        if finding.fault and not number:  # they are long: of the others the report has them
            yield " " * _LABEL + clean(sites.fault_line(results, test, finding))
        if test.replay:
            yield " " * _LABEL + clean(replay_line(test))
        if test.kept:
            yield " " * _LABEL + clean(kept_line(test))
        if test.dump:
            yield " " * _LABEL + clean(dump_line(test))
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
    # Base and patched run on the same machine: once is enough, with the slower one's times.
    alike = {(m.arch, m.spec, m.accelerator, m.why): m for m in sorted(results.machines, key=_times)}
    known: set[tuple[str, str]] = set()
    for machine in alike.values():
        yield from _entry("machine", machine_line(machine, told=(machine.accelerator, machine.why) in known))
        known.add((machine.accelerator, machine.why))
    oracles = sorted({canary.oracle for canary in results.canaries})
    yield from _entry(
        "canaries", f"{sums.caught} of {sums.canaries} caught: {', '.join(oracles) or 'none run'}"
    )
    outcomes = ", ".join(f"{number} {word}" for word, number in sums.outcomes)
    yield from _entry("tests", f"{sums.tests}: {outcomes}" if sums.tests else "none")
    skipped = [test for test in results.under_test() if test.outcome is Outcome.SKIP]
    if skipped:
        yield from _entry("skipped", f"{skipped[0].id}: {skipped[0].told()}{_more(len(skipped) - 1)}")
    changes = Counter(row.change for row in results.comparison)
    if changes:
        yield from _entry(
            "to base", ", ".join(f"{number} {change}" for change, number in sorted(changes.items()))
        )
    if sums.reached or sums.injected:
        counts = f"{sums.reached} reached, {sums.injected} injected, {sums.handled} handled"
        yield from _entry("faults", f"{plural(sums.sites, 'site')}: {counts}")
    yield from _sites(results)
    for number, line in enumerate(allowed_lines(results)):
        yield from _entry("" if number else "allowed", line)
    for line in coverage.lines(results):
        yield from _entry("coverage", line)
    if sums.operations:
        compared = f"{plural(sums.operations, 'operation')}, {plural(sums.compared, 'answer')} compared"
        told = sums.disagreements[0] if sums.disagreements else "the model agrees with each"
        yield from _entry("model", f"{compared}: {told}" if sums.compared else compared)
    for line in search_lines(results):
        yield from _entry("search", line)
    seed = "" if results.run.seed is None else f", seed {results.run.seed}"
    yield from _entry("time", f"{duration(results.run.seconds)}{seed}")


def _sites(results: Results) -> Iterator[str]:
    """What became of the faults, by operation; a site that is wrong and has no finding is named."""
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
