# SPDX-License-Identifier: GPL-2.0-only
"""The fuzzing of the parsers: damaged logs leave them standing, and cost no more than their length."""

from __future__ import annotations

import json
import time

import pytest

from harness.core.errors import Ended, How
from harness.core.records import Finding, LogRecord, encode
from harness.oracles import crash, dmesg, kmemleak
from harness.oracles.splat.log import parse_console, parse_kmsg
from tests.unit.oracles.logs import Fuzz

FEW = 1500
SECONDS = 1.0
"""For one log of 16 KB, which takes 2 ms: what is above is a blow-up, not a busy machine."""


def check(found: list[Finding]) -> int:
    """What holds of every finding, whatever it was read from."""
    for finding in found:
        assert finding.kind and finding.title and finding.signature.startswith(f"{finding.oracle}:")
        assert "\n" not in finding.title and 0 < len(finding.log) <= 400 and finding.count > 0
        assert all(stack.name and stack.frames for stack in finding.stacks)
        json.dumps(encode(finding))
    return len(found)


def parse(data: bytes) -> int:
    """How many findings all oracles that read text make of it; raises AssertionError if it takes too long."""
    text = data.decode("utf-8", "surrogateescape")
    start = time.process_time()
    total = 0
    for log in (parse_kmsg(text), parse_console(text)):
        total += check(dmesg.findings(log))
        dmesg.watched(log, 0)
    total += check(kmemleak.findings(text))
    crash.classify(text.split("\n"), Ended(How.EXITED, 0), False)
    taken = time.process_time() - start
    assert taken < SECONDS, f"{taken:.1f} s for {data!r}"
    return total


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Damaged logs read, and the findings in them. Raises what a parser raises, the log in a note."""
    total = 0
    for number, data in enumerate(Fuzz(seed).logs(count)):
        try:
            total += parse(data)
        except Exception as error:
            error.add_note(f"log {number} of seed {seed}: {data!r}")
            raise
    return count, total


def test_damaged_logs_leave_the_parsers_standing() -> None:
    read, found = fuzz(FEW, seed=1)
    assert read == FEW
    assert found > FEW / 3, "the damage must leave something to be parsed"


def test_the_same_seed_gives_the_same_logs() -> None:
    assert list(Fuzz(5).logs(20)) == list(Fuzz(5).logs(20)) != list(Fuzz(6).logs(20))


REPEATED = (
    "Kernel panic - not syncing: Fatal exception",
    "NMI backtrace for cpu 1",
    "Sending NMI from CPU 0 to CPUs 0-99999,1,2-99999:",
    "kmemleak: x",
    "------------[ cut here ]------------",
    "Call Trace:",
    " f+0x1/0x2",
    "Allocated by task 1:",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:1]",
    "WARNING: a.c:1 at f+0x1/0x2, CPU#0: a/1",
    "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
    'sched_ext: BPF scheduler "x" disabled (runtime error)',
    "unreferenced object 0xffff888004a3c000 (size 8):",
)


@pytest.mark.parametrize("line", REPEATED)
def test_twice_the_lines_take_twice_the_time(line: str) -> None:
    def seconds(count: int) -> float:
        log = [LogRecord(line, time=1.0, caller=f"T{n % 3}") for n in range(count)]
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            dmesg.findings(log)
            best = min(best, time.process_time() - start)
        return best

    short, long = seconds(500), seconds(4000)
    assert long < 3 * 8 * short + 0.01, f"8 times the lines take {long / short:.0f} times the time"


@pytest.mark.parametrize(
    "part", ["a", " ", "[", "(", "0", "+0x", "x: ", "Oops: ", "BUG: ", "f+0x1/0x2 ", "INFO: task a:1 ", "[<0>]"]
)
@pytest.mark.parametrize(
    "head", ["", "BUG: KASAN: ", "WARNING: ", "INFO: task ", "UBSAN: ", "Internal error: ", "BUG "]
)
def test_one_long_line_costs_its_length(head: str, part: str) -> None:
    text = head + part * (200_000 // len(part))
    start = time.process_time()
    dmesg.findings(parse_console(text))
    dmesg.findings(parse_kmsg(f"4,1,1,-,caller=T1;{text}"))
    assert time.process_time() - start < 5.0
