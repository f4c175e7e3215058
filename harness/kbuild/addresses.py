# SPDX-License-Identifier: GPL-2.0-only
"""Finding the function of an address that was read from a guest: of its kernel, or of our module in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.core.records import Frame

MODULE = "kharness"


class Chains(Protocol):
    """Finds the kernel's own functions (implemented by harness.kbuild.symbols.Symbols)."""

    def chain(self, addresses: Sequence[int]) -> tuple[Frame, ...]: ...


@dataclass(frozen=True)
class _Function:
    name: str
    start: int
    size: int


def functions(text: str) -> tuple[_Function, ...]:
    """Our module's functions from its debugfs file: address, size and name a line, numbers in hex."""
    rows = (line.split() for line in text.splitlines())
    return tuple(_Function(row[2], int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 3)


class Addresses:
    """Functions by address. `own` is the content of the module's file of its symbols when the guest was saved."""

    def __init__(self, kernel: Chains, own: str) -> None:
        self._kernel = kernel
        self._own = functions(own)

    def __call__(self, addresses: Sequence[int]) -> tuple[tuple[Frame, ...], ...]:
        """For each address its frame, with what was inlined there before it; an address of no function has none.

        An address is that of an instruction: callers subtract one from a return address. The symbolizer runs once for
        all of them. Raises HarnessError as Symbols does.
        """
        theirs = [address for address in addresses if self._module(address) is None]
        self._kernel.chain([0, *(address + 1 for address in theirs)])
        return tuple(self._one(address) for address in addresses)

    def _one(self, address: int) -> tuple[Frame, ...]:
        own = self._module(address)
        if own is not None:
            return (Frame(own.name, address - own.start, own.size, module=MODULE),)
        found = self._kernel.chain([address])
        return () if len(found) == 1 and found[0].function == f"{address:#x}" else found

    def _module(self, address: int) -> _Function | None:
        return next((one for one in self._own if one.start <= address < one.start + one.size), None)
