# SPDX-License-Identifier: GPL-2.0-only
"""Owns a suite whose tests cannot be judged, each for another reason that is not the kernel's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from harness.guest.guest import Guest
from harness.suite.dsq import Dsqs


def _qemu_below(pid: int) -> int:
    """The QEMU process that runs somewhere below `pid`; a LookupError if there is none."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().startswith("qemu-system"):
                return int(child)
            try:
                return _qemu_below(int(child))
            except LookupError:
                continue
    raise LookupError(f"no QEMU below {pid}")


def test_refused_by_the_verifier(guest: Guest) -> None:
    guest.load("refused").attach()


def test_qemu_is_killed(dsq: Dsqs, guest: Guest) -> None:
    os.kill(_qemu_below(guest.vm.pid), signal.SIGKILL)
    dsq.create(1)


def test_with_a_mistake_of_its_own(guest: Guest) -> None:
    guest.read("/proc/version")
    len(5)  # type: ignore[arg-type]
