# SPDX-License-Identifier: GPL-2.0-only
"""A suite of one test of a few seconds, in which the guest's agent is killed if a file beside it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.guest import Guest

SECONDS = 2.0
"""By the guest's clock."""


def uptime(guest: Guest) -> float:
    """Seconds since the guest was booted."""
    return float(guest.read("/proc/uptime").split()[0])


@pytest.mark.solo
def test_short(guest: Guest) -> None:
    after = Path(__file__).with_name("kill-agent-after")
    if after.exists():
        guest.agent.call("spawn", name="killer", a0="sh", a1="-c", a2=f"sleep {after.read_text()}; kill -KILL $PPID")
    end = uptime(guest) + SECONDS
    while uptime(guest) < end:
        assert guest.read("/proc/version").startswith("Linux version ")
