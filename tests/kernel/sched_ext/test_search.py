# SPDX-License-Identifier: GPL-2.0-only
"""Sequences of operations that Hypothesis draws: the model agrees with each, whatever came before it."""

from __future__ import annotations

from sched_ext.search.searching import Searching


def test_search(search: Searching) -> None:
    """For as long as --search says; a sequence that disagrees is shrunk, and its replay does it alone."""
    search.run()
