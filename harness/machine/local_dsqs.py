# SPDX-License-Identifier: GPL-2.0-only
"""Owns reading the local DSQs of a guest from outside: what each CPU's runqueue counts, and what lies on its list.

The guest stands still meanwhile, and is not asked: it may hang for the very count that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.machine.vm import Vm

MOST = 4096
"""Tasks on a list that are followed; more are no local DSQ's, or the list runs in a circle."""

_POINTER, _COUNT = 8, 4
"""Bytes of a pointer and of scx_dispatch_q::nr."""

Peek = Callable[[int, int], bytes]
"""So many bytes of kernel memory from an address on; empty where nothing is mapped."""


@dataclass(frozen=True)
class Layout:
    """Where a kernel has its local DSQs (rq.scx.local_dsq, kernel/sched/sched.h): addresses of __per_cpu_offset[] and
    of the percpu variable runqueues, where list and count lie in a struct rq, in bytes, and how many CPUs are possible.
    """

    offsets: int
    runqueues: int
    list: int
    nr: int
    cpus: int


@dataclass(frozen=True)
class LocalDsq:
    """What one CPU's local DSQ counts, and how many tasks lie on its list; None where the list has no end."""

    cpu: int
    counted: int
    lying: int | None

    @property
    def wrong(self) -> bool:
        return self.counted != self.lying


def look(vm: Vm, layout: Layout) -> tuple[LocalDsq, ...]:
    """The local DSQs of a guest that is stopped for it. Raises what Vm.qmp does."""
    vm.qmp("stop")
    try:
        return read(layout, peeking(vm))
    finally:
        vm.resume()


def peeking(vm: Vm) -> Peek:
    """Reads by the first CPU that has the kernel mapped: one in user space may not have (page table isolation)."""
    cpus: Sequence[int] = [int(cpu["cpu-index"]) for cpu in vm.qmp("query-cpus-fast")]

    def peek(address: int, size: int) -> bytes:
        return next((data for cpu in cpus if len(data := vm.peek(address, size, cpu)) == size), b"")

    return peek


def read(layout: Layout, peek: Peek) -> tuple[LocalDsq, ...]:
    """Of each CPU; one whose runqueue lies in no memory that can be read is left out."""
    found = (_one(layout, cpu, peek) for cpu in range(layout.cpus))
    return tuple(one for one in found if one is not None)


def address(layout: Layout, cpu: int, peek: Peek) -> int | None:
    """Where a CPU's runqueue lies (per_cpu_ptr())."""
    offset = _number(peek(layout.offsets + _POINTER * cpu, _POINTER))
    return None if offset is None else (layout.runqueues + offset) % (1 << 64)


def _one(layout: Layout, cpu: int, peek: Peek) -> LocalDsq | None:
    runqueue = address(layout, cpu, peek)
    if runqueue is None:
        return None
    counted = _number(peek(runqueue + layout.nr, _COUNT))
    head = runqueue + layout.list
    node = _number(peek(head, _POINTER))
    if counted is None or node is None:
        return None
    lying = 0
    while node != head:
        lying += 1
        node = _number(peek(node, _POINTER))
        if not node or lying > MOST:
            return LocalDsq(cpu, counted, None)
    return LocalDsq(cpu, counted, lying)


def _number(data: bytes) -> int | None:
    """What was read, low byte first; None where nothing was."""
    return int.from_bytes(data, "little") if data else None
