# SPDX-License-Identifier: GPL-2.0-only
"""Binary values as the guest's CPUs lay them out; the byte order comes from vm/<arch>.yaml."""

from __future__ import annotations

import enum
import struct
from typing import Any


class ByteOrder(enum.StrEnum):
    """Which byte of a number is at the lowest address: its least (little) or its most significant one."""

    LITTLE = "little"
    BIG = "big"

    def unpack(self, layout: str, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        """The values that lie at `offset`; `layout` is struct's, without a byte order, and knows no padding.

        Raises struct.error where `data` is too short.
        """
        return struct.unpack_from(self._sign + layout, data, offset)

    def number(self, data: bytes) -> int:
        """An unsigned number of as many bytes as there are."""
        return int.from_bytes(data, self.value)

    def pack(self, layout: str, *values: int) -> bytes:
        """The values one after the other."""
        return struct.pack(self._sign + layout, *values)

    @property
    def _sign(self) -> str:
        return "<" if self is ByteOrder.LITTLE else ">"


class Binary:
    """Numbers to be laid out once it is known for which guest, the context of a SYSCALL program for one:
    ``Binary("Qi", 7, -1)`` is an unsigned number of 64 bits and a signed one of 32."""

    def __init__(self, layout: str = "", *values: int) -> None:
        self._layout = layout
        self._values = values

    def bytes(self, order: ByteOrder) -> bytes:
        """As the guest has them."""
        return order.pack(self._layout, *self._values)


NOTHING = Binary()
