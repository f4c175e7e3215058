# SPDX-License-Identifier: GPL-2.0-only
"""A suite of guests that talk without end, and a quiet one after them."""

from __future__ import annotations

import pytest

from harness.guest.guest import Guest

pytestmark = pytest.mark.solo

SECONDS = 60
"""A flood lasts so long, if nobody ends it."""

WATCHED = 10.0
"""So long a test goes on meanwhile, by the guest's clock."""

LINE = "a line of noise " * 12

FLOODS = {
    "console": f"exec timeout {SECONDS} yes '{LINE}' > /dev/console",
    "console-without-newline": f"exec timeout {SECONDS} tr '\\0' x < /dev/zero > /dev/console",
    "kernel-log": f"echo on > /proc/sys/kernel/printk_devkmsg; while :; do echo '{LINE}'; done > /dev/kmsg",
}
"""What a child of the agent runs."""

TAKEN = """\
printf '#!/bin/busybox sh\\nbusybox cat %s > /dev/kharness.agent\\n' {what} > /tmp/reboot
chmod 755 /tmp/reboot && rm -f /bin/reboot /sbin/reboot && cp /tmp/reboot /bin/reboot && kill -KILL $PPID
"""
"""Ends the agent, and init then starts what floods its port in place of reboot(8)."""


def _go_on(guest: Guest) -> None:
    """Asks and asks."""

    def now() -> float:
        return float(guest.read("/proc/uptime").split()[0])

    end = now() + WATCHED
    while now() < end:
        guest.read("/proc/version")


@pytest.mark.parametrize("way", FLOODS)
def test_floods(guest: Guest, way: str) -> None:
    guest.agent.call("spawn", name="flood", a0="sh", a1="-c", a2=FLOODS[way])
    _go_on(guest)


def test_floods_the_agent_s_port(guest: Guest) -> None:
    guest.agent.call("spawn", name="flood", a0="sh", a1="-c", a2=TAKEN.format(what="/dev/zero"))
    _go_on(guest)


def test_quiet(guest: Guest) -> None:
    assert guest.read("/proc/version").startswith("Linux")
