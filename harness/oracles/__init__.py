# SPDX-License-Identifier: GPL-2.0-only
"""Owns the oracles: pure functions from evidence to findings; nothing here talks to a guest or a disk."""
