# SPDX-License-Identifier: GPL-2.0-only
"""Whether lockdep watched: it turns itself off at its first report, and at other reports that make it unreliable.

Its reports are lines of the kernel log, and harness.oracles.dmesg finds them.
"""

from __future__ import annotations

import re

from harness.core.records import Evidence
from harness.oracles.registry import KernelTarget, Oracle, TestEnd

ORACLE = "lockdep"
STATS = "/proc/lockdep_stats"
"""kernel/locking/lockdep_proc.c, lockdep_stats_show()."""

_ON = re.compile(r"^[ \t]*debug_locks:[ \t]*(\d)[ \t]*$", re.MULTILINE)


def watched(text: str | None) -> Evidence:
    """Whether lockdep is still on; `text` is the content of STATS, None where it cannot be read."""
    found = _ON.search(text) if text is not None else None
    if found is None:
        return Evidence(ORACLE, watched=False, why=f"{STATS} does not say whether lockdep is on")
    if found[1] == "0":
        return Evidence(ORACLE, watched=False, why="lockdep turned itself off: see the log for what made it")
    return Evidence(ORACLE)


def judge(test: TestEnd) -> None:
    """Book whether lockdep is on. The reason for turning off may be expected, but the evidence is lost nevertheless."""
    answer = test.guest.agent.call("read", check=False, record=False, path=STATS)
    test.evidence.append(watched(answer.get("data") if answer["ok"] else None))


def has_lockdep(target: KernelTarget) -> bool:
    """Whether the kernel has lockdep."""
    return bool(target.config.get("LOCKDEP") == "y")


ORACLES = (Oracle(ORACLE, judge, has_lockdep, order=70),)
"""The defect that proves it is one of harness.oracles.dmesg: its reports are the kernel log's."""
