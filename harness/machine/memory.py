# SPDX-License-Identifier: GPL-2.0-only
"""Reading a guest's kernel memory from outside, page by page, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable

from harness.machine.vm import Vm, cpus

PAGE = 4096
"""Bytes that are mapped together on every architecture, if not more."""

Peek = Callable[[int, int], bytes]
"""So many bytes of kernel memory from an address on; empty where nothing is mapped."""


def peeking(vm: Vm) -> Peek:
    """Read by the first CPU that has the kernel mapped: one in user space may not (page table isolation).

    Each page is read once: the guest must stay stopped as long as this is in use.
    """
    order = cpus(vm)
    pages: dict[int, bytes] = {}

    def page(start: int) -> bytes:
        for cpu in tuple(order):
            data = vm.peek(start, PAGE, cpu)
            if len(data) == PAGE:
                order.remove(cpu)
                order.insert(0, cpu)  # the next page is there, too
                return data
        return b""

    def peek(address: int, size: int) -> bytes:
        start = address - address % PAGE
        for at in range(start, address + size, PAGE):
            if at not in pages:
                pages[at] = page(at)
        whole = b"".join(pages[at] for at in range(start, address + size, PAGE))
        return whole[address - start : address - start + size] if len(whole) >= address - start + size else b""

    return peek
