# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the way to a saved guest: a kernel that does not outlive its first restore is one that does not boot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.core.records import EventKind, MachineSpec, Outcome, TestResult
from harness.run import targets
from harness.run.targets import Workbench
from harness.suite import loader
from tests.unit.report.eventlog import kernel

PANIC = ("[    3.100000] Kernel panic - not syncing: Fatal exception",)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[TestResult]:
    """What a workbench journals."""
    monkeypatch.setattr(targets, "Symbols", lambda *args: None)
    monkeypatch.setattr(targets, "Addresses", lambda *args: None)
    return []


def restored(shown: list[TestResult], ended: Ended, monkeypatch: pytest.MonkeyPatch) -> float | None:
    def guest(*args: object) -> Any:
        raise MachineEnded("QEMU ended during: settime", ended, PANIC, False)

    def emit(kind: EventKind, result: TestResult, **named: object) -> None:
        shown.append(result)

    monkeypatch.setattr(targets, "Guest", guest)
    nothing: Any = SimpleNamespace()
    event_log: Any = SimpleNamespace(emit=emit)
    plan: Any = SimpleNamespace(suite=loader.default())
    context = Workbench(plan, nothing, nothing, nothing, event_log, nothing)
    launch: Any = SimpleNamespace(spec=MachineSpec("x86_64"))
    return context._restored(cast(Any, None), launch, kernel())


def test_a_kernel_that_dies_at_its_first_restore_is_told(
    shown: list[TestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert restored(shown, Ended(How.EXITED, 0), monkeypatch) is None
    (row,) = shown
    assert (row.id, row.outcome, row.machine) == ("boot", Outcome.FAIL, "default")
    assert [finding.kind for finding in row.findings] == ["panic"]


def test_a_qemu_that_was_killed_is_none_of_the_kernels(
    shown: list[TestResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineLost, match="SIGKILL"):
        restored(shown, Ended(How.KILLED, signal=9), monkeypatch)
    assert shown == []
