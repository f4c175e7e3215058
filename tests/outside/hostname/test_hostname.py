# SPDX-License-Identifier: GPL-2.0-only
"""The host name is what was written, and each write goes through the function under test."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.session.session import Target
from hostname.knob import KNOB, boots_name


def test_hostname_is_what_was_written(guest: Guest, target: Target) -> None:
    watch = guest.load("watch")
    watch.attach("count_writes")
    for name in ("one", "another", boots_name(target)):
        guest.write(KNOB, name)
        assert guest.read(KNOB).strip() == name
    assert watch.get("writes")["writes"] == 3
