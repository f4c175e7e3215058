# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext selftests that the tree under test brings along: each by its own runner, alone in a guest.

What is looked for at the end of every test, splats, percpu objects and leaks, is looked for here too.
"""

from __future__ import annotations

from pathlib import Path

from harness.core.plan import SELFTESTS, Selftest
from harness.guest.guest import Guest
from harness.session.context import TestContext
from harness.session.session import Target, TestSession
from selftests.expected import FILE, of, read
from selftests.run import carry_out, listed

EXPECTED = read(Path(__file__).with_name(FILE))
"""Read when tests are collected: a mistake in it ends the run before anything is built."""


def test_selftest(context: TestContext, selftest: Selftest, test_session: TestSession) -> None:
    may = of(selftest.name, EXPECTED, context.target.machine.accelerator)
    carry_out(context, selftest.name, test_session.out / SELFTESTS, may)


def test_no_selftest_is_missed(guest: Guest, target: Target) -> None:
    """What was read from the runner's debug information is what it lists itself."""
    assert sorted(listed(guest)) == sorted(test.name for test in target.saved.selftests)
