# SPDX-License-Identifier: GPL-2.0-only
"""Tests of one test's end where findings are allowed: what they excuse, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.core.errors import Ended, How, MachineEnded
from harness.core.plan import Allowed
from harness.core.records import Outcome
from harness.session.context import TestContext
from tests.unit.session.test_context import INIT, WARN, FakeGuest, conclude

KNOWN = Allowed("dmesg:warn:init_dsq*", "known upstream", "2999-12-31")


def test_a_warning_that_is_allowed_does_not_fail_the_test() -> None:
    def warn(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg, context.allow = WARN, (KNOWN,)

    result = conclude(warn)
    assert (result.outcome, result.why) == (Outcome.PASS, "")
    assert [found.allowed_by for found in result.findings] == ["known upstream"]


@pytest.mark.parametrize(
    "entry",
    [replace(KNOWN, arch=("arm64",)), replace(KNOWN, expired=True), replace(KNOWN, signature="dmesg:warn:exit_dsq*")],
)
def test_an_entry_of_another_architecture_time_or_finding_allows_nothing(entry: Allowed) -> None:
    def warn(context: TestContext, guest: FakeGuest) -> None:
        guest.kmsg, context.allow = WARN, (entry,)

    assert conclude(warn).outcome is Outcome.FAIL


def test_a_leak_that_is_allowed_explains_the_count() -> None:
    def leak(context: TestContext, guest: FakeGuest) -> None:
        guest.percpu, guest.places = 101, [[1, INIT, 8, 1]]
        context.allow = (Allowed("ledger:percpu leak:init_dsq*", "late", "2999-12-31"),)

    result = conclude(leak)
    assert (result.outcome, [found.allowed_by for found in result.findings]) == (Outcome.PASS, ["late"])


def test_a_test_that_was_cut_short_by_what_is_allowed_cannot_pass() -> None:
    def allow_panics(context: TestContext, guest: FakeGuest) -> None:
        context.allow = (Allowed("crash:panic:*", "known", "2999-12-31"),)

    lines = ["[    1.000000][   T91] Kernel panic - not syncing: kharness: deliberate panic"]
    died = MachineEnded("gone", Ended(How.GUEST_PANIC), lines, False)
    result = conclude(allow_panics, died)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert result.why.startswith("cut short by what is allowed (known): the kernel panicked")
    assert [found.allowed_by for found in result.findings] == ["known"]
    assert conclude(lambda context, guest: None, died).outcome is Outcome.FAIL
