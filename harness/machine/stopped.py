# SPDX-License-Identifier: GPL-2.0-only
"""Whether a process that we started, or one below it, was stopped: then no guest runs, and no answer is late."""

from __future__ import annotations

from pathlib import Path

_STOPPED = frozenset("Tt")
"""States of proc_pid_stat(5): by a signal, and by a tracer."""


def is_stopped(pid: int) -> bool:
    """Whether the process `pid` or one of its descendants is stopped; false for what is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state in _STOPPED or any(is_stopped(child) for child in children)
