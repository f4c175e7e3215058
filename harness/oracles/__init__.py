# SPDX-License-Identifier: GPL-2.0-only
"""The oracles, one file each: what it collects from a quiescent guest, how it judges, the defects that prove it alive.

The functions that judge are pure, from evidence to findings; ``judge()`` at a file's end collects (registry.py).
"""
