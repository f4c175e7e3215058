# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext selftests that the tree under test brings along: each by its own runner, alone in a guest.

What is looked for at the end of every test, splats, percpu objects and leaks, is looked for here too.
"""

from __future__ import annotations

from pathlib import Path

from harness.guest.guest import Guest
from harness.plan import SELFTESTS, Selftest
from harness.suite.bench import Bench
from harness.suite.provoked import FILE, of, read
from harness.suite.selftests import carry_out, listed
from harness.suite.session import Ready, Workshop

PROVOKED = read(Path(__file__).with_name(FILE))
"""Read when tests are collected: a mistake in it ends the run before anything is built."""


def test_selftest(bench: Bench, selftest: Selftest, workshop: Workshop) -> None:
    may = of(selftest.name, PROVOKED, bench.ready.machine.accelerator)
    carry_out(bench, selftest.name, workshop.out / SELFTESTS, may)


def test_no_selftest_is_missed(guest: Guest, ready: Ready) -> None:
    """What was read from the runner's debug information is what it lists itself."""
    assert sorted(listed(guest)) == sorted(test.name for test in ready.target.selftests)
