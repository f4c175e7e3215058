# SPDX-License-Identifier: GPL-2.0-only
"""A mail for the list: what was tested, what was found, how to see it again, what did not run, which tags fit.

Plain text of 72 columns below a Subject, to be read, completed and sent by a person. Each section is a function from
the results to lines.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.printable import one_line
from harness.core.records import Finding, Frame, Outcome, PatchHow, Role, Verdict
from harness.core.words import plural
from harness.report import claims, coverage, reproducer, sites, text
from harness.report.columns import BLANK, INDENT, Line, entries, entry, prose, quoted, render, title, whole
from harness.report.reproducer import Program
from harness.session import replay_file
from harness.verdict import KernelRow, Results, TestRow

FINDINGS = 12
"""Findings that are shown with their stacks; of the others the title alone."""

FRAMES, STACKS, LOG, TESTS, REASONS, OPERATIONS = 24, 3, 30, 6, 8, 3
"""Of a finding: frames of a stack, further stacks, lines of the log, tests. Of a run: reasons, operations."""

HASH, SHORT = 12, 16
"""Letters of a commit (submitting-patches.rst) and of a content hash."""

NAME = "YOUR NAME <YOUR ADDRESS>"

FILES = (".patch", ".diff", ".mbox", ".eml")
"""A patch whose mail has no title is called by its file."""

_NUMBERED = re.compile(r"(?:v(\d+)-)?\d{4}-(.+)\.(?:patch|diff|eml)")
"""git format-patch's name of a patch's file."""


@dataclass(frozen=True)
class Bisected:
    """What a bisection found, in sentences, and the `commit` with its `title` if it named one that brought it."""

    found: tuple[str, ...]
    commit: str = ""
    title: str = ""


@dataclass(frozen=True)
class Cause:
    """A finding by its signature, with every test that showed it."""

    finding: Finding
    tests: tuple[TestRow, ...]

    @property
    def first(self) -> TestRow:
        """The test that it is shown with: one that left a replay file, if there is any."""
        return next((test for test in self.tests if test.replay), self.tests[0])


def mail(results: Results, bisected: Bisected | None = None) -> str:
    """The mail. What came out of a guest is made visible, and cannot act as a trailer or a patch."""
    return render(lines(results, bisected))


def lines(results: Results, bisected: Bisected | None = None) -> list[Line]:
    """The mail's lines."""
    found = causes(results)
    sections: tuple[tuple[str, Iterator[Line]], ...] = (
        ("What was tested", _tested(results)),
        ("Found", _found(results, found)),
        ("Bisected", _bisected(bisected)),
        ("What the patch claims", _claims(results)),
        ("Against the base", _compared(results)),
        ("What did not run", _missing(results)),
        ("Tags", _tags(results, found, bisected)),
    )
    told = [Line(f"Subject: {one_line(subject(results, found))}", whole=True), BLANK, *prose(sentence(results, found))]
    for name, body in sections:
        if rows := list(body):
            told += [*title(name), *rows]
    return told


def causes(results: Results) -> list[Cause]:
    """What speaks against the kernels under test, by signature, in the order it came."""
    found: dict[str, list[tuple[TestRow, Finding]]] = {}
    for test, finding in text.counted(test for test in results.under_test() if not test.excused):
        found.setdefault(finding.signature, []).append((test, finding))
    return [Cause(rows[0][1], _once(test for test, _ in rows)) for rows in found.values()]


def _once(tests: Iterable[TestRow]) -> tuple[TestRow, ...]:
    return tuple({(test.kernel, test.machine, test.id): test for test in tests}.values())


# --- the first lines ------------------------------------------------------------------------


def subject(results: Results, found: Sequence[Cause]) -> str:
    """A reply to the first patch where a series has titles, else the defect and the kernel."""
    patches, version = titles(results)
    if patches and not patches[0].endswith(FILES):
        number = f" 1/{len(patches)}" if len(patches) > 1 else ""
        return f"Re: [PATCH{version}{number}] {patches[0]}"
    there = [fate.name for fate in results.patches.fates] if results.patches.alone else []
    what = next((_headline(cause.finding) for cause in found), str(results.verdict).upper())
    mark = "[REGRESSION] " if results.verdict is Verdict.REGRESSED and not patches else ""
    series = f" with {patches[0]}" if patches else f", which has '{there[0]}'" if there else ""
    return f"{mark}{what} on Linux {_release(results)}{series}"


