# SPDX-License-Identifier: GPL-2.0-only
"""The choice of accelerator: KVM only after a guest printed a line under it, else TCG, and why.

/dev/kvm can lie: it may open and create a vCPU, and the guest then never leaves the firmware.
"""

from __future__ import annotations

import enum
import json
import os
import platform
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import How, MachineEnded, MachineLost
from harness.host.cache import Cache, write_atomically
from harness.host.toolchain import Toolchain
from harness.machine.deadline import Deadline
from harness.machine.qemu import Launch
from harness.machine.vm import Vm

PROBE_SECONDS = 10.0
"""Under KVM that works, the kernel's first line comes within a second."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


OWN_SIGNALS = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
"""By which QEMU ends itself, signal(7); by others it is ended."""


class Trust(enum.Enum):
    """Whether a probe's answer holds until the host boots again."""

    SURE = enum.auto()
    TWICE = enum.auto()
    """If another probe answers the same: the host may just have been busy."""
    NEVER = enum.auto()
    """It may be the kernel's doing, or somebody killed QEMU."""


@dataclass(frozen=True)
class Accelerator:
    """`name` is ``kvm`` or ``tcg``; `why` is one clause for the user."""

    name: str
    why: str


def choose(launch: Launch, toolchain: Toolchain, cache: Cache) -> Accelerator:
    """The accelerator for `launch`, probed once per boot of the host, QEMU and architecture.

    What may be the kernel's doing, or a passing fault of the host, is not remembered: the next launch is probed again.
    """
    if not launch.definition.native:
        return Accelerator("tcg", f"the host is {platform.machine()}")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("tcg", "/dev/kvm is missing or not ours to open")
    memory = cache.folder("probes") / f"kvm-{launch.definition.arch}.json"
    key = f"{BOOT_ID.read_text().strip()} {toolchain.id}"
    known = _recall(memory, key)
    if known is None:
        known, trust = _probe(launch, toolchain)
        if trust is not Trust.SURE:
            known, trust = _probe(launch, toolchain)
        if trust is not Trust.NEVER:
            write_atomically(memory, json.dumps({"key": key, "name": known.name, "why": known.why}))
    return known


def _recall(memory: Path, key: str) -> Accelerator | None:
    try:
        data = json.loads(memory.read_text())
        return Accelerator(data["name"], data["why"]) if data["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged by a power cut: probe again


def _probe(launch: Launch, toolchain: Toolchain) -> tuple[Accelerator, Trust]:
    """Boot the kernel under KVM and wait for its first line."""
    try:
        with Vm(replace(launch, accelerator="kvm"), toolchain) as vm:
            vm.resume()
            vm.expect([r"Linux version [^\n]*\n"], Deadline(PROBE_SECONDS, "the first line under KVM"))
    except MachineEnded as error:
        how = "printed nothing" if error.expired else "ended"
        why = f"/dev/kvm opens, but a guest {how} under it within {PROBE_SECONDS:.0f} s"
        own = error.ended.how is How.KILLED and error.ended.signal in OWN_SIGNALS
        return Accelerator("tcg", why), Trust.SURE if own else Trust.TWICE if error.expired else Trust.NEVER
    except MachineLost as error:
        return Accelerator("tcg", f"QEMU refuses KVM here: {error.what}"), Trust.SURE
    return Accelerator("kvm", "a probe guest printed its first line"), Trust.SURE
