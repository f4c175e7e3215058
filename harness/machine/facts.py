# SPDX-License-Identifier: GPL-2.0-only
"""What a command line needs to know of the host: the frequency of its time stamp counter.

QEMU's microvm has neither HPET nor PM timer, and under TCG the kernel cannot calibrate the TSC against the PIT; it
then falls back to jiffies, without high-resolution timers. TCG hands the host's TSC through, so the host's frequency
is the guest's (tsc_early_khz=, Documentation/admin-guide/kernel-parameters.txt).
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.core.definition import VM_FOLDER
from harness.core.errors import HarnessError
from harness.host.cache import Cache, write_atomically
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.machine.accel import BOOT_ID

SOURCE = VM_FOLDER / "tsc_khz.c"


def gather(toolchain: Toolchain, cache: Cache) -> dict[str, str]:
    """Placeholders for command lines: ``tsc_khz``, measured once per boot of the host (0 where there is no TSC)."""
    memory = cache.folder("probes") / "tsc.json"
    key = BOOT_ID.read_text().strip()
    known = _recall(memory, key)
    if known is None:
        known = _measure(toolchain)
        write_atomically(memory, json.dumps({"key": key, "tsc_khz": known}))
    return {"tsc_khz": str(known)}


def _recall(memory: Path, key: str) -> int | None:
    try:
        data = json.loads(memory.read_text())
        return int(data["tsc_khz"]) if data["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: measure again


def _measure(toolchain: Toolchain) -> int:
    script = "gcc -O2 -o /tmp/tsc_khz /source.c && /tmp/tsc_khz"
    done = toolchain.run(
        ["sh", "-c", script], binds=[Bind(SOURCE, "/source.c")], what="measuring the time stamp counter", deadline=30
    )
    try:
        return int(done.stdout)
    except ValueError as error:
        raise HarnessError(f"measuring the time stamp counter printed {done.stdout!r}") from error
