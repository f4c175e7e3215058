# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what a sweep's outcomes mean: which answers of an attach under a fault are the kernel's failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.records import FaultSummary, GuestError
from harness.suite.bench import Bench
from harness.suite.outcome import Disagreed
from harness.suite.sweep import ENDED, ENOMEM, STAYED, STUCK, Faults

SITE = 0x1234
FINE = {"runs": 5, "injected": 2, "disputed": 0, "lost": 0, "done": 1, "next": 6, "outcomes": [[SITE, ENOMEM, 2]]}


class Sweeper(Faults):
    """Faults whose guest takes every write, and whose observer has seen what the outcomes say."""

    def __init__(self) -> None:
        self.counted: list[Any] = []
        bench = SimpleNamespace(
            guest=SimpleNamespace(write=lambda path, value: None),
            expect=lambda *patterns: None,
            count_faults=self.counted.append,
            count_model=lambda *numbers: self.counted.append(numbers),
            ready=SimpleNamespace(pristine=SimpleNamespace(scale=1.0)),
        )
        super().__init__(cast(Bench, bench))
        self.told: list[Any] = []

    @property
    def observer(self) -> Any:
        return SimpleNamespace(set=lambda variable, value: None)

    def collect(self, operation: str, under: Any, outcomes: Any = (), failed: int = 0) -> FaultSummary:
        self.told = [operation, outcomes]
        return FaultSummary(2, 2, 2)


def sweep(thread: str = "helper", **answer: Any) -> Sweeper:
    faults = Sweeper()
    scheduler = SimpleNamespace(sweep_attach=lambda observer, **how: {**FINE, **answer})
    faults.sweep_attach(cast(Any, scheduler), thread=thread, under=("enable",))
    return faults


def test_a_sweep_is_counted_once_done() -> None:
    faults = sweep()
    assert faults.counted == [FaultSummary(2, 2, 2), (5, 5)]
    assert faults.told == ["attach, helper", [(SITE, ENOMEM, 2)]]
    assert sweep(thread="").told[0] == "attach, loader"


def test_a_scheduler_that_ended_by_itself_handled_the_fault_and_one_that_stayed_absorbed_it() -> None:
    faults = sweep(outcomes=[[SITE, ENDED, 1], [SITE + 1, STAYED, 1]])
    assert faults.told[1] == [(SITE, ENOMEM, 1), (SITE + 1, STAYED, 1)]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ([SITE, -22, 1], "answered -22 1 times under a fault"),
        ([SITE, STUCK, 1], "neither enabled nor disabled"),
        ([0, ENOMEM, 1], "although no fault was injected"),
        ([0, ENDED, 1], "although no fault was injected"),
    ],
)
def test_what_the_kernel_must_not_answer(outcome: list[int], says: str) -> None:
    with pytest.raises(Disagreed, match=says):
        sweep(outcomes=[outcome])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"disputed": 1}, "disagree on 1 faults"),
        ({"lost": 3}, r"\(3 lost\)"),
        ({"done": 0}, "came to allocation 6"),
    ],
)
def test_a_sweep_that_proves_nothing(answer: dict[str, Any], says: str) -> None:
    with pytest.raises(GuestError, match=says):
        sweep(**answer)


def test_a_kernel_without_the_thread() -> None:
    faults = Sweeper()
    scheduler = SimpleNamespace(sweep_attach=lambda observer, **how: None)
    assert faults.sweep_attach(cast(Any, scheduler), thread="helper", under=()) is None
    assert not faults.counted
