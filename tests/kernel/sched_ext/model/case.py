# SPDX-License-Identifier: GPL-2.0-only
"""What a scheduler may set and answer, as data to be drawn from, and the ways in which it may end."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sched_ext.model import ids
from sched_ext.model.ids import errno_name
from sched_ext.model.state import Features

SWITCH_PARTIAL = 1 << 3
"""SCX_OPS_SWITCH_PARTIAL (enum scx_ops_flags): only SCHED_EXT tasks are the scheduler's."""

SLICE_DFL, SLICE_INF = 20_000_000, ids.U64
"""Nanoseconds; SCX_SLICE_DFL and SCX_SLICE_INF (include/linux/sched/ext.h)."""

INT_MAX, INT_MIN = (1 << 31) - 1, -(1 << 31)
ERRORS = (-1, -4095, -4096, 1, INT_MAX, INT_MIN)
"""Answers of callbacks that are to answer 0: the edges of what is an errno, and of s32."""

NAME = "kh_dsq_fields"
CALLBACKS = (
    "select_cpu",
    "enqueue",
    "dispatch",
    "init_task",
    "exit_task",
    "enable",
    "cgroup_init",
    "cpu_online",
    "cpu_offline",
)
"""What bpf_progs/sched_ext/dsq_fields.bpf.c has and may leave out: all but ops.init, and ops.exit, which records its end."""


@dataclass(frozen=True, slots=True)
class Insert:
    """What a callback inserts a task by: `times` calls, by `vtime` or, where that is None, as into a FIFO."""

    dsq_id: int = ids.GLOBAL
    slice: int = SLICE_DFL
    vtime: int | None = None
    flags: int = 0
    times: int = 1

    def __str__(self) -> str:
        parts = [ids.id_name(self.dsq_id)]
        parts += [f"slice {self.slice:#x}"] if self.slice != SLICE_DFL else []
        parts += [f"vtime {self.vtime:#x}"] if self.vtime is not None else []
        parts += [f"flags {self.flags:#x}"] if self.flags else []
        return ", ".join(parts) + (f", {self.times} times" if self.times != 1 else "")


@dataclass(frozen=True, slots=True)
class Case:
    """One scheduler: members of its ops, the answers of its callbacks, and the tasks that come to it.

    Numbers are as the kernel's types hold them (u64, u32, s32 with their sign). `hotplug` is how far ops.hotplug_seq is
    off the kernel's; None leaves it 0. `without` are callbacks that are left out, `sleeping` those that may sleep,
    `extra` ("update_idle") those that are there besides. `creates` are the DSQs of ops.init, id and node. `init_task`
    is the answer for the `nth` task (from 1) of those that are there, `fork` that for a task that is forked later.
    `select_cpu` None is the task's previous CPU. `enqueue` None leaves the task to ops.dispatch, which inserts it by
    `dispatch`; `move` is the DSQ that ops.dispatch takes tasks from. Tasks are `pinned` to that CPU, or to none.
    """

    flags: int = SWITCH_PARTIAL
    timeout_ms: int = 30_000
    dispatch_max_batch: int = 0
    exit_dump_len: int = 0
    hotplug: int | None = None
    name: str = NAME
    without: frozenset[str] = frozenset()
    sleeping: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()
    creates: tuple[tuple[int, int], ...] = ()
    init: int = 0
    cgroup_init: int = 0
    init_task: int = 0
    nth: int = 1
    fork: int = 0
    disallow: bool = False
    select_cpu: int | None = None
    select: Insert | None = None
    enqueue: Insert | None = Insert()
    dispatch: Insert | None = None
    move: int | None = None
    pinned: int | None = 1

    def has(self, callback: str) -> bool:
        """Whether the scheduler has a callback."""
        return callback not in self.without

    def __str__(self) -> str:
        """The differences from a correct scheduler."""
        usual = Case()
        parts = []
        for name in self.__slots__:
            value = getattr(self, name)
            if value != getattr(usual, name):
                shown = ", ".join(sorted(value)) if isinstance(value, frozenset) else str(value)
                parts.append(f"{name} {shown}")
        return "; ".join(parts) or "nothing out of the way"


