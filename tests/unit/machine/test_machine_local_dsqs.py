# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading local DSQs from a guest's memory: what is counted, what lies there, what cannot be read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest

from harness.machine.local_dsqs import MOST, Layout, LocalDsq, Peek, address, read

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
