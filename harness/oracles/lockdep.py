# SPDX-License-Identifier: GPL-2.0-only
"""Owns whether lockdep watched: it turns itself off at its first report, and at others' that make it unreliable.

Its reports are lines of the kernel log, and harness.oracles.dmesg finds them.
"""

from __future__ import annotations

import re

from harness.records import Evidence

ORACLE = "lockdep"
STATS = "/proc/lockdep_stats"
"""kernel/locking/lockdep_proc.c, lockdep_stats_show()."""

_ON = re.compile(r"^\s*debug_locks:\s*(\d)\s*$", re.MULTILINE)


def watched(text: str | None) -> Evidence:
    """Whether lockdep is on still; `text` is what STATS held, None where it cannot be read."""
    found = _ON.search(text) if text is not None else None
    if found is None:
        return Evidence(ORACLE, watched=False, why=f"{STATS} does not say whether lockdep is on")
    if found[1] == "0":
        return Evidence(ORACLE, watched=False, why="lockdep turned itself off: see the log for what made it")
    return Evidence(ORACLE)
