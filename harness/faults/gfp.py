# SPDX-License-Identifier: GPL-2.0-only
"""Gfp flags by name, as the kernel under test numbers them.

Pure. The bits are an anonymous enum of include/linux/gfp_types.h; which there are, and so their numbers, depends on
version and configuration. The compounds of the same file are the same wherever that enum exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PREFIX = "___GFP_"
"""The prefix of the enumerators in the kernel's BTF."""

_BIT = re.compile(rf"{PREFIX}(\w+)_BIT")

_RECLAIM = frozenset({"DIRECT_RECLAIM", "KSWAPD_RECLAIM"})
_KERNEL = _RECLAIM | {"IO", "FS"}
_COMPOUNDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("GFP_HIGHUSER", _KERNEL | {"HARDWALL", "HIGHMEM"}),
    ("GFP_USER", _KERNEL | {"HARDWALL"}),
    ("GFP_KERNEL_ACCOUNT", _KERNEL | {"ACCOUNT"}),
    ("GFP_KERNEL", _KERNEL),
    ("GFP_NOFS", _RECLAIM | {"IO"}),
    ("GFP_NOIO", _RECLAIM),
    ("GFP_ATOMIC", frozenset({"HIGH", "KSWAPD_RECLAIM"})),
    ("GFP_NOWAIT", frozenset({"KSWAPD_RECLAIM", "NOWARN"})),
)
"""Largest first: flags outside of a compound are named one by one, and only one compound is named."""


def bits(enumerators: Mapping[str, int]) -> dict[int, str]:
    """The flags by their bit, from the enumerators of a kernel's BTF; empty where it has no such enum."""
    found = ((number, _BIT.fullmatch(name)) for name, number in enumerators.items())
    named = {number: match[1] for number, match in found if match}
    return {number: name for number, name in sorted(named.items()) if name != "LAST"}


def names(flags: int, bits: Mapping[int, str]) -> str:
    """Flags as in the source: ``GFP_KERNEL|__GFP_ZERO``; the number itself where `bits` is empty."""
    if not bits:
        return f"{flags:#x}"
    have = [number for number in range(flags.bit_length()) if flags >> number & 1]
    known = {bits[number] for number in have if number in bits}
    words = []
    for word, members in _COMPOUNDS:
        if members <= known:
            words.append(word)
            known -= members
            break
    words += [f"__GFP_{bits[number]}" for number in have if bits.get(number) in known]
    rest = sum(1 << number for number in have if number not in bits)
    return "|".join([*words, *([f"{rest:#x}"] if rest else [])]) or "0"
