# SPDX-License-Identifier: GPL-2.0-only
"""Tests of numbers in words."""

from __future__ import annotations

import pytest

from harness.core.words import plural


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "test", "1 test"),
        (2, "test", "2 tests"),
        (0, "finding", "0 findings"),
        (1, "canary", "1 canary"),
        (3, "canary", "3 canaries"),
        (2, "patch", "2 patches"),
        (2, "percpu object", "2 percpu objects"),
    ],
)
def test_how_many_of_what(number: int, noun: str, words: str) -> None:
    assert plural(number, noun) == words