def titles(results: Results) -> tuple[list[str], str]:
    """The titles of the patches that were tested, in their order, and `` v2`` where their names have a version."""
    raw = next((kernel.patches for kernel in results.kernels if kernel.patches), ())
    named = [_NUMBERED.fullmatch(name) for name in raw]
    versions = {found[1] for found in named if found and found[1]}
    version = f" v{versions.pop()}" if len(versions) == 1 else ""
    return [found[2].replace("-", " ") if found else name for name, found in zip(raw, named, strict=True)], version


def _headline(finding: Finding) -> str:
    """A finding in a few words: the kind's, unless the kernel's own have it."""
    kind = "WARNING" if finding.kind == "warn" else finding.kind
    return f"{kind} in {finding.function}()" if finding.function else finding.title


def _title(finding: Finding) -> str:
    """What was found, its kind only where its title does not say it."""
    return finding.title if finding.kind.lower() in finding.title.lower() else f"{finding.kind}: {finding.title}"


def _release(results: Results) -> str:
    tested = [kernel for kernel in results.kernels if kernel.role is not Role.BASE]
    return ", ".join(dict.fromkeys(kernel.release for kernel in tested)) or "of unknown release"


def sentence(results: Results, found: Sequence[Cause]) -> str:
    """The verdict in one sentence."""
    sums = text.totals(results)
    on = f"on {_and(list(dict.fromkeys(test.arch for test in results.under_test())))}" if sums.tests else "nowhere"
    alone = "this kernel, which has the patch" if results.patches.alone else "this kernel"
    what = "this series" if any(kernel.patches for kernel in results.kernels) else alone
    ran = plural(sums.tests, "test")
    match results.verdict:
        case Verdict.PASS:
            passed = sum(test.outcome is Outcome.PASS for test in results.under_test())
            short = coverage.shortfall(results)
            but = f", but {short}" if short else ""
            return f"PASS: {passed} of {ran} {on} passed with {what}; each planted defect was seen{but}."
        case Verdict.INCONCLUSIVE:
            why = results.why[0] if results.why else "something could not be seen"
            return f"INCONCLUSIVE: nothing is said for or against {what}: {why}."
    bad = sum(test.bad and not test.excused for test in results.under_test())
    causes_ = f": {_title(found[0].finding)}" if len(found) == 1 else f", with {len(found)} causes" if found else ""
    if results.verdict is Verdict.REGRESSED:
        worse = sum(row.change == "regressed" for row in results.comparison)
        return f"REGRESSED: {worse} of {ran} {on} got worse with {what}{causes_}."
    return f"FAIL: {bad} of {ran} {on} failed{causes_}."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# --- what was tested ------------------------------------------------------------------------


def _tested(results: Results) -> Iterator[Line]:
    patches, version = titles(results)
    sums = text.totals(results)
    if patches:
        yield from entry("series", f"{plural(len(patches), 'patch')}{f', version {version[2:]}' if version else ''}")
        for number, name in enumerate(patches, 1):
            yield from prose(f"{number}/{len(patches)} {name}", INDENT, INDENT + "    ")
    odd = [fate for fate in results.patches.fates if fate.how is not PatchHow.APPLIED]
    yield from entries("patch" if len(odd) < 2 else "patches", map(text.fate_line, odd))
    yield from _kernels(results)
    yield from _machines(results)
    suite = results.run.plan.get("suite") if isinstance(results.run.plan, dict) else ""
    outcomes = ", ".join(f"{number} {word}" for word, number in sums.outcomes)
    of = f" of {suite}" if suite else ""
    yield from entry("tests", f"{sums.tests}{of}: {outcomes}" if sums.tests else "none")
    if sums.compared:
        compared = f"{plural(sums.compared, 'answer')} of {plural(sums.operations, 'operation')}"
        yield from entry("model", f"{compared} compared with what a model answers")
    yield from entries("faults", _faults(results))
    oracles = ", ".join(sorted({canary.oracle for canary in results.canaries})) or "none planted"
    yield from entry("canaries", f"{sums.caught} of {sums.canaries} planted defects caught: {oracles}")
    yield from entries("coverage", coverage.lines(results))
    yield from entries("allowed", text.allowed_lines(results))
    yield from _tool(results)


