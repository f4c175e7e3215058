# SPDX-License-Identifier: GPL-2.0-only
"""Owns the machine we run on: child processes, the cache, the toolchain root, progress, doctor."""
