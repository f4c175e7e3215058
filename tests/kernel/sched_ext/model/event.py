# SPDX-License-Identifier: GPL-2.0-only
"""The events of a trace of several CPUs, as bpf_progs/sched_ext/dsq_traced.bpf.c writes them down, and their stamps."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NO_DSQ, LOCAL_DSQ, NO_RQ = 255, 254, 255
FIRST_PRIQ = 2
"""As in bpf_progs/sched_ext/dsq_traced.bpf.c: DSQs from this one on are ordered by virtual time."""


class Kind(enum.IntEnum):
    """As there."""

    ENQUEUED = 1
    LEFT = 2
    TAKEN = 3
    MOVED = 4
    RAN = 5
    STOPPED = 6
    GONE = 7
    ONLINE = 8
    OFFLINE = 9
    COUNTED = 10
    FIRST = 11
    ASKED = 12


class Flag(enum.IntFlag):
    """As there. DONE: a move moved, a walk found somebody. CHANGED: it left for its properties were changed.

    PINNED: it may not migrate, or that was so when it was enqueued.
    """

    AT_HEAD = 1
    REENQUEUED = 2
    DONE = 4
    CHANGED = 8
    RUNNABLE = 16
    PINNED = 32


NOTHING = Flag(0)


@dataclass(frozen=True, slots=True)
class Event:
    """One event, between two stamps; `end` is 0 where the second one was not taken.

    `cpu` is where it was written down, `rq` whose runqueue was locked (255: none's). `vtime` of COUNTED is the answer,
    `slice` in nanoseconds as the task has it, of ENQUEUED as it is given (0: it keeps its own). `time` in nanoseconds.
    """

    begin: int
    end: int
    kind: Kind
    cpu: int = 0
    rq: int = NO_RQ
    pid: int = 0
    dsq: int = NO_DSQ
    other: int = NO_DSQ
    flags: Flag = NOTHING
    vtime: int = 0
    slice: int = 0
    mask: int = 0
    time: int = 0

    @property
    def until(self) -> float:
        """The second stamp; infinite where there is none."""
        return self.end or math.inf


def stamps_before(events: Sequence[Event]) -> Mapping[int, float]:
    """For each event the last stamp before it that its CPU took, or that was taken under its runqueue's lock."""
    points: list[tuple[int, int, int]] = []
    for event in events:
        points.append((event.begin, event.cpu, NO_RQ if event.kind in (Kind.ONLINE, Kind.OFFLINE) else event.rq))
        if event.end:
            held = event.rq if event.kind in (Kind.TAKEN, Kind.MOVED, Kind.FIRST) else NO_RQ
            points.append((event.end, event.cpu, held))
    points.sort()
    last_cpu: dict[int, int] = {}
    last_rq: dict[int, int] = {}
    found: dict[int, float] = {}
    for stamp, cpu, rq in points:
        found[stamp] = max(last_cpu.get(cpu, 0), last_rq.get(rq, 0) if rq != NO_RQ else 0)
        last_cpu[cpu] = stamp
        if rq != NO_RQ:
            last_rq[rq] = stamp
    return found
