# SPDX-License-Identifier: GPL-2.0-only
"""Owns numbers in the words that are printed: how many of what."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """``1 test``, ``2 tests``, ``3 canaries``, ``4 patches``."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}es" if noun.endswith("ch") else f"{number} {noun}s"
