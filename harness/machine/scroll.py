# SPDX-License-Identifier: GPL-2.0-only
"""What a console has shown, within a bound: how the machine began and what it showed last, for it may show no end.

A position is a count of characters since the beginning, and stays true when the middle is dropped.
"""

from __future__ import annotations

HEAD = 1 << 20
"""Bytes of the beginning that are kept: a boot with all its reports prints less than a tenth."""

TAIL = 15 << 20
"""Bytes of the end that are kept; an eighth more while it grows. Judging takes about a second for each MiB."""

LINES = 200_000
"""Lines of the end that are kept: as many as TAIL has of the usual length. Each becomes a record for the oracles."""

LONGEST = 1 << 16
"""Bytes within which a line ends; the end begins with a whole line, where there are such."""


class Scroll:
    """Bytes taken as Latin-1, so that none is lost or refused. `lost` of the `shown` ones were dropped."""

    def __init__(self, head: int = HEAD, tail: int = TAIL, lines: int = LINES) -> None:
        self._most_head, self._most_tail, self._most_lines = head, tail, lines
        self._head, self._tail = bytearray(), bytearray()
        self._whole: tuple[int, str] = (0, "")
        self.shown = self.lost = self._lines = 0

    def add(self, data: bytes) -> None:
        """Add the next bytes of the console."""
        self.shown += len(data)
        free = self._most_head - len(self._head)
        self._head += data[:free]
        if len(data) > free:
            self._tail += data[free:]
            self._lines += data.count(b"\n", free)
            if len(self._tail) > self._most_tail + self._most_tail // 8:
                self._drop(len(self._tail) - self._most_tail)
            elif self._lines > self._most_lines + self._most_lines // 8:
                self._drop(len(self._tail) // 8)

    def _drop(self, count: int) -> None:
        """Drop so many bytes of the tail's beginning, and the rest of the line that they end in."""
        count = self._tail.find(b"\n", count, count + LONGEST) + 1 or count
        self._lines -= self._tail.count(b"\n", 0, count)
        del self._tail[:count]
        self.lost += count

    def first(self, mark: int) -> int:
        """The first position from `mark` on that is kept, or would be shown next."""
        return mark if mark < len(self._head) else max(mark, self.shown - len(self._tail))

    def since(self, mark: int, most: int | None = None) -> str:
        """The kept text after the first `mark` characters; at most its first `most`."""
        out = self._head[mark : None if most is None else mark + most]
        if most is None or len(out) < most:
            start = max(0, mark - (self.shown - len(self._tail)))
            out += self._tail[start : None if most is None else start + most - len(out)]
        return out.decode("latin-1")

    @property
    def text(self) -> str:
        """All that is kept; a line of its own says what is missing."""
        if self._whole[0] != self.shown:
            gap = f"\n[{self.lost} characters are missing here]\n" if self.lost else ""
            self._whole = self.shown, self._head.decode("latin-1") + gap + self._tail.decode("latin-1")
        return self._whole[1]

    @property
    def lines(self) -> list[str]:
        """The lines of :attr:`text`. A character beside the newline ends none, or there could be any number."""
        lines = [line.rstrip("\r") for line in self.text.split("\n")]
        return lines if lines[-1] else lines[:-1]
