# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a test's end where a local DSQ counts other tasks than it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from sched_ext import local_dsqs, rq_memory
from sched_ext.rq_memory import Layout, LocalDsq

from harness.core.records import Outcome, TestResult
from tests.unit.fakes.suite import default
from tests.unit.session.test_context import made

LAYOUT = Layout(0x1000, 0x2000, 0x40, 0x60, 2)
RIGHT = (LocalDsq(0, 0, 0), LocalDsq(1, 0, 0))
WRONG = (LocalDsq(0, 0, 0), LocalDsq(1, 2, 0))


def concluded(looks: Sequence[tuple[LocalDsq, ...]], monkeypatch: pytest.MonkeyPatch) -> tuple[TestResult, int]:
    """The result, and how often it was looked."""
    context, guest = made()
    left = list(looks)
    monkeypatch.setattr(rq_memory, "look", lambda vm, layout: left.pop(0))
    monkeypatch.setattr(local_dsqs, "layout_of", lambda target: LAYOUT)
    cast(Any, context.target).suite = default()
    cast(Any, guest).visit = lambda cpus: None
    return context.conclude(None), len(looks) - len(left)


def test_it_is_looked_twice_only_where_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    result, looked = concluded([RIGHT], monkeypatch)
    assert (result.outcome, looked) == (Outcome.PASS, 1)
    assert "local dsq" in {seen.oracle for seen in result.evidence}
    result, looked = concluded([WRONG, RIGHT], monkeypatch)
    assert (result.outcome, looked) == (Outcome.PASS, 2)


def test_a_count_that_stays_wrong_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = concluded([WRONG, WRONG], monkeypatch)
    assert result.outcome is Outcome.FAIL
    assert [finding.function for finding in result.findings] == ["task_unlink_from_dsq"]


def test_a_runqueue_that_cannot_be_read_makes_it_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = concluded([RIGHT[:1]], monkeypatch)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "1 of 2 runqueues" in result.why
