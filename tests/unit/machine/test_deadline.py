# SPDX-License-Identifier: GPL-2.0-only
"""Tests of deadlines and their scale."""

from __future__ import annotations

import pytest

from harness.machine.deadline import MAX_SCALE, NOMINAL_BOOT_SECONDS, Deadline, scale_of


@pytest.mark.parametrize(
    ("boot", "scale"), [(0.1, 1.0), (NOMINAL_BOOT_SECONDS, 1.0), (NOMINAL_BOOT_SECONDS * 4, 4.0), (1e6, MAX_SCALE)]
)
def test_a_slow_machine_waits_longer_a_fast_one_not_shorter(boot: float, scale: float) -> None:
    assert scale_of(boot) == pytest.approx(scale)


def test_what_is_left_goes_down_to_zero_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("harness.machine.deadline.time.monotonic", lambda: now[0])
    wait = Deadline(5, "the moon", start=100.0)
    assert (wait.left, wait.expired) == (5.0, False)
    now[0] = 104.5
    assert (wait.left, wait.expired) == (0.5, False)
    now[0] = 105.0
    assert (wait.left, wait.expired) == (0.0, True)
    now[0] = 1000.0
    assert (wait.left, wait.expired) == (0.0, True)


def test_it_says_how_long_and_for_what() -> None:
    assert str(Deadline(5, "the kernel to boot")) == "waited 5 s for the kernel to boot"
