# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a guest's console at a test's end: what it shows and the kernel log does not is lost evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from harness.core.plan import Allowed
from harness.core.records import Evidence, Outcome
from harness.oracles import registry
from harness.oracles.registry import Oracle
from harness.session.context import TestContext
from tests.unit.session.test_context import FIRST_SEQ, WARN, FakeGuest, made


def printed(records: Sequence[str], caller: bool = True) -> list[str]:
    """These records of /dev/kmsg as the console shows them."""
    lines = []
    for record in records:
        head, _, text = record.partition(";")
        _, _, micro, _, who = head.split(",")
        name = who.removeprefix("caller=")
        stamp = f"[{int(micro) // 10**6:5}.{int(micro) % 10**6:06}]" + (f"[{name:>6}]" if caller else "")
        lines.append(f"{stamp} {text}")
    return lines


def later(records: Sequence[str]) -> tuple[str, ...]:
    """The same report ten seconds later, with the sequence numbers that follow."""
    return tuple(
        re.sub(r"^(\d+),(\d+),(\d+)", lambda m: f"{m[1]},{int(m[2]) + len(records)},{int(m[3]) + 10**7}", record)
        for record in records
    )


@pytest.fixture
def guest() -> tuple[TestContext, FakeGuest]:
    context, fake = made()
    context.target.pristine.__dict__["log"] = ()
    return context, fake


@pytest.mark.parametrize("caller", [True, False], ids=["caller", "plain"])
def test_what_both_show_is_judged_by_the_log_alone(guest: tuple[TestContext, FakeGuest], caller: bool) -> None:
    context, fake = guest
    fake.kmsg = WARN
    fake.vm.console_lines = ["[tell] hello", "", *printed(WARN, caller)]
    result = context.conclude(None)
    assert (result.outcome, len(result.findings)) == (Outcome.FAIL, 1)
    assert all(seen.watched and not seen.lost for seen in result.evidence if seen.oracle == "console")


def test_what_was_announced_stays_so(guest: tuple[TestContext, FakeGuest]) -> None:
    context, fake = guest
    context.expect("in init_dsq")
    fake.kmsg, fake.vm.console_lines = WARN, printed(WARN)
    assert context.conclude(None).outcome is Outcome.PASS
    context, fake = made()
    context.target.pristine.__dict__["log"] = ()
    context.expect("in init_dsq")
    fake.vm.console_lines = printed(WARN)
    assert context.conclude(None).outcome is Outcome.PASS, "and where the log has lost it no more is missing than that"


def test_a_report_that_only_the_console_shows_leaves_no_pass(guest: tuple[TestContext, FakeGuest]) -> None:
    context, fake = guest
    fake.vm.console_lines = printed(WARN)
    result = context.conclude(None)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "console did not watch: it shows what the kernel log does not: WARNING" in result.why
    assert "init_dsq" in result.why


def test_a_second_report_like_an_announced_one_is_still_another(guest: tuple[TestContext, FakeGuest]) -> None:
    """The log has the first one, the console both; the test announced none."""
    context, fake = guest
    context.allow = (Allowed("dmesg:warn:other*", "known", "2999-01-01"),)
    fake.kmsg = WARN[:1]
    fake.vm.console_lines = [*printed(WARN[:1]), *printed(later(WARN))]
    assert context.conclude(None).outcome is Outcome.INCONCLUSIVE


def test_what_is_known_does_not_count_on_the_console_either(guest: tuple[TestContext, FakeGuest]) -> None:
    context, fake = guest
    context.allow = (Allowed("dmesg:warn:*", "known", "2999-01-01"),)
    fake.vm.console_lines = printed(WARN)
    assert context.conclude(None).outcome is Outcome.PASS


def test_what_came_while_the_oracles_looked_is_judged_as_ever(
    guest: tuple[TestContext, FakeGuest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the log by then: the log is read again."""
    context, fake = guest

    def late(test: object) -> None:
        fake.kmsg, fake.vm.console_lines = WARN, printed(WARN)
        context.evidence.append(Evidence("late"))

    *before, last = registry.every(())
    assert last.name == "console"
    monkeypatch.setattr(registry, "every", lambda suites: (*before, Oracle("late", late), last))
    result = context.conclude(None)
    assert result.outcome is Outcome.FAIL
    assert [finding.function for finding in result.findings] == ["init_dsq"]


def test_what_boot_printed_late_is_boots(guest: tuple[TestContext, FakeGuest]) -> None:
    context, fake = guest
    context.target.pristine.__dict__["log"] = WARN
    fake.vm.console_lines = printed(WARN)
    assert context.conclude(None).outcome is Outcome.PASS


@pytest.mark.parametrize("lost", range(0, 40, 3))
def test_a_console_that_loses_characters_raises_no_alarm(guest: tuple[TestContext, FakeGuest], lost: int) -> None:
    context, fake = guest
    context.expect("in init_dsq")
    fake.kmsg = WARN
    fake.vm.console_lines = [line[:16] + line[16:][:lost] + line[16:][lost + 2 :] for line in printed(WARN)]
    assert context.conclude(None).outcome is Outcome.PASS


def test_a_console_that_overflowed_is_lost_evidence(guest: tuple[TestContext, FakeGuest]) -> None:
    context, fake = guest
    fake.vm.console.lost = 7
    result = context.conclude(None)
    assert (result.outcome, result.why) == (
        Outcome.INCONCLUSIVE,
        "console did not watch: it overflowed, 7 bytes of it are lost",
    )


def test_a_log_that_is_whole_is_not_read_twice(guest: tuple[TestContext, FakeGuest]) -> None:
    context, fake = guest
    fake.vm.console_lines = ["[    2.000000] random words", *printed([f"6,{FIRST_SEQ},1,-,caller=T1;fine"])]
    assert context.conclude(None).outcome is Outcome.PASS
    assert fake.asked.count("kmsg") == 1
