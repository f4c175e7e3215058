# SPDX-License-Identifier: GPL-2.0-only
"""The words that terminal, JUnit and HTML share: counts, durations, places, totals."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from harness.core.printable import clean as clean
from harness.core.printable import one_line as one_line
from harness.core.records import (
    Finding,
    HunkState,
    Line,
    MachineSpec,
    Outcome,
    PatchFate,
    PatchHow,
    SearchSummary,
    Stack,
)
from harness.core.words import plural
from harness.host.progress import duration as rough
from harness.oracles.splat.blame import is_helper
from harness.report import coverage
from harness.session import replay_file
from harness.verdict import KernelRow, MachineRow, Results, TestRow, allowed


def duration(seconds: float) -> str:
    """Seconds in readable units: ``0.12 s``, ``42 s``, ``3 min 5 s``, ``1 h 2 min``."""
    return f"{seconds:.2f} s" if seconds < 10 else rough(seconds)


def place(finding: Finding) -> str:
    """``copy_process (kernel/fork.c:2011)`` as far as it is known."""
    where = f"{finding.file}:{finding.line}" if finding.line else finding.file or ""
    if finding.function and where:
        return f"{finding.function} ({where})"
    return finding.function or where


def allowed_lines(results: Results) -> list[str]:
    """What the allow-list spared, and which of its entries are to be fixed."""
    used = [row for row in results.allowed if row.findings and not row.expired]
    spared = [f"{plural(row.findings, 'finding')} until {row.expires}: {row.reason} ({row.place})" for row in used]
    return [*spared, *allowed.notes(results.allowed)]


def stack_line(stack: Stack) -> str:
    """A further stack in one line: its name, and the first function that is no helper with the next ones."""
    sure = [frame for frame in stack.frames if frame.reliable]
    named = [frame for frame in sure if not is_helper(frame.function)] or sure
    where = f" ({named[0].file}:{named[0].line})" if named and named[0].file else ""
    return f"{stack.name}: {named[0].function}{where}" if named else stack.name


def source_line(line: Line, finding: Finding) -> str:
    """A line of a finding's source with its number; the blamed line is marked."""
    return f"{'>' if line.line == finding.line else ' '}{line.line:6} {line.text}"


def kernel_line(kernel: KernelRow) -> str:
    """What was tested: release, content, whether it had edits, how it was built, oddities of its source."""
    content = f"tree {kernel.tree[:12]}" + (" dirty" if kernel.dirty else "")
    patches = f", {plural(len(kernel.patches), 'patch')}" if kernel.patches else ""
    built = "from the cache" if kernel.cached else f"built in {duration(kernel.build_seconds)}"
    remark = re.fullmatch(r"(linux-source-\S+ \S+) \((.*)\)", kernel.source)  # see harness/source/debian.py
    odd = f"; {remark[1]} by {remark[2]}" if remark else ""
    return f"{kernel.role} {kernel.arch} {kernel.release}, {content}{patches}, {built}{odd}"


HOW = {
    PatchHow.APPLIED: "applied",
    PatchHow.REPAIRED: "repaired by the tree, then applied",
    PatchHow.COMPLETED: "in the tree in part; the rest was applied",
    PatchHow.TAKEN_OUT: "in the tree already; base is without it",
    PatchHow.AS_IT_IS: "in the tree already, and cannot be taken out: the tree is tested as it is",
}
WORDS = {
    HunkState.CONTAINED: "there",
    HunkState.DIFFERS: "there in other words",
    HunkState.MISSING: "missing",
    HunkState.NOWHERE: "without a place",
}


def fate_line(fate: PatchFate) -> str:
    """What became of a patch."""
    states = Counter(hunk.state for hunk in fate.hunks)
    counts = ", ".join(f"{states[state]} {word}" for state, word in WORDS.items() if states[state])
    many = f" ({plural(len(fate.hunks), 'hunk')}: {counts})" if fate.hunks else ""
    return f"{fate.name}: {HOW[fate.how]}{many}"


def spec_line(spec: MachineSpec) -> str:
    """The shape of a guest in words."""
    cpus = f"{spec.online_cpus} of {plural(spec.possible_cpus, 'CPU')}"
    return f"{cpus}, {plural(spec.nodes, 'node')}, {spec.memory_mib} MiB"


SEARCHED = "found by a search:"
"""The first line of the log of what a search found."""


def sequence_lines(finding: Finding) -> list[str]:
    """How a finding of a search was shrunk, and its operations with their answers."""
    if SEARCHED not in finding.log:
        return []
    start = finding.log.index(SEARCHED) + 1
    lines = [finding.log[start]]
    for line in finding.log[start + 1 :]:
        if not line.startswith("  "):
            break
        lines.append(line)
    return lines


def search_lines(results: Results) -> list[str]:
    """How much each search did, and at what rates."""
    return [f"{test.arch} {test.machine}: {searched(test.search)}" for test in results.tests if test.search]


