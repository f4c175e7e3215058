# SPDX-License-Identifier: GPL-2.0-only
"""The tests of binary values in either byte order."""

from __future__ import annotations

import struct

import pytest

from harness.core import definition
from harness.core.wire import NOTHING, Binary, ByteOrder


@pytest.mark.parametrize(
    ("order", "data"), [(ByteOrder.LITTLE, "0700000000000000ffffffff"), (ByteOrder.BIG, "0000000000000007ffffffff")]
)
def test_both_ways(order: ByteOrder, data: str) -> None:
    laid = Binary("Qi", 7, -1).bytes(order)
    assert laid.hex() == data
    assert order.unpack("Qi", laid) == (7, -1)
    assert order.unpack("i", laid, 8) == (-1,)
    assert order.number(laid[:8]) == 7
    assert NOTHING.bytes(order) == b""


def test_what_is_too_short_is_refused() -> None:
    with pytest.raises(struct.error):
        ByteOrder.BIG.unpack("Q", b"1234")


def test_each_architecture_says_its_own() -> None:
    assert {definition.load(arch).byte_order for arch in ("x86_64", "arm64", "riscv64")} == {ByteOrder.LITTLE}
