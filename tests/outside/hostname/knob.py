# SPDX-License-Identifier: GPL-2.0-only
"""Where the host name is read and written (Documentation/admin-guide/sysctl/kernel.rst)."""

from __future__ import annotations

from harness.session.session import Target

KNOB = "/proc/sys/kernel/hostname"


def boots_name(target: Target) -> str:
    """The name that a kernel boots with (CONFIG_DEFAULT_HOSTNAME)."""
    return target.config.get("DEFAULT_HOSTNAME").strip('"')
