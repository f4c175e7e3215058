# SPDX-License-Identifier: GPL-2.0-only
"""Reading a compressed dump: the format of diskdump (diskdump_mod.h and IMPLEMENTATION of makedumpfile)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

SIGNATURE = b"KDUMP   "
_SIZES = struct.Struct("<iii")
"""Bytes of a block, and blocks of the second header and of the two bitmaps, at 428 of the first header."""
_PAGE = struct.Struct("<qIIQ")
"""Of a page: where it lies, how many bytes, flags (1: zlib), and the kernel's own flags."""


def pages(path: Path) -> Iterator[bytes]:
    """The pages of memory that the dump holds. Raises ValueError for a file that is none, or is not whole."""
    data = path.read_bytes()
    if not data.startswith(SIGNATURE):
        raise ValueError(f"{path} begins with {data[:16]!r}")
    block, second, bitmaps = _SIZES.unpack_from(data, 428)
    first = (1 + second + bitmaps) * block
    # The bitmaps are of all pages, then of those that are here.
    there = data[(1 + second + bitmaps // 2) * block : first]
    count = sum(byte.bit_count() for byte in there)
    for number in range(count):
        at, size, flags, _ = _PAGE.unpack_from(data, first + number * _PAGE.size)
        page = data[at : at + size]
        page = zlib.decompress(page) if flags & 1 else page
        if len(page) != block:
            raise ValueError(f"{path}: page {number} of {count} has {len(page)} bytes")
        yield page
