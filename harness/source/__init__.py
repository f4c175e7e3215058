# SPDX-License-Identifier: GPL-2.0-only
"""Kernel trees: takes a private snapshot of one, never writes into it."""
