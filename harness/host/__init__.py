# SPDX-License-Identifier: GPL-2.0-only
"""The machine we run on: child processes, the cache, the toolchain root, progress, doctor."""