def _kernels(results: Results) -> Iterator[Line]:
    """One entry for each source, configuration and compiler, with the architectures that have it in common."""
    rows = results.kernels
    for role in dict.fromkeys(kernel.role for kernel in rows):
        of = [kernel for kernel in rows if kernel.role is role]
        yield from entries(str(role), dict.fromkeys(map(_source, of)))
    for label, told in (("config", _config), ("compiler", _compiler)):
        named: dict[str, list[str]] = {}
        for kernel in rows:
            if described := told(kernel):
                named.setdefault(described, []).append(kernel.arch)
        yield from entries(label, (f"{_and(list(dict.fromkeys(archs)))}: {what}" for what, archs in named.items()))


def _source(kernel: KernelRow) -> str:
    """A kernel's source, without the name of a folder of the sender's."""
    origin = "" if kernel.source.startswith(("/", "~", ".")) else kernel.source
    edits = " with uncommitted edits" if kernel.dirty else ""
    commit = f"commit {kernel.commit[:HASH]}{edits}" if kernel.commit else edits.strip()
    parts = [f"Linux {kernel.release}", origin, commit, f"content {kernel.tree[:SHORT]}"]
    return ", ".join(part for part in parts if part)


def _config(kernel: KernelRow) -> str:
    made = f", tinyconfig with {' '.join(kernel.fragments)}" if kernel.fragments else ""
    return f"sha256 {kernel.config_sha256[:SHORT]}{made}" if kernel.config_sha256 else ""


def _compiler(kernel: KernelRow) -> str:
    toolchain = f"toolchain {kernel.toolchain[:SHORT]}" if kernel.toolchain else ""
    return ", ".join(part for part in (kernel.compiler, toolchain) if part)


def _machines(results: Results) -> Iterator[Line]:
    shapes = dict.fromkeys((m.arch, m.spec, m.accelerator) for m in results.machines)
    told = (f"{arch} {spec.name}: {text.spec_line(spec)}; QEMU, {how}" for arch, spec, how in shapes)
    yield from entries("machines", told)


def _faults(results: Results) -> Iterator[str]:
    sums = text.totals(results)
    if not sums.injected:
        return
    yield f"{sums.injected} injected at {plural(sums.sites, 'site')}, {sums.handled} handled"
    for table in (table for table in sites.tables(results) if table.role is not Role.BASE):
        rows = [site for group in table.groups for site in group.sites]
        yield f"{table.arch} {'; '.join(sites.by_operation(rows, OPERATIONS))}"


def _tool(results: Results) -> Iterator[Line]:
    run = results.run
    when = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d") if run.started else ""
    seed = "" if run.seed is None else f"seed {run.seed}"
    parts = (f"kharness {run.version}".rstrip(), when, text.duration(run.seconds), seed)
    yield from entry("by", ", ".join(part for part in parts if part))
    if run.argv:
        yield whole(shlex.join(_shown(run.argv)), INDENT)


def _shown(argv: Sequence[str]) -> list[str]:
    """A command line as it is typed: by its name, whatever folder it lies in."""
    words = list(argv)
    return ["kharness", *words[1:]] if words and "/" in words[0] else words


# --- what was found -------------------------------------------------------------------------


def _found(results: Results, found: Sequence[Cause]) -> Iterator[Line]:
    for number, cause in enumerate(found[:FINDINGS], 1):
        if number > 1:
            yield BLANK
        yield from _cause(results, cause, number)
    if rest := found[FINDINGS:]:
        yield BLANK
        yield from prose(f"And {plural(len(rest), 'more cause')}:")
        for cause in rest[: 2 * FINDINGS]:
            yield from prose(f"- {_title(cause.finding)}", "", "  ")
        if len(rest) > 2 * FINDINGS:
            yield from prose(f"and {len(rest) - 2 * FINDINGS} more")
    if not found and results.verdict is not Verdict.PASS:
        for why in results.why[:REASONS]:
            yield from prose(f"- {why}", "", "  ")


