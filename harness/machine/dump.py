# SPDX-License-Identifier: GPL-2.0-only
"""Owns writing a guest's memory to a file that crash(8) reads (QMP dump-guest-memory, QEMU's docs/interop/qmp-ref)."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from harness.errors import HarnessError, MachineLost
from harness.machine.deadline import Deadline
from harness.machine.vm import Vm

FORMATS = (("kdump-raw-zlib", "kdump"), ("kdump-zlib", "kdump"), ("elf", "elf"))
"""QEMU's names of formats, the best first, and what a file's name ends in. Without "raw" it is makedumpfile's flattened
form. Compressed, a guest of 1 GiB takes 14 to 25 MiB; as ELF what it has."""

DUMP_SECONDS = 90.0
"""Nominal; 1 GiB takes less than 3 s compressed."""

SPARE = 64 << 20
"""Bytes that are left free beside it: the results are still to be written."""


def dump(vm: Vm, stem: Path, scale: float) -> Path:
    """Writes the guest's memory to `stem` with the format's ending; the guest stands still meanwhile. Returns the file.

    There must be room for all of its memory, though the file be smaller. `scale` stretches the deadline. Raises
    HarnessError where there is no room, MachineLost when QEMU refuses or takes too long, MachineEnded when it is gone,
    OSError for the file. What was begun is removed.
    """
    known = vm.qmp("query-dump-guest-memory-capability")["formats"]
    name, ending = next((pair for pair in FORMATS if pair[0] in known), FORMATS[-1])
    path = stem.with_name(f"{stem.name}.{ending}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _room(path.parent, vm.launch.spec.memory_mib << 20)
    try:
        with open(path, "wb") as file:
            vm.pass_file("dump", file.fileno())
            vm.qmp("dump-guest-memory", paging=False, protocol="fd:dump", detach=True, format=name)
            _written(vm, Deadline(DUMP_SECONDS * scale, "the guest's memory to be written"))
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise HarnessError(
            f"{folder} has {free >> 20} MiB free, a dump may take {(size + SPARE) >> 20}",
            step="free space there, or give another --out",
        )


def _written(vm: Vm, deadline: Deadline) -> None:
    """QMP has no blocking wait for a dump that leaves the monitor free: asks until it is done."""
    while (status := vm.qmp("query-dump")["status"]) != "completed":
        if status == "failed":
            raise MachineLost("QEMU could not write the guest's memory", step="free space there, or give another --out")
        if deadline.expired:
            raise MachineLost(str(deadline))
        time.sleep(0.02)
