# SPDX-License-Identifier: GPL-2.0-only
"""The tests that golden reports are found again in worse logs; docs/lab/facts.md states the figures."""

from __future__ import annotations

import re

import pytest

from tests.unit.oracles import recall
from tests.unit.oracles.logs import CLEAN, NamedReport, at_once, lines
from tests.unit.oracles.recall import Recall

FLOOR = 1.0
"""Every kind in every log, nothing invented: what is lower is a defect to be mended."""


def assert_found(seen: Recall) -> None:
    wrong = [*seen.missed, *seen.invented]
    assert not wrong, "\n".join(wrong[:10])
    assert all(seen.of(kind) >= FLOOR for kind in seen.there)
    assert len(seen.there) >= 18


def test_in_noise() -> None:
    assert_found(recall.in_noise())


def test_from_two_cpus_at_once() -> None:
    assert_found(recall.on_two_cpus(partners=8))


def test_cut_short() -> None:
    seen = recall.cut_short()
    assert_found(seen)
    assert seen.there.total() > 1000


def test_two_clean_boots_at_once_stay_clean() -> None:
    assert recall.findings(at_once(lines(CLEAN[0]), lines(CLEAN[1], 5000))) == []


@pytest.mark.parametrize("name", recall.REPORTS)
def test_without_its_reports_a_log_has_none(name: str) -> None:
    """What is counted as found comes from the report: frames and registers alone are no finding."""
    plain = [
        line
        for line in lines(name)
        if re.match(r"\[[ \d.]+\]\[[ TC\d]+\] ( |R[A-Z\d]+:|(pc|lr|sp|x\d+) *:|Call )", line)
    ]
    assert recall.findings(plain) == []


def test_what_is_missed_and_what_is_invented_is_booked() -> None:
    seen = Recall()
    seen.book(
        [NamedReport("warn", "f"), NamedReport("warn", "g")],
        [NamedReport("warn", "f"), NamedReport("bug", "g")],
        "here",
    )
    assert (seen.of("warn"), len(seen.missed), len(seen.invented)) == (0.5, 1, 1)
