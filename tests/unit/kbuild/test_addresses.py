# SPDX-License-Identifier: GPL-2.0-only
"""Tests of finding functions by address: the kernel's own, our module's, and what is neither."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.records import Frame
from harness.kbuild.addresses import Addresses

OWN = "ffffffffa0000000 9 hang_here\nffffffffa0000010 16 canary_write\ngarbage\n"


class Kernel:
    """One function of 0x100 bytes, into which another was inlined; counts how often it was asked for more than one."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def chain(self, addresses: Sequence[int]) -> tuple[Frame, ...]:
        if len(addresses) > 1:
            self.batches.append(list(addresses))
        out: list[Frame] = []
        for address in addresses:
            if 0x1000 <= address < 0x1100:
                out += [Frame("inner", inlined=True), Frame("outer", address - 0x1000, 0x100)]
            else:
                out.append(Frame(f"{address:#x}", reliable=False))
        return tuple(out)


def test_addresses_are_resolved() -> None:
    kernel = Kernel()
    found = Addresses(kernel, OWN)([0xFFFFFFFFA0000007, 0x1010, 0x5000, 0xFFFFFFFFA0000009])
    assert found == (
        (Frame("hang_here", 7, 9, module="kharness"),),
        (Frame("inner", inlined=True), Frame("outer", 0x10, 0x100)),
        (),
        (),
    )
    assert kernel.batches == [[0, 0x1011, 0x5001, 0xFFFFFFFFA000000A]], "all at once, as return addresses"


def test_without_our_module_there_is_only_the_kernel() -> None:
    assert Addresses(Kernel(), "")([0xFFFFFFFFA0000007]) == ((),)
