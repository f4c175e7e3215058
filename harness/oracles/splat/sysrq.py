# SPDX-License-Identifier: GPL-2.0-only
"""Reading the kernel's answers to SysRq about its tasks and CPUs.

Texts read from 7.2.13: drivers/tty/sysrq.c, kernel/sched/core.c (sched_show_task), lib/nmi_backtrace.c,
arch/x86/kernel/dumpstack.c, arch/arm64/kernel/stacktrace.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.core.records import LogRecord
from harness.oracles.splat import bounds
from harness.oracles.splat.frames import Raw, frame_line, pc_line

_BEGINS = re.compile(r"^sysrq: (?P<what>.*?)\s*$")
_TASK = re.compile(
    r"^task:(?P<name>.{1,40}?) +state:(?P<state>\S+) +(?:running task +)?(?:stack:\s*\d+ +)?pid:(?P<pid>\d{1,10})\b"
)
_CPU = re.compile(r"^NMI backtrace for cpu (?P<cpu>\d{1,6})(?P<skipped> skipped: idling.*)?$")
_OTHER = re.compile(r"^(?:Showing |Sched Debug|workqueue |Sending NMI|Mem-Info|cfs_rq|rt_rq|cpu#\d)")
"""First lines of sections that belong to no task or CPU."""


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
        """Its stack without that of the interrupt that requested it: from the last program counter on."""
        exact = [index for index, raw in enumerate(self.raws) if raw.exact]
        return self.raws[exact[-1] :] if exact else []


@dataclass(frozen=True)
class SysrqReport:
    """All of it: tasks in the order of the log, once each, and CPUs by number."""

    tasks: tuple[Task, ...]
    cpus: dict[int, Backtrace]


def read(records: Iterable[LogRecord]) -> SysrqReport:
    """Parse the records. CPUs that print at once are separated by caller id; garbage is skipped."""
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
        if len(now.lines) < bounds.LINES:
            now.lines.append(text)
        raw = pc_line(text) or frame_line(text)
        if raw is not None and len(now.raws) < bounds.FRAMES:
            now.raws.append(raw)
    return SysrqReport(tuple(tasks.values()), cpus)