def _cause(results: Results, cause: Cause, number: int) -> Iterator[Line]:
    finding, test = cause.finding, cause.first
    yield from prose(f"{number}. {_title(finding)}", "", "   ")
    yield from _stacks(finding)
    for line in finding.excerpt:
        yield whole(text.source_line(line, finding), "    ")
    if finding.log:
        yield BLANK
        yield from map(quoted, finding.log[:LOG])
        if len(finding.log) > LOG:
            yield quoted(f"[{len(finding.log) - LOG} more lines]")
    yield BLANK
    yield from prose(_under(finding), "   ")
    yield from _seen(cause)
    yield from _again(results, test, finding)


def _stacks(finding: Finding) -> Iterator[Line]:
    own = finding.frames
    if own or text.place(finding):
        yield BLANK
    if not own and text.place(finding):
        yield whole(text.place(finding), "    ")
    yield from _frames(own)
    for stack in finding.stacks[:STACKS]:
        yield BLANK
        yield from prose(f"{stack.name}:", "   ")
        yield from _frames(stack.frames)
    if finding.excerpt:
        yield BLANK


def _frames(frames: Sequence[Frame]) -> Iterator[Line]:
    """The functions, each with its place; a question mark before those that the unwinder is not sure of."""
    for frame in frames[:FRAMES]:
        where = f" ({frame.file}:{frame.line})" if frame.file else f" [{frame.module}]" if frame.module else ""
        mark = " [inlined]" if frame.inlined else ""
        yield whole(f"{'' if frame.reliable else '? '}{frame.function}{where}{mark}", "    ")
    if len(frames) > FRAMES:
        yield whole(f"[{plural(len(frames) - FRAMES, 'more frame')}]", "    ")


def _under(finding: Finding) -> str:
    """Under which fault it came."""
    during = f" during the operation {finding.operation!r}" if finding.operation else ""
    if finding.site:
        chain = sites.called(finding.site.split(" < "))
        return f"It came{during} after an allocation was made to fail, in {chain}."
    return f"It came{during} without an injected fault."


def _seen(cause: Cause) -> Iterator[Line]:
    more = cause.tests[TESTS:]
    yield from prose(f"Seen in {plural(len(cause.tests), 'test')}:", "   ")
    for test in cause.tests[:TESTS]:
        yield whole(f"{test.id} ({test.arch}{f' {test.machine}' if test.machine else ''})", "     ")
    if more:
        yield from prose(f"and {len(more)} more", "     ")


def _again(results: Results, test: TestRow, finding: Finding) -> Iterator[Line]:
    """The commands that show it again, and a program where one can stand alone."""
    commands = []
    if test.replay:
        commands.append(replay_file.one_line(_from_here(test.replay), results.run.argv))
    if again := sites.fault_line(results, test, finding):
        commands.append(again)
    if not commands:
        commands.append(_whole_run(results))
    yield from prose("To see it again:", "   ")
    for command in commands:
        yield whole(command, "     ")
    yield from _alone(test, finding)


def _alone(test: TestRow, finding: Finding) -> Iterator[Line]:
    """A program that needs nothing of kharness, or why there is none."""
    made = _program(test, finding)
    if made.why:
        yield from prose(f"No program shows it without kharness: {made.why}.", "   ")
        return
    needs = f"; it needs {reproducer.NEEDS}" if finding.fault else ""
    told = f"As a C program, which was not run, to be built with gcc and started as root in a guest{needs}:"
    yield from prose(told, "   ")
    yield BLANK
    for line in made.text.splitlines():
        yield whole(line, "    ")


def _program(test: TestRow, finding: Finding) -> Program:
    if not test.replay:
        return Program(why="its test left no replay file")
    try:
        return reproducer.program(finding, replay_file.read(Path(test.replay)).scenario)
    except UsageError:
        return Program(why="its test's replay file cannot be read")


