# SPDX-License-Identifier: GPL-2.0-only
"""Owns kernel trees: hands out a private snapshot of what lies in one, never writes into it."""
