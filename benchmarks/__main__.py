# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: measures everything in one run and prints one table; docs/lab/benchmarks.md keeps the last."""

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
from harness.core.errors import Exit, KharnessError
from harness.core.options import DEFAULT_ARCHES
from harness.core.plan import CACHE_CAP_GIB
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import open_toolchain
from harness.session.session import Target

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


def machine(target: Target) -> str:
    """This machine and the guest, in two lines: a figure without them means nothing."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cpus = len(os.sched_getaffinity(0))
    name = model[1] if model else platform.machine()
    return (
        f"host: {name}, {cpus} CPUs, {memory:.0f} GiB, {busy():.0%} of them used by others before\n"
        f"guest: Linux {target.kernel.release} {target.kernel.arch}, {target.machine.spec.possible_cpus} CPUs, "
        f"{target.machine.accelerator}"
    )


def main(
    cold: Annotated[bool, typer.Option("--cold", help="Build a kernel from nothing too: minutes.")] = False,
    patch: Annotated[bool, typer.Option("--patch", help="Lines and mutants of a patch too: half an hour.")] = False,
) -> None:
    """Measures the harness on this machine against its goals; above 1 of the goal is missed."""
    cache = Cache.default(CACHE_CAP_GIB << 30)
    progress = Progress(cache.folder("durations"))
    toolchain = open_toolchain("root", DEFAULT_ARCHES[0], cache, progress)
    target = bench.prepare(toolchain, cache, progress)
    described = machine(target)
    rows: list[Row] = [bench.cold_build(toolchain, cache, progress)] if cold else []
    with progress.phase("reading a thread", "bench-thread"):
        rows.append(bench.thread())
    with progress.phase("boot and restore", "bench-boot"):
        boots = bench.boot(target, toolchain)
        rows += [boots, bench.restore(target, toolchain, boots)]
    with progress.phase("rates in one guest", "bench-rates"):
        rows += bench.guest_rates(target)
    with progress.phase("a whole run", "bench-run"):
        rows.append(bench.whole_run())
    if patch:
        with progress.phase("a patch, its lines and mutants", "bench-patch"):
            rows += bench.patched(toolchain, cache, progress)
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
