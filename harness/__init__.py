# SPDX-License-Identifier: GPL-2.0-only
"""kharness: a kernel-patch test harness and QEMU runner."""
