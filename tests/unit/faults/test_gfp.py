# SPDX-License-Identifier: GPL-2.0-only
"""Tests of gfp flags by name: bits from BTF, compounds first, nothing left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.faults import gfp

# Linux 7.2.13 on x86_64, as its BTF has them.
NAMES = (
    "DMA",
    "HIGHMEM",
    "DMA32",
    "MOVABLE",
    "RECLAIMABLE",
    "HIGH",
    "IO",
    "FS",
    "ZERO",
    "UNUSED",
    "DIRECT_RECLAIM",
    "KSWAPD_RECLAIM",
    "WRITE",
    "NOWARN",
    "RETRY_MAYFAIL",
    "NOFAIL",
    "NORETRY",
    "MEMALLOC",
    "COMP",
    "NOMEMALLOC",
    "HARDWALL",
    "THISNODE",
    "ACCOUNT",
    "ZEROTAGS",
    "NO_OBJ_EXT",
)
ENUM = {f"___GFP_{name}_BIT": number for number, name in enumerate((*NAMES, "LAST"))}
BITS = gfp.bits(ENUM | {"PG_locked": 0, "GFP_DMA_BIT": 9})


def test_the_bits_are_those_of_the_enum() -> None:
    assert dict(enumerate(NAMES)) == BITS
    assert gfp.bits({"PG_locked": 0}) == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (0xCC0, "GFP_KERNEL"),
        (0xDC0, "GFP_KERNEL|__GFP_ZERO"),
        (0x820, "GFP_ATOMIC"),
        (0x2800, "GFP_NOWAIT"),
        (0xC40, "GFP_NOFS"),
        (0xC00, "GFP_NOIO"),
        (0x100CC0, "GFP_USER"),
        (0x400CC0, "GFP_KERNEL_ACCOUNT"),
        (0xCC2, "GFP_KERNEL|__GFP_HIGHMEM"),
        (0x92CC0, "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_NOMEMALLOC"),
        (0x929C0, "GFP_NOWAIT|__GFP_IO|__GFP_FS|__GFP_ZERO|__GFP_NORETRY|__GFP_NOMEMALLOC"),
        (0x100, "__GFP_ZERO"),
        (0, "0"),
        (0x10000CC0, "GFP_KERNEL|0x10000000"),
    ],
)
def test_flags_as_the_source_says_them(flags: int, words: str) -> None:
    assert gfp.names(flags, BITS) == words


def test_the_bits_decide_not_the_number() -> None:
    """A flag more before it moves GFP_KERNEL."""
    moved = gfp.bits({f"___GFP_{name}_BIT": number for number, name in enumerate(("NEW", *NAMES))})
    assert gfp.names(0xCC0 << 1, moved) == "GFP_KERNEL"
    assert gfp.names(0xCC0, moved) != "GFP_KERNEL"


def test_without_the_enum_the_number_is_told() -> None:
    assert gfp.names(0xCC0, {}) == "0xcc0"


@given(st.integers(0, (1 << 32) - 1))
def test_each_bit_is_told_once(flags: int) -> None:
    values = {f"__GFP_{name}": 1 << number for number, name in BITS.items()}
    values |= {word: sum(values[f"__GFP_{name}"] for name in members) for word, members in gfp._COMPOUNDS}
    shown = [word for word in gfp.names(flags, BITS).split("|") if word != "0"]
    assert sum(values[word] if word in values else int(word, 16) for word in shown) == flags
