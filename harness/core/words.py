# SPDX-License-Identifier: GPL-2.0-only
"""Numbers in the words that are printed: how many of what."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """``1 test``, ``2 tests``, ``3 canaries``, ``4 patches``."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}es" if noun.endswith("ch") else f"{number} {noun}s"


def file_name(text: str) -> str:
    """A test's id as the name of a file: at most 120 characters that no shell minds."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[-120:]
