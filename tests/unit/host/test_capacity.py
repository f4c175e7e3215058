# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how many guests a machine bears: cores and memory, and what cgroups leave of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.host import capacity


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of 8 CPUs and 16 GiB, and the folder of its cgroups; we are in /user/ci."""
    (tmp_path / "user/ci").mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal:       32768000 kB\nMemAvailable:   16777216 kB\n")
    (tmp_path / "own").write_text("3:cpu:/old\n0::/user/ci\n")
    monkeypatch.setattr(capacity, "CGROUPS", tmp_path)
    monkeypatch.setattr(capacity, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(capacity, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


def test_a_host_without_limits(host: Path) -> None:
    assert (capacity.cores(), capacity.memory_mib()) == (8, 16384)
    (host / "user/ci/cpu.max").write_text("max 100000\n")
    (host / "user/ci/memory.max").write_text("max\n")
    (host / "own").unlink()
    assert (capacity.cores(), capacity.memory_mib()) == (8, 16384)


@pytest.mark.parametrize("folder", ["user/ci", "user", "."])
def test_the_limit_of_any_cgroup_above(host: Path, folder: str) -> None:
    (host / folder / "cpu.max").write_text("250000 100000\n")
    (host / folder / "memory.max").write_text(f"{4 << 30}\n")
    (host / folder / "memory.current").write_text(f"{1 << 30}\n")
    assert (capacity.cores(), capacity.memory_mib()) == (3, 3072)


def test_less_than_a_core_is_one(host: Path) -> None:
    (host / "cpu.max").write_text("50000 100000\n")
    assert capacity.cores() == 1


@pytest.mark.parametrize(
    ("asked", "largest", "tests", "wanted"),
    [
        (0, 1024, 30, 8),
        (0, 4096 - capacity.QEMU_MIB, 30, 4),
        (0, 65536, 30, 1),
        (0, 1024, 3, 3),
        (0, 1024, 0, 1),
        (2, 1024, 30, 2),
        (20, 1024, 30, 20),
        (20, 1024, 5, 5),
    ],
    ids=["cores", "memory", "too-large", "tests", "replay", "asked", "more-than-bearable", "more-than-tests"],
)
def test_guests(host: Path, asked: int, largest: int, tests: int, wanted: int) -> None:
    assert capacity.guests(asked, largest, tests) == wanted