def _whole_run(results: Results) -> str:
    """The run again, with its seed: for what came in no one test, as in a leak batch."""
    words = _shown(results.run.argv or ("kharness", "run"))
    seeded = results.run.seed is None or any(word.partition("=")[0] == "--seed" for word in words)
    return shlex.join([*words, *([] if seeded else ["--seed", str(results.run.seed)])])


def _from_here(path: str) -> str:
    """A path as it is typed here: a mail need not name the sender's folders."""
    here = os.getcwd()
    return os.path.relpath(path, here) if Path(path).is_relative_to(here) else path


def _bisected(bisected: Bisected | None) -> Iterator[Line]:
    for line in bisected.found if bisected else ():
        yield from prose(f"- {line}", "", "  ")


# --- base and patched -----------------------------------------------------------------------


def _compared(results: Results) -> Iterator[Line]:
    rows = results.comparison
    counts = Counter(row.change for row in rows)
    if not rows:
        return
    order = ("regressed", "fixed", "still-failing", "missing", "flaky", "inconclusive", "same")
    yield from prose(", ".join(f"{counts[word]} {word}" for word in order if counts[word]) + ".")
    for word in order[:-1]:
        for row in [row for row in rows if row.change == word][: 2 * TESTS]:
            yield whole(f"{word:<14}{row.id} ({row.arch})")
        if counts[word] > 2 * TESTS:
            yield from prose(f"and {counts[word] - 2 * TESTS} more {word}", "  ")


# --- what did not run -----------------------------------------------------------------------


def _missing(results: Results) -> Iterator[Line]:
    for outcome, told in ((Outcome.SKIP, "skipped"), (Outcome.INCONCLUSIVE, "inconclusive")):
        reasons: dict[str, list[TestRow]] = {}
        for test in results.under_test():
            if test.outcome is outcome:
                reasons.setdefault(test.describe(), []).append(test)
        for why, tests in reasons.items():
            yield from prose(f"{plural(len(tests), 'test')} {told}: {why}", "", "  ")
            for test in tests[:TESTS]:
                yield whole(f"{test.id} ({test.arch} {test.machine})", "    ")
            if len(tests) > TESTS:
                yield from prose(f"and {len(tests) - TESTS} more", "    ")
    for canary in (canary for canary in results.canaries if not canary.caught):
        why = f": {canary.why}" if canary.why else ""
        yield from prose(f"The planted defect {canary.oracle} was not seen on {canary.kernel}{why}", "", "  ")
    for line in coverage.patch_lines(results):
        yield from prose(line, "", "  ")
    if results.verdict is Verdict.INCONCLUSIVE and results.next:
        yield BLANK
        yield from prose("What would settle it:")
        yield whole(results.next)


def _claims(results: Results) -> Iterator[Line]:
    """That its functions may fail, and who handles that, each with what showed it."""
    for line in claims.whole(results):
        yield from prose(line, "", "  ")


# --- tags -----------------------------------------------------------------------------------


def _tags(results: Results, found: Sequence[Cause], bisected: Bisected | None) -> Iterator[Line]:
    """Suggestions, each behind a bar, so that no tool collects what nobody has decided."""
    tags: list[str] = []
    if found and bisected and bisected.commit:
        tags.append(f'Fixes: {bisected.commit[:HASH]} ("{bisected.title}")')
    if found:
        tags += [f"Reported-by: {NAME}", "Closes: LINK TO THIS MAIL IN THE LIST'S ARCHIVE"]
        yield from prose(_who_fixes(results))
    elif results.verdict is Verdict.PASS:
        tags.append(f"# Tested-by: {NAME}")
        yield from prose(
            "This is for a person to decide, who has read what ran above. It says that a patch was tested with success:"
        )
    if tags:
        yield BLANK
        yield from (quoted(tag) for tag in tags)


def _who_fixes(results: Results) -> str:
    if any(kernel.patches for kernel in results.kernels):
        return "If this is fixed in a commit of its own, and not in a new version of this series, it may have:"
    return "A commit that fixes this may have:"
