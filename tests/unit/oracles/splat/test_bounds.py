# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how much of an endless report becomes part of a finding, and that what is left out counts all the same."""

from __future__ import annotations

import time

import pytest

from harness.core.errors import Ended, How
from harness.core.records import Finding
from harness.oracles import crash, dmesg, kmemleak
from harness.oracles.dmesg import ExpectedReports
from harness.oracles.splat import bounds, sysrq
from harness.oracles.splat.log import parse_console, parse_kmsg

OOPS = (
    "BUG: unable to handle page fault for address: ffff888000000000",
    "Oops: Oops: 0000 [#1] SMP",
    "RIP: 0010:broken+0x1/0x10",
    "Call Trace:",
    " caller+0x1/0x10",
    "---[ end trace 0000000000000000 ]---",
)


def lines(*said: str) -> list[str]:
    return [f"[    1.000000][    T1] {line}" for line in said]


def warnings(count: int) -> list[str]:
    return [line for n in range(count) for line in lines(f"WARNING: at f{n}+0x1/0x10", "---[ end trace 0 ]---")]


def size(finding: Finding) -> int:
    """Characters of it, as a log of events holds them."""
    return len(repr(finding))


# --- one report ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["BUG: ", "WARNING: ", "Kernel panic - not syncing: ", "list_add corruption. ", "Oops: [#1] "]
)
def test_a_report_of_a_mib_is_a_finding_of_a_few_kib(header: str) -> None:
    said = lines(header + "x y" * (1 << 19))
    records = parse_console(said)
    assert all(len(record.text) < bounds.LINE + 100 for record in records)
    (found,) = dmesg.findings(records)
    assert len(found.title) < bounds.TITLE + 50 and size(found) < 20_000
    (end,) = crash.findings(said, Ended(How.EXITED, status=0), False)
    assert len(end.title) < bounds.TITLE + 50 and size(end) < 30_000
    assert [len(record.text) < bounds.LINE + 100 for record in parse_kmsg(f"4,1,1,-;{header}{'x' * (1 << 20)}")] == [
        True
    ]


def test_a_line_keeps_both_ends_and_says_what_it_lacks() -> None:
    whole = "a" * bounds.LINE
    assert bounds.line(whole) == whole
    cut = bounds.line("begin" + "x" * 10_000 + "end")
    assert cut.startswith("begin") and cut.endswith("end") and "[5912 characters are left out here]" in cut


def test_a_stack_of_26214_frames_is_cut() -> None:
    said = lines("WARNING: at f+0x1/0x10", "Call Trace:", *(f" f{n}+0x1/0x10" for n in range(26_214)))
    (found,) = dmesg.findings(parse_console(said))
    assert len(found.frames) == bounds.FRAMES and found.frames[0].function == "f0"
    assert len(found.log) <= bounds.LINES
    text = "unreferenced object 0x1 (size 8):\n  backtrace:\n" + "".join(f"    f{n}+0x1/0x10\n" for n in range(26_214))
    (leak,) = kmemleak.findings(text)
    assert len(leak.frames) == bounds.FRAMES and len(leak.log) <= bounds.LINES
    task = sysrq.read(parse_console(lines("task:a state:D pid:1", *(f" f{n}+0x1/0x10" for n in range(26_214))))).tasks[
        0
    ]
    assert len(task.raws) == bounds.FRAMES and len(task.lines) == bounds.LINES


def test_further_stacks_are_few() -> None:
    one = ("Freed by task 1:", " g+0x1/0x10")
    said = lines("BUG: KASAN: slab-use-after-free in f+0x1/0x10", "Call Trace:", " f+0x1/0x10", *(one * 5000))
    (found,) = dmesg.findings(parse_console(said))
    assert len(found.stacks) == bounds.STACKS and size(found) < 100_000


# --- many reports -------------------------------------------------------------------------


