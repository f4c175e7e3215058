# SPDX-License-Identifier: GPL-2.0-only
"""A suite as a stranger brings it: of the kernel's host name (kernel/utsname_sysctl.c)."""