class ExitKind(enum.StrEnum):
    """Of enum scx_exit_kind (kernel/sched/ext/internal.h): how a scheduler exits whose user did not end it."""

    KERNEL = "SCX_EXIT_UNREG_KERN"
    ERROR = "SCX_EXIT_ERROR"
    STALL = "SCX_EXIT_ERROR_STALL"


RESTART_FOR_HOTPLUG = 1 << 48 | 1 << 32
"""SCX_ECODE_ACT_RESTART | SCX_ECODE_RSN_HOTPLUG (enum scx_exit_code)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How a scheduler ended: what load, attach and fork answered (0 or a negative errno), and its exit info, if any."""

    load: int = 0
    attach: int = 0
    fork: int = 0
    kind: str | None = None
    code: int = 0
    message: str = ""

    def __str__(self) -> str:
        refused, forked = _answers(self, "answered")
        if refused or self.kind is None:
            return refused or f"{forked}the scheduler stayed"
        code = f", code {self.code:#x}" if self.code else ""
        return f"{forked}the scheduler exited with {self.kind}{code}: {self.message!r}"


@dataclass(frozen=True, slots=True)
class End:
    """One legal end. `message` is a regular expression for the whole message of the exit info.

    `warns` are reports in the kernel log (regular expressions) that go with it, `rule` the kernel function that
    decides, `why` its reason.
    """

    rule: str
    why: str
    load: int = 0
    attach: int = 0
    fork: int = 0
    kind: ExitKind | None = None
    code: int = 0
    message: str = ""
    warns: tuple[str, ...] = ()

    def allows(self, seen: Seen) -> bool:
        """Whether what was seen is this end."""
        if (seen.load, seen.attach, seen.fork) != (self.load, self.attach, self.fork):
            return False
        if self.kind is None:
            return seen.kind is None
        return (seen.kind, seen.code) == (self.kind, self.code) and bool(re.fullmatch(self.message, seen.message))

    @property
    def runs(self) -> bool:
        """Whether the scheduler is still there when tasks come."""
        return not self.load and not self.attach

    @property
    def expects(self) -> tuple[str, ...]:
        """What it says in the kernel log, as titles of reports hold it."""
        errors = self.kind in (ExitKind.ERROR, ExitKind.STALL)
        return (*self.warns, *([self.message] if errors else []))

    def __str__(self) -> str:
        refused, forked = _answers(self, "answers")
        if refused or self.kind is None:
            return refused or f"{forked}the scheduler stays"
        return f"{forked}the scheduler exits with {self.kind}: {self.message!r}"


def _answers(end: Seen | End, verb: str) -> tuple[str, str]:
    """The refusals in words, and fork's answer, to precede the rest."""
    for what, answer in (("load", end.load), ("attach", end.attach)):
        if answer:
            return f"{what} {verb} {errno_name(answer)}", ""
    return "", f"fork {verb} {errno_name(end.fork)}, " if end.fork else ""


@dataclass(frozen=True, slots=True)
class Platform:
    """One kernel on one machine, as far as the rules ask: probed from BTF (sched_ext.fields.probe).

    `all_flags` is SCX_OPS_ALL_FLAGS, `flags` are the enumerators SCX_OPS_* and SCX_ENQ_* by name, `internal_enq` is
    __SCX_ENQ_INTERNAL_MASK, `members` are those of struct sched_ext_ops. CPUs are 0 to `possible_cpus` - 1.
    """

    features: Features
    nodes: frozenset[int]
    possible_cpus: int
    all_flags: int
    internal_enq: int
    flags: Mapping[str, int] = field(default_factory=dict)
    members: frozenset[str] = frozenset()

    def flag(self, name: str) -> int:
        """An enumerator; 0 where this kernel has none of that name, so that nobody has it set."""
        return self.flags.get(name, 0)
