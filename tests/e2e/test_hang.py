# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that hang, each in a way of its own: looked at before they are ended, and blamed on the right function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.options import DEFAULT_ARCHES
from tests.e2e.command import Done, Kharness
from tests.e2e.conftest import place
from tests.e2e.kdump import pages

WHERE = {
    "hang": ("hang_here", "a CPU spins in hang_here, interrupts off"),
    "hang-one": ("hang_here", "a CPU spins in hang_here, interrupts off"),
    "spin": ("kharness_spin", "a CPU spins in kharness_spin, interrupts on"),
    "spin-locked": ("kharness_spin", "a CPU spins in kharness_spin, interrupts on"),
    "sleep": ("kharness_sleep", "agent is blocked in kharness_sleep"),
    "doze": ("kharness_doze", "agent sleeps in kharness_doze"),
}
"""By canary: the function to blame, and what is said of it."""

each_architecture = pytest.mark.parametrize("arch", DEFAULT_ARCHES)
each_way = pytest.mark.parametrize("way", WHERE)


@pytest.fixture(scope="module")
def hung(cache_home: Path, passed: Done, suite: Callable[[str], str]) -> Iterator[Done]:
    """One run of all ways, on each architecture."""
    for started in place(cache_home):
        arches = ",".join(DEFAULT_ARCHES)
        yield started.run("--arch", arches, "--suite", suite("hang"), "-k", "hangs").expect(1)


def finding(done: Done, arch: str, way: str) -> dict[str, Any]:
    rows = [r for r in done.results["tests"] if r["arch"] == arch and r["id"].endswith(f"test_hangs[{way}]")]
    assert [row["outcome"] for row in rows] == ["fail"]
    (found,) = rows[0]["findings"]
    return dict(found)


@each_architecture
@each_way
def test_a_hang_is_named(hung: Done, arch: str, way: str) -> None:
    found = finding(hung, arch, way)
    function, said = WHERE[way]
    assert (found["oracle"], found["kind"], found["function"]) == ("crash", "hang", function)
    assert said in found["title"]
    assert re.search(r"waited in vain for the guest to answer '\w+', \d+ s", found["title"]), "what for, and how long"
    assert found["signature"] == f"crash:hang:{function}", "nothing that differs from run to run"
    assert said in hung.stdout.replace("\n          ", " ") or "more findings" in hung.stdout


@each_architecture
@each_way
def test_a_hang_shows_what_was_seen(hung: Done, arch: str, way: str) -> None:
    """Every CPU's registers and stack; of a kernel that still takes interrupts also its own words."""
    log = finding(hung, arch, way)["log"]
    assert [line for line in log if re.match(r"CPU \d+: in ", line)], "no CPU was looked at"
    assert sum(bool(re.search(r"\bR?(?:IP|PC)=[0-9a-f]{16}", line)) for line in log) == 2
    if way in ("sleep", "doze"):
        assert any(line.startswith("task:agent ") for line in log)
    if way in ("spin", "spin-locked"):
        assert any(line.startswith("NMI backtrace for cpu") for line in log)
    if way == "hang":
        assert any(line.startswith("not seen: sysrq-w on the console") for line in log)


def test_the_canary_proves_it(hung: Done) -> None:
    caught = [c for c in hung.results["canaries"] if c["oracle"] == "hang"]
    assert len(caught) == len(DEFAULT_ARCHES) and all(c["caught"] for c in caught)


@each_architecture
def test_memory_is_dumped_when_asked_for(
    kharness: Kharness, passed: Done, suite: Callable[[str], str], arch: str
) -> None:
    """Of a guest that hangs and of one that panicked: QEMU stays until it is written."""
    done = kharness("run", "--arch", arch, "--dump", "--suite", suite("hang"), "-k", "sleep or dies").expect(1)
    assert done.test("test_dies")["findings"][0]["kind"] == "panic"
    for name in ("test_hangs[sleep]", "test_dies"):
        row = done.test(name)
        path = kharness.cwd / row["dump"]["path"]
        assert path.parent.name == "dumps"
        assert path.stat().st_size >> 20 == row["dump"]["mib"] > 5
        memory = list(pages(path))
        assert sum(len(page) for page in memory) >= done.results["machines"][0]["spec"]["memory_mib"] << 20, "all of it"
        banner = b"Linux version " + done.results["kernels"][0]["release"].encode()
        assert any(banner in page for page in memory), "and it is that kernel's"
        (found,) = row["findings"]
        assert f"guest memory: {row['dump']['path']}" in found["log"]
    assert "guest memory: " in done.stdout
    assert "guest memory: " in (kharness.cwd / "out/latest/report.html").read_text()
