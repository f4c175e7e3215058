# SPDX-License-Identifier: GPL-2.0-only
"""How many guests this machine bears at once: its cores and memory, as far as they are ours."""

from __future__ import annotations

import math
import os
from pathlib import Path

QEMU_MIB = 400
"""Memory that QEMU, its sandbox and the worker take beside the guest's memory, in MiB; see docs/lab/facts.md."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """CPUs that this process may use: its affinity, and the quotas of its cgroups (v2, rounded up)."""
    own = len(os.sched_getaffinity(0))
    for folder in _cgroups():
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            own = min(own, math.ceil(int(quota) / int(period)))
    return max(1, own)


def memory_mib() -> int:
    """Memory available without swapping: the kernel's own estimate, and what the cgroups (v2) leave."""
    found = {name: rest for name, _, rest in (line.partition(":") for line in _text(MEMINFO).splitlines())}
    free = int(found["MemAvailable"].split()[0]) >> 10
    for folder in _cgroups():
        most, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if most.isdigit() and used.isdigit():
            free = min(free, max(0, int(most) - int(used)) >> 20)
    return free


def guests(asked: int, largest_mib: int, tests: int) -> int:
    """How many guests at once: `asked`, or (0) one a core as far as memory goes; never more than there are tests.

    `largest_mib` is the memory of the largest guest: any of them may come together.
    """
    bearable = asked or min(cores(), memory_mib() // (largest_mib + QEMU_MIB))
    return max(1, min(bearable, tests))


def _cgroups() -> list[Path]:
    """The folders of this process's cgroup (v2) and of all above it; cgroups(7)."""
    lines = _text(OWN_CGROUP).splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folder = CGROUPS / own
    return [folder, *(above for above in folder.parents if above.is_relative_to(CGROUPS))]


def _text(path: Path) -> str:
    """A file of the kernel's; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
