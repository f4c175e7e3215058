# SPDX-License-Identifier: GPL-2.0-only
"""Writing a guest's memory to a file that crash(8) reads (QMP dump-guest-memory, QEMU's docs/interop/qmp-ref)."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TypedDict

from harness.core.errors import HarnessError, MachineLost
from harness.machine.deadline import Deadline
from harness.machine.vm import Status, Vm, ask

FORMATS = (("kdump-raw-zlib", "kdump"), ("kdump-zlib", "kdump"), ("elf", "elf"))
"""QEMU's names of formats, the best first, and what a file's name ends in. Without "raw" it is makedumpfile's flattened
form. Compressed, a guest of 1 GiB takes 14 to 25 MiB; as ELF what it has."""


class Formats(TypedDict):
    """query-dump-guest-memory-capability."""

    formats: list[str]


DUMP_SECONDS = 90.0
"""Nominal; 1 GiB takes less than 3 s compressed."""

SPARE = 64 << 20
"""Bytes of the disk that a dump must leave free: the results are still to be written."""


def dump(vm: Vm, stem: Path, scale: float) -> Path:
    """Write the guest's memory to `stem` with the format's ending, while the guest is stopped. Returns the file.

    The disk must have space for all of its memory, although the file may be smaller. `scale` stretches the deadline.
    Raises HarnessError without that space, MachineLost when QEMU refuses or takes too long, MachineEnded when it is
    gone, OSError for the file. An incomplete file is removed.
    """
    known = ask(vm, Formats, "query-dump-guest-memory-capability")["formats"]
    name, ending = next((pair for pair in FORMATS if pair[0] in known), FORMATS[-1])
    path = stem.with_name(f"{stem.name}.{ending}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_space(path.parent, vm.launch.spec.memory_mib << 20)
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


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise HarnessError(
            f"{folder} has {free >> 20} MiB free, a dump may take {(size + SPARE) >> 20}",
            step="free space there, or give another --out",
        )


def _written(vm: Vm, deadline: Deadline) -> None:
    """Poll until the dump is done: QMP has no blocking wait that leaves the monitor free."""
    while (status := ask(vm, Status, "query-dump")["status"]) != "completed":
        if status == "failed":
            raise MachineLost("QEMU could not write the guest's memory", step="free space there, or give another --out")
        if deadline.expired:
            raise MachineLost(str(deadline))
        time.sleep(0.02)
