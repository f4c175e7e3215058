# SPDX-License-Identifier: GPL-2.0-only
"""Runs that are struck at random moments, four at once on one cache: none hangs, none passes wrongly, nothing is left.

The seed is printed; KHARNESS_STRESS_SEED and KHARNESS_STRESS_RUNS set it and the number of runs.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.e2e import stress
from tests.e2e.command import Done, Kharness
from tests.e2e.leaks import Before
from tests.e2e.stress import BLOWS, MOMENTS, VICTIMS, draw

FEW, MANY = 20, 1000
"""Runs in ``make test``, and in ``make test-full``."""


def struck(runs: int, cache_home: Path, env: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    runs = int(os.environ.get("KHARNESS_STRESS_RUNS") or runs)
    seed = int(os.environ.get("KHARNESS_STRESS_SEED") or random.randrange(1 << 30))
    before, begin = Before.now(), time.monotonic()
    with capfd.disabled():
        print(f"\nKHARNESS_STRESS_SEED={seed} KHARNESS_STRESS_RUNS={runs}")
        records = stress.collect(stress.start(runs, seed, stress.LANES, cache_home, env))
        print(stress.summary(records, time.monotonic() - begin))
    assert len(records) == runs + min(stress.LANES, runs), "and one of each lane to which nothing happened"
    wrong = [stress.described(record) for record in records if record["wrong"]]
    assert not wrong, "\n\n".join(wrong)
    assert sum(bool(record["struck"]) for record in records) > runs // 2
    nothing = cache_home / "nothing"
    left = before.left_behind(cache_home / "kharness", nothing, nothing)
    assert not left, left


def test_some(kharness: Kharness, passed: Done, cache_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    struck(FEW, cache_home, kharness.environment(), capfd)


@pytest.mark.full
def test_very_many(kharness: Kharness, passed: Done, cache_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    struck(MANY, cache_home, kharness.environment(), capfd)


def test_each_fault_is_drawn() -> None:
    """Each moment, victim and signal comes up in so many runs, and the same ones for the same seed."""
    drawn = [draw(1, number) for number in range(MANY)]
    assert {blow.moment for blow in drawn} == set(MOMENTS)
    assert {(blow.moment, blow.victim) for blow in drawn} == {
        (moment, victim) for moment, victims in VICTIMS.items() for victim, _ in victims
    }
    assert {(blow.victim, blow.blow) for blow in drawn} >= {
        (victim, blow) for victim, blows in BLOWS.items() for blow, _ in blows if victim != "python"
    }
    assert drawn == [draw(1, number) for number in range(MANY)] != [draw(2, number) for number in range(MANY)]
