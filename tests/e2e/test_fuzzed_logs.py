# SPDX-License-Identifier: GPL-2.0-only
"""The long campaign against the parsers of logs: 100,000 damaged ones, and every pair of golden ones at once."""

from __future__ import annotations

import pytest

from tests.unit.oracles import recall
from tests.unit.oracles.test_fuzz import fuzz
from tests.unit.oracles.test_recall import assert_found

SEEDS = range(100, 110)
EACH = 10_000


@pytest.mark.full
@pytest.mark.parametrize("seed", SEEDS)
def test_ten_thousand_damaged_logs_leave_the_parsers_standing(seed: int) -> None:
    read, found = fuzz(EACH, seed)
    assert read == EACH and found > EACH / 3


@pytest.mark.full
def test_every_two_golden_logs_at_once() -> None:
    assert_found(recall.on_two_cpus())
