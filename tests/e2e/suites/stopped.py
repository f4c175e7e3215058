# SPDX-License-Identifier: GPL-2.0-only
"""A suite in which somebody stops QEMU: for a moment, and for longer than an answer may take."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from harness.guest.guest import Guest
from tests.e2e.suites.odd import qemu_below

pytestmark = pytest.mark.solo

MOMENT = 1.0


def test_stopped_for_a_moment(guest: Guest) -> None:
    pid = qemu_below(guest.vm.pid)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(MOMENT, os.kill, (pid, signal.SIGCONT)).start()
    assert guest.read("/proc/version").startswith("Linux")


def test_stopped_for_good(guest: Guest) -> None:
    os.kill(qemu_below(guest.vm.pid), signal.SIGSTOP)
    guest.agent.call("ping", seconds=2.0)
