# SPDX-License-Identifier: GPL-2.0-only
"""Reading the local DSQs of a guest from outside: what each CPU's runqueue counts, and what lies on its list.

The guest stands still meanwhile, and is not asked: it may hang for the very count that is wrong. Its memory may hold
anything, lists without an end too: what is followed is bounded, and so is the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.wire import ByteOrder
from harness.machine.deadline import Deadline
from harness.machine.memory import Peek, peeking
from harness.machine.vm import Vm

MOST = 4096
"""Tasks on a list that are followed; longer lists are circular, or not a local DSQ's."""

LOOK_SECONDS = 30.0
"""Default deadline in seconds for all CPUs together. 256 of them take a second."""

_POINTER, _COUNT = 8, 4
"""Bytes of a pointer and of scx_dispatch_q::nr."""


@dataclass(frozen=True)
class Layout:
    """The layout of a kernel's local DSQs (rq.scx.local_dsq, kernel/sched/sched.h): addresses of __per_cpu_offset[] and
    of the percpu variable runqueues, where list and count lie in a struct rq, in bytes, and how many CPUs are possible.
    """

    offsets: int
    runqueues: int
    list: int
    nr: int
    cpus: int
    order: ByteOrder = ByteOrder.LITTLE


@dataclass(frozen=True)
class LocalDsq:
    """The count of one CPU's local DSQ, and the number of tasks on its list; None where the list has no end."""

    cpu: int
    counted: int
    lying: int | None

    @property
    def wrong(self) -> bool:
        return self.counted != self.lying


def look(vm: Vm, layout: Layout, deadline: Deadline | None = None) -> tuple[LocalDsq, ...]:
    """Read the local DSQs of a guest, which is stopped for that. Raises what Vm.qmp does.

    CPUs that are not reached by the deadline are left out.
    """
    vm.qmp("stop")
    try:
        return read(layout, peeking(vm), deadline or Deadline(LOOK_SECONDS, "the local DSQs to be looked at"))
    finally:
        vm.resume()


def read(layout: Layout, peek: Peek, deadline: Deadline | None = None) -> tuple[LocalDsq, ...]:
    """The local DSQ of each CPU, without those whose runqueue is unreadable or was not reached in time."""
    found = (_one(layout, cpu, peek, deadline) for cpu in range(layout.cpus))
    return tuple(one for one in found if one is not None)


def address(layout: Layout, cpu: int, peek: Peek) -> int | None:
    """The address of a CPU's runqueue (per_cpu_ptr())."""
    offset = _number(layout, peek(layout.offsets + _POINTER * cpu, _POINTER))
    return None if offset is None else (layout.runqueues + offset) % (1 << 64)


def _one(layout: Layout, cpu: int, peek: Peek, deadline: Deadline | None) -> LocalDsq | None:
    def late() -> bool:
        return deadline is not None and deadline.expired

    runqueue = None if late() else address(layout, cpu, peek)
    if runqueue is None:
        return None
    counted = _number(layout, peek(runqueue + layout.nr, _COUNT))
    head = runqueue + layout.list
    node = _number(layout, peek(head, _POINTER))
    if counted is None or node is None:
        return None
    lying = 0
    seen = {head}
    while node != head:
        if late():
            return None
        lying += 1
        if node in seen or lying > MOST:
            return LocalDsq(cpu, counted, None)
        seen.add(node)
        node = _number(layout, peek(node, _POINTER))
        if not node:
            return LocalDsq(cpu, counted, None)
    return LocalDsq(cpu, counted, lying)


def _number(layout: Layout, data: bytes) -> int | None:
    """The number read; None where nothing was."""
    return layout.order.number(data) if data else None
