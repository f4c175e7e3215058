# SPDX-License-Identifier: GPL-2.0-only
"""Owns reading what the kernel says of its tasks and CPUs when it is asked by SysRq.

Texts read from 7.2.13: drivers/tty/sysrq.c, kernel/sched/core.c (sched_show_task), lib/nmi_backtrace.c,
arch/x86/kernel/dumpstack.c, arch/arm64/kernel/stacktrace.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.oracles.frames import Raw, frame_line, pc_line
from harness.records import LogRecord

_BEGINS = re.compile(r"^sysrq: (?P<what>.*?)\s*$")
_TASK = re.compile(
    r"^task:(?P<name>.{1,40}?) +state:(?P<state>\S+) +(?:running task +)?(?:stack:\s*\d+ +)?pid:(?P<pid>\d+)\b"
)
_CPU = re.compile(r"^NMI backtrace for cpu (?P<cpu>\d+)(?P<skipped> skipped: idling.*)?$")
_OTHER = re.compile(r"^(?:Showing |Sched Debug|workqueue |Sending NMI|Mem-Info|cfs_rq|rt_rq|cpu#\d)")
"""Lines with which what belongs to no task or CPU begins."""


@dataclass
class Task:
    """A task as sysrq-w or sysrq-t shows it: `state` is the kernel's letter, `raws` its stack, innermost first."""

    name: str
    state: str
    pid: int
    raws: list[Raw] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class Backtrace:
    """A CPU as sysrq-l shows it; `skipped` if the kernel found it idle. No exact frame: it was not in the kernel."""

    cpu: int
    skipped: bool
    raws: list[Raw] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def interrupted(self) -> list[Raw]:
        """Its stack without that of the interrupt by which it was asked: from the last program counter on."""
        exact = [index for index, raw in enumerate(self.raws) if raw.exact]
        return self.raws[exact[-1] :] if exact else []


@dataclass(frozen=True)
class Told:
    """All of it: tasks in the order of the log, once each, and CPUs by number."""

    tasks: tuple[Task, ...]
    cpus: dict[int, Backtrace]


def read(records: Iterable[LogRecord]) -> Told:
    """What the log of these records tells. Two CPUs that print at once come apart by caller; garbage is passed over."""
    tasks: dict[int, Task] = {}
    cpus: dict[int, Backtrace] = {}
    open_: dict[str, Task | Backtrace | None] = {}
    for record in records:
        text = record.text
        if (found := _TASK.match(text)) is not None:
            task = Task(found["name"].strip(), found["state"], int(found["pid"]))
            now: Task | Backtrace | None = task
            if task.pid not in tasks:
                tasks[task.pid] = task
        elif (found := _CPU.match(text)) is not None:
            now = cpus[int(found["cpu"])] = Backtrace(int(found["cpu"]), found["skipped"] is not None)
        elif _BEGINS.match(text) or _OTHER.match(text):
            now = None
        else:
            now = open_.get(record.caller)
        open_[record.caller] = now
        if now is None:
            continue
        now.lines.append(text)
        raw = pc_line(text) or frame_line(text)
        if raw is not None:
            now.raws.append(raw)
    return Told(tuple(tasks.values()), cpus)