def test_of_many_findings_the_rest_is_counted_and_counts() -> None:
    found = dmesg.findings(parse_console(warnings(3495)))
    assert len(found) == bounds.FINDINGS + 1
    *shown, more = found
    assert [one.function for one in shown] == [f"f{n}" for n in range(bounds.FINDINGS)]
    assert more.kind == bounds.MORE and more.count == 3295 and more.counts
    assert more.title == "and 3295 more findings beyond the first 200: 3295 warn"
    assert len(dmesg.findings(parse_console(warnings(bounds.FINDINGS)))) == bounds.FINDINGS


def test_what_was_expected_does_not_hide_what_was_not() -> None:
    late = lines("BUG: sleeping function called from invalid context at kernel/x.c:1")
    found = dmesg.findings(parse_console(warnings(500) + late), expect=["WARNING.*"])
    assert [(one.expected, one.count) for one in found if one.kind == bounds.MORE] == [(True, 300), (False, 1)]
    assert [one.counts for one in found].count(True) == 1
    records = [line for n in range(500) for line in (f"4,{n},1,-;WARNING: at f{n}+0x1/0x10",)]
    within = ExpectedReports(("WARNING.*",), ((0, 399),))
    found = dmesg.findings(parse_kmsg("\n".join(records)), during=within)
    assert [(one.expected, one.count) for one in found if one.kind == bounds.MORE] == [(True, 200), (False, 100)]


def test_an_oops_behind_a_thousand_warnings_is_what_it_died_of() -> None:
    said = warnings(1000) + lines(*OOPS, "Kernel panic - not syncing: Fatal exception")
    (end,) = crash.findings(said, Ended(How.EXITED, status=0), False)
    assert end.kind == "panic" and end.function == "broken" and len(end.log) < 900


def test_leaks_beyond_the_first_are_counted_with_their_objects() -> None:
    text = "".join(
        f"unreferenced object 0x{n} (size 8):\n  backtrace:\n    f{n}+0x1/0x10\n  ... and 1 more object(s) with the same backtrace\n"
        for n in range(1000)
    )
    found = kmemleak.findings(text)
    assert len(found) == bounds.FINDINGS + 1 and found[-1].count == 1600 and found[-1].counts
    assert found[-1].oracle == kmemleak.ORACLE


# --- many of anything ---------------------------------------------------------------------


def many(count: int) -> dict[str, object]:
    """Readers of so many things, each ready to be called."""
    tasks = parse_console([f"[    1.0] task:a state:D pid:{n}" for n in range(count)])
    leaks = "".join(f"unreferenced object 0x{n:x} (size 8):\n  backtrace:\n    f{n}+0x1/0x10\n" for n in range(count))
    callers = parse_console([f"[    1.000000][T{n}] BUG: KASAN: x in f{n}+0x1/0x10" for n in range(count)])
    nmi = parse_console(
        lines(
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:1]",
            *(f"NMI backtrace for cpu {n}" for n in range(count)),
        )
    )
    fragments = "\n".join(f"4,{n},1,c,caller=T{n % 2};x" for n in range(count))
    return {
        "tasks": lambda: sysrq.read(tasks),
        "leaks": lambda: kmemleak.findings(leaks),
        "splats": lambda: dmesg.findings(callers),
        "backtraces": lambda: dmesg.findings(nmi),
        "panics": lambda: crash.findings(warnings(count), Ended(How.EXITED, status=0), False),
        "fragments": lambda: parse_kmsg(fragments),
    }


@pytest.mark.parametrize("what", ["tasks", "leaks", "splats", "backtraces", "panics", "fragments"])
def test_twice_as_many_take_twice_the_time(what: str) -> None:
    few, lot = many(1000)[what], many(8000)[what]
    for _ in range(3):  # the machine may do other things
        times = []
        for read in (few, lot):
            start = time.process_time()
            read()  # type: ignore[operator]
            times.append(time.process_time() - start)
        if times[1] < 25 * max(times[0], 0.02):  # in quadratic time it is 64
            return
    pytest.fail(f"1000 take {times[0]:.2f} s, 8000 {times[1]:.2f} s")
