# SPDX-License-Identifier: GPL-2.0-only
"""Tests that no reader of what a guest or a tree prints takes more than time in proportion to it, whatever it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from selftests import results

from harness.core.errors import Ended, How, KharnessError
from harness.coverage.csource import Source
from harness.faults.cause import last_words
from harness.guest import agent, freed, resident
from harness.kbuild import buildlog
from harness.machine import registers
from harness.machine.examine import Examination
from harness.oracles import crash, dmesg, hang, kmemleak, lockdep, percpu
from harness.oracles.splat import frames, log, sysrq
from harness.report import text
from tests.unit.oracles import evil

SMALL, MIDDLE, LARGE = 3 << 10, 6 << 10, 24 << 10
"""Characters of the texts that are tried. In quadratic time the largest takes a second or more."""

SUSPICIOUS = 0.1
"""Seconds of processor time for the largest; ten times what the slowest reader takes."""

MOST = 9.0
"""So many times as long as the middle one, of a fourth of its length, it may take: in quadratic time that is 16."""

STAMP = "[    1.000000] "


def stamped(said: str) -> list[str]:
    """Lines of a console on which the kernel said this, and another which said it without."""
    return [f"{STAMP}{line}" for line in said.split("\n")] + said.split("\n")


def sections(said: str) -> None:
    source = Source(said)
    for function in source.functions.values():
        for arm in source.arms(function):
            source.shown(arm.at, arm.end)


READERS: dict[str, Callable[[str], object]] = {
    "console": lambda said: dmesg.findings(log.parse_console(stamped(said))),
    "kmsg": lambda said: dmesg.findings(log.parse_kmsg("6,1,1,-;" + said)),
    "kmsg lines": lambda said: dmesg.findings(log.parse_kmsg(said.replace("\n", "\n6,1,1,-,caller=T1;"))),
    "watched": lambda said: dmesg.watched(log.parse_kmsg("6,1,1,-;" + said), 0),
    "end": lambda said: crash.findings(stamped(said), Ended(How.EXITED, status=0), False),
    "hang": lambda said: hang.log(Examination(said=tuple(stamped(said))), None),
    "blame": lambda said: hang.blame(Examination(said=tuple(stamped(said))), None, None),
    "cause": lambda said: last_words(stamped(said)),
    "kmemleak": lambda said: kmemleak.findings(f"unreferenced object 0x1 (size 8):\n{said}\n  backtrace:\n{said}"),
    "sysrq": lambda said: sysrq.read(log.parse_console(stamped(said))),
    "percpu": percpu.parse,
    "counts": lambda said: resident.counted(said),
    "lockdep": lockdep.watched,
    "ktap": lambda said: [
        one.reason for one in results.parse(f"===== START =====\nTEST: a\n{said}\n=====  END  =====\n{said}").tests
    ],
    "quarantine": freed.parse_counts,
    "watched objects": freed.parse_watched,
    "verifier": lambda said: agent.refusal(f"libbpf: prog 'a': -- BEGIN PROG LOAD LOG --\n{said}"),
    "registers": lambda said: registers.read(0, f"RIP=0000000000000000 RFL=00000000 {said}", lambda at, size: b""),
    "clean": text.clean,
    "neutral": frames.neutral,
    "build": lambda said: buildlog.judge(said.split("\n"), 2, "x"),
    "warnings": lambda said: buildlog.warnings(said.split("\n")),
    "steps": lambda said: [buildlog.step(line) for line in said.split("\n")],
    "C": sections,
}


def seconds(read: Callable[[str], object], said: str) -> float:
    """Of the processor's time."""
    start = time.process_time()
    with contextlib.suppress(KharnessError):
        read(said)
    return time.process_time() - start


def problem(read: Callable[[str], object], number: int) -> str:
    """What is wrong with the time that a kind of text takes; empty if nothing is."""
    small, middle, large = (evil.text(number, size) for size in (SMALL, MIDDLE, LARGE))
    took = 0.0
    for _ in range(3):  # the machine may do other things
        if (took := seconds(read, small)) > SUSPICIOUS:
            continue
        if (took := seconds(read, large)) < SUSPICIOUS or took < MOST * seconds(read, middle):
            return ""
    return f"it takes {took:.2f} s"


@pytest.mark.parametrize("reader", READERS)
def test_time_is_in_proportion_to_the_text(reader: str) -> None:
    found = {name: problem(READERS[reader], number) for number, name in enumerate(evil.NAMES)}
    assert {name: what for name, what in found.items() if what} == {}
