# SPDX-License-Identifier: GPL-2.0-only
"""Owns `make bench`: measures everything in one run and prints one table; docs/benchmarks.md keeps the last."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import bench
from benchmarks.rows import Row, table
from harness.errors import Exit, KharnessError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import open_toolchain
from harness.plan import CACHE_CAP_GIB, DEFAULT_ARCHES
from harness.suite.session import Ready

SAMPLE_SECONDS = 1.0


def busy() -> float:
    """The share of all CPU time that others use now, while we do nothing (proc_stat(5): idle is the fourth number)."""

    def ticks() -> tuple[int, int]:
        numbers = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return numbers[3] + numbers[4], sum(numbers)

    idle, total = ticks()
    time.sleep(SAMPLE_SECONDS)  # the length of the sample: there is nothing to wait for
    idle_then, total_then = ticks()
    return 1 - (idle_then - idle) / (total_then - total)


def machine(ready: Ready) -> str:
    """This machine and the guest, in two lines: a figure without them means nothing."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cpus = len(os.sched_getaffinity(0))
    name = model[1] if model else platform.machine()
    return (
        f"host: {name}, {cpus} CPUs, {memory:.0f} GiB, {busy():.0%} of them used by others before\n"
        f"guest: Linux {ready.kernel.release} {ready.kernel.arch}, {ready.machine.spec.possible_cpus} CPUs, "
        f"{ready.machine.accelerator}"
    )


def main(
    cold: Annotated[bool, typer.Option("--cold", help="Build a kernel from nothing too: minutes.")] = False,
) -> None:
    """Measures the harness on this machine against its goals; above 1 of the goal is missed."""
    cache = Cache.default(CACHE_CAP_GIB << 30)
    progress = Progress(cache.folder("durations"))
    toolchain = open_toolchain("root", DEFAULT_ARCHES[0], cache, progress)
    ready = bench.prepare(toolchain, cache, progress)
    described = machine(ready)
    rows: list[Row] = [bench.cold_build(toolchain, cache, progress)] if cold else []
    with progress.phase("boot and restore", "bench-boot"):
        boots = bench.boot(ready, toolchain)
        rows += [boots, bench.restore(ready, toolchain, boots)]
    with progress.phase("rates in one guest", "bench-rates"):
        rows += bench.guest_rates(ready)
    with progress.phase("a whole run", "bench-run"):
        rows.append(bench.whole_run())
    print(f"{described.replace(' before', f' before, {busy():.0%} after', 1)}\n\n{table(rows)}")
    missed = [row.name for row in rows if row.ratio is not None and row.ratio > 1]
    print(f"\nmissed: {', '.join(missed)}" if missed else "\nevery goal is met")


if __name__ == "__main__":
    try:
        typer.run(main)
    except KharnessError as error:
        print(f"kharness: {error.line()}", file=sys.stderr)
        sys.exit(error.exit)
    except SystemExit as end:
        if end.code == Exit.INTERRUPTED:  # typer's answer to KeyboardInterrupt
            print("kharness: interrupted; nothing was measured to its end", file=sys.stderr)
        raise