def searched(done: SearchSummary) -> str:
    """A search in one line."""
    rates = [
        f"{times} {what} ({times / seconds:.0f} a second of their own)"
        for what, (times, seconds) in done.spent.items()
        if times and seconds
    ]
    many = f"{plural(done.sequences, 'sequence')} in {plural(done.guests, 'guest')}, {duration(done.seconds)}"
    overall = f", {done.compared / done.seconds:.0f} a second" if done.seconds else ""
    return f"{many}, {plural(done.compared, 'answer')} compared{overall}{'; ' if rates else ''}{', '.join(rates)}"


def callers(finding: Finding) -> tuple[str, ...]:
    """The callers of the blamed function, nearest first: they distinguish two leaks of one allocation."""
    names = [frame.function for frame in finding.frames if frame.reliable and not frame.function.startswith("0x")]
    if finding.function not in names:
        return ()
    above = names[names.index(finding.function) + 1 :]
    return tuple(dict.fromkeys(name for name in above if name != finding.function))


def machine_line(machine: MachineRow, *, explained: bool = False) -> str:
    """A machine with its accelerator and why it is that one, unless another line has `explained` it."""
    why = f" ({machine.why})" if machine.why and not explained else ""
    times = f"boot {duration(machine.boot_seconds)}, restore {duration(machine.restore_seconds)}"
    return f"{machine.arch} {machine.spec.name}: {spec_line(machine.spec)}; {machine.accelerator}{why}; {times}"


def replay_line(results: Results, test: TestRow) -> str:
    """The command that repeats the test, or empty if it left no replay file."""
    return replay_file.one_line(test.replay, results.run.argv) if test.replay else ""


def kept_line(test: TestRow) -> str:
    """The command that opens the test's guest, or why it was not kept; empty if that was not requested."""
    if test.kept is None:
        return ""
    if not test.kept.path:
        return f"guest not kept: {test.kept.why}"
    return shlex.join(["kharness", "shell", "--kept", test.kept.path])


def dump_line(test: TestRow) -> str:
    """The file of the guest's memory, or why it was not written; empty if not requested, or if the guest lived."""
    if test.dump is None:
        return ""
    return f"guest memory: {test.dump.path} ({test.dump.mib} MiB)" if test.dump.path else f"no dump: {test.dump.why}"


def outcome_word(test: TestRow) -> str:
    """A test's outcome as it counts: a failure that is excused is a known one."""
    if test.flaky:
        return "flaky"
    return "known failure" if test.excused and test.outcome is Outcome.FAIL else str(test.outcome)


@dataclass(frozen=True)
class Totals:
    """Sums over the kernels under test; base is left out."""

    tests: int
    outcomes: tuple[tuple[str, int], ...]
    sites: int
    reached: int
    injected: int
    handled: int
    operations: int
    compared: int
    disagreements: tuple[str, ...]
    canaries: int
    caught: int


def totals(results: Results) -> Totals:
    """The numbers of the summary."""
    tests = results.under_test()
    words = Counter(outcome_word(test) for test in tests)
    order = ("fail", "known failure", "inconclusive", "flaky", "pass", "skip")
    return Totals(
        tests=len(tests),
        outcomes=tuple((word, words[word]) for word in order if words[word]),
        sites=len({(site.operation, site.type, site.stack) for test in tests for site in test.faults.sites}),
        reached=sum(test.faults.reached for test in tests),
        injected=sum(test.faults.injected for test in tests),
        handled=sum(test.faults.handled for test in tests),
        operations=sum(test.model.operations for test in tests),
        compared=sum(test.model.compared for test in tests),
        disagreements=tuple(t.model.first_disagreement for t in tests if t.model.first_disagreement),
        canaries=len(results.canaries),
        caught=sum(canary.caught for canary in results.canaries),
    )


def verdict_line(results: Results, report: str) -> str:
    """The last line of every run: the verdict, what it rests on, where to read more."""
    sums = totals(results)
    parts = [plural(sums.tests, "test")]
    parts += [f"{number} {word}" for word, number in sums.outcomes if word not in ("pass", "skip")]
    caught = "" if sums.caught == sums.canaries else f" ({sums.caught} caught)"
    parts.append(plural(sums.canaries, "canary") + caught)
    if sums.injected:
        parts.append(f"{plural(sums.injected, 'fault')} injected ({sums.handled} handled)")
    if sums.compared:
        parts.append(f"{plural(sums.compared, 'answer')} compared")
    if missing := coverage.shortfall(results):
        parts.append(f"but {missing}")
    return one_line(f"verdict: {results.verdict.upper()}  {', '.join(parts)}  {report}".rstrip())


def distinct(results: Results) -> list[tuple[TestRow, Finding, int]]:
    """Each finding that speaks against a kernel under test once: the first test that showed it, and how many did."""
    found = counted(test for test in results.under_test() if not test.excused)
    tests: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
    first: dict[tuple[str, str], tuple[TestRow, Finding]] = {}
    for test, finding in found:
        key = (test.kernel, finding.signature)
        tests.setdefault(key, {})[test.id, test.machine] = None
        first.setdefault(key, (test, finding))
    return [(*first[key], len(tests[key])) for key in first]


def counted(tests: Iterable[TestRow]) -> list[tuple[TestRow, Finding]]:
    """The findings that speak against the kernel, each with its test, in the order they came."""
    return [(test, finding) for test in tests for finding in test.findings if finding.counts]
