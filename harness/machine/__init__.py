# SPDX-License-Identifier: GPL-2.0-only
"""Runs QEMU: argv, accelerator, console, snapshots, deadlines."""
