# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading local DSQs from a guest's memory: what is counted, what lies there, what cannot be read."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import pytest
from sched_ext.local_dsqs import watched
from sched_ext.rq_memory import MOST, Layout, LocalDsq, address, look, read

from harness.core.errors import MachineLost
from harness.machine.deadline import Deadline
from harness.machine.memory import Peek
from harness.machine.vm import Vm

OFFSETS, RUNQUEUES, LIST, NR = 0x1000, 0x8000, 0x40, 0x60
LAYOUT = Layout(OFFSETS, RUNQUEUES, LIST, NR, 2)
SPREAD = 0x10000
"""Bytes between the runqueues of two CPUs."""


def memory(*queues: tuple[int, int], cpus: int = 2) -> dict[int, bytes]:
    """Of each CPU: its count, and how many tasks lie on its list."""
    out = {OFFSETS + 8 * cpu: struct.pack("<Q", SPREAD * cpu) for cpu in range(cpus)}
    for cpu, (counted, lying) in enumerate(queues):
        runqueue = RUNQUEUES + SPREAD * cpu
        out[runqueue + NR] = struct.pack("<I", counted)
        nodes = [runqueue + LIST, *(0x100000 * (cpu + 1) + 0x100 * task for task in range(lying)), runqueue + LIST]
        out |= {here: struct.pack("<Q", there) for here, there in pairwise(nodes)}
    return out


def peeking(held: dict[int, bytes]) -> Peek:
    return lambda at, size: held.get(at, b"")[:size]


@pytest.mark.parametrize("queues", [((0, 0), (0, 0)), ((1, 1), (3, 3)), ((3, 0), (0, 0)), ((0, 2), (5, 4))])
def test_count_and_tasks_of_each_cpu(queues: Sequence[tuple[int, int]]) -> None:
    found = read(LAYOUT, peeking(memory(*queues)))
    assert found == tuple(LocalDsq(cpu, *queue) for cpu, queue in enumerate(queues))
    assert [one.wrong for one in found] == [counted != lying for counted, lying in queues]


def test_a_runqueue_that_cannot_be_read_is_left_out() -> None:
    held = memory((1, 1), (2, 2))
    del held[RUNQUEUES + NR]
    assert [one.cpu for one in read(LAYOUT, peeking(held))] == [1]
    assert read(LAYOUT, peeking({})) == ()
    assert address(LAYOUT, 1, peeking(held)) == RUNQUEUES + SPREAD
    assert address(LAYOUT, 7, peeking(held)) is None


def test_a_list_without_an_end_is_told() -> None:
    """It runs in a circle that its head is not on, or into nothing."""
    held = memory((1, 1), (0, 0))
    task = 0x100000
    held[task] = struct.pack("<Q", task)
    assert read(LAYOUT, peeking(held))[0] == LocalDsq(0, 1, None)
    held[task] = struct.pack("<Q", 0)
    assert read(LAYOUT, peeking(held))[0] == LocalDsq(0, 1, None)
    assert read(LAYOUT, peeking(memory((MOST, MOST), (0, 0))))[0].wrong is False


def test_offsets_wrap_as_pointers_do() -> None:
    """A per-CPU offset may be below zero."""
    held = memory((0, 0)) | {OFFSETS: struct.pack("<q", -0x2000)}
    assert address(LAYOUT, 0, peeking(held)) == RUNQUEUES - 0x2000


# --- memory that may hold anything --------------------------------------------------------


class Slow:
    """A guest's memory in which each word points to the next page, each read taking a while."""

    def __init__(self, seconds: float, cpus: int) -> None:
        self.held, self.seconds = memory(*((1, 1) for _ in range(cpus)), cpus=cpus), seconds
        self.reads = 0

    def __call__(self, at: int, size: int) -> bytes:
        self.reads += 1
        time.sleep(self.seconds)
        if (found := self.held.get(at)) is not None and at < 0x100000:
            return found
        return struct.pack("<Q", (at + 0x1000) % (1 << 64))[:size]


def test_a_list_that_goes_on_for_ever_is_followed_so_far() -> None:
    peek = Slow(0.0, 2)
    assert read(LAYOUT, peek) == (LocalDsq(0, 1, None), LocalDsq(1, 1, None))
    assert peek.reads < 2 * MOST + 20


def test_what_is_not_reached_in_time_is_not_seen_rather_than_wrong() -> None:
    layout, start = replace(LAYOUT, cpus=200), time.monotonic()
    found = read(layout, Slow(0.02, 200), Deadline(0.5, "the local DSQs to be looked at"))
    assert time.monotonic() - start < 10
    assert found == ()
    assert not watched(found, 200).watched


class Machine:
    """A machine with one page of memory, which one of its CPUs has mapped."""

    def __init__(self, page: bytes, mapped: int) -> None:
        self.page, self.mapped = page, mapped
        self.asked: list[str] = []

    def qmp(self, command: str, **arguments: object) -> object:
        self.asked.append(command)
        return [{"cpu-index": number} for number in range(4)]

    def resume(self) -> None:
        self.asked.append("cont")

    def peek(self, address: int, size: int, cpu: int) -> bytes:
        self.asked.append("memsave")
        return self.page[:size] if (address, cpu) == (0, self.mapped) else b""


def test_a_page_is_read_once() -> None:
    page = bytearray(4096)
    struct.pack_into("<Q", page, 0, 0)  # __per_cpu_offset[0]
    nodes = [0x100, *range(0x200, 0x1000, 8), 0x100]
    for here, there in pairwise(nodes):
        struct.pack_into("<Q", page, here, there)
    struct.pack_into("<I", page, 0x120, len(nodes) - 2)
    vm = Machine(bytes(page), mapped=2)
    found = look(cast(Vm, vm), Layout(0, 0, 0x100, 0x120, 1))
    assert found == (LocalDsq(0, len(nodes) - 2, len(nodes) - 2),)
    assert vm.asked == ["stop", "query-cpus-fast", *["memsave"] * 3, "cont"]


@pytest.mark.parametrize("answer", [None, 7, [], [7], [{}], [{"cpu-index": "x"}], {"cpu-index": 0}, "text"])
def test_qemu_s_odd_answers_are_no_traceback(answer: object) -> None:
    vm = Machine(bytes(4096), 0)
    vm.qmp = lambda command, **arguments: answer  # type: ignore[method-assign]
    try:
        assert look(cast(Vm, vm), LAYOUT) == ()
    except MachineLost as error:
        assert "QMP query-cpus-fast: QEMU answered garbage" in error.what
