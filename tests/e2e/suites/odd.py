# SPDX-License-Identifier: GPL-2.0-only
"""A suite whose tests cannot be judged, each for another reason that is not the kernel's."""

from __future__ import annotations

import os
import signal

from sched_ext.dsq import Dsqs

from harness.guest.guest import Guest
from tests.e2e.leaks import below


def qemu_below(pid: int) -> int:
    """The QEMU process that runs somewhere below `pid`; a LookupError if there is none."""
    for found in below(pid, "qemu-system"):
        return found
    raise LookupError(f"no QEMU below {pid}")


def kill_qemu(guest: Guest) -> None:
    """Ends it as the OOM killer would."""
    os.kill(qemu_below(guest.vm.pid), signal.SIGKILL)


def test_refused_by_the_verifier(guest: Guest) -> None:
    guest.load("refused").attach()


def test_qemu_is_killed(dsq: Dsqs, guest: Guest) -> None:
    kill_qemu(guest)
    dsq.create(1)


def test_with_a_mistake_of_its_own(guest: Guest) -> None:
    guest.read("/proc/version")
    len(5)  # type: ignore[arg-type]
