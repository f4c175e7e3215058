# SPDX-License-Identifier: GPL-2.0-only
"""A machine's serial console: what it has shown, what is typed into it, and that it is always read in time."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pexpect
import pexpect.socket_pexpect

from harness.machine.deadline import Deadline
from harness.machine.scroll import LONGEST, Scroll

LINE = 4096
"""Characters that are searched again: a line may come in parts."""

USUAL = 256
"""Characters that most lines have less of."""

READ, READS = 1 << 16, 16
"""Bytes of one read, and reads in one go; a socket holds less. Waiting code checks its deadline in between."""


class Console:
    """A console on a connected socket, which keeps what it shows within a bound (harness.machine.scroll).

    Its methods may be called while :meth:`listening` reads it in another thread.
    """

    def __init__(self, sock: socket.socket) -> None:
        # pexpect's stubs do not know SocketSpawn.
        self._spawn: Any = pexpect.socket_pexpect.SocketSpawn(sock, timeout=None)
        self._more = threading.Condition()
        self._open = True
        self._scroll = Scroll()
        self._looked, self._found = 0, False
        self._consumed = 0

    @property
    def text(self) -> str:
        """All that it has shown, in Latin-1, without what is `lost`."""
        with self._more:
            return self._scroll.text

    @property
    def lines(self) -> list[str]:
        """The lines of :attr:`text`."""
        with self._more:
            return self._scroll.lines

    @property
    def shown(self) -> int:
        """How many characters it has shown."""
        return self._scroll.shown

    @property
    def lost(self) -> int:
        """How many of these had to be dropped, in the middle."""
        return self._scroll.lost

    def since(self, mark: int) -> str:
        """What it has shown after its first `mark` characters, but for what is lost."""
        with self._more:
            return self._scroll.since(mark)

    def fileno(self) -> int:
        """For select()."""
        return int(self._spawn.fileno())

    def close(self) -> None:
        """May be called twice."""
        self._spawn.close()

    def drain(self) -> bool:
        """Read what the console has, at most READS times READ bytes; False when QEMU closed it."""
        with self._more:
            try:
                for _ in range(READS):
                    self._scroll.add(self._spawn.read_nonblocking(READ, timeout=0))
                return self._open
            except (pexpect.TIMEOUT, BlockingIOError):
                return self._open
            except (pexpect.EOF, OSError):
                self._open = False
                return False
            finally:
                self._more.notify_all()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Read the console all the time within the block, so that QEMU's monitor can answer.

        QEMU's PL011 waits for the reader of the console, and meanwhile holds the lock that the monitor needs; its 16550
        drops what is not read soon: a socket buffers some 280 of its writes of one byte each.
        """
        reader, writer = os.pipe()

        def listen() -> None:
            while reader not in select.select([self.fileno(), reader], [], [])[0]:
                if not self.drain():
                    return

        thread = threading.Thread(target=listen, name="console", daemon=True)
        thread.start()
        try:
            yield
        finally:
            os.close(writer)  # the other end can be read then
            thread.join()
            os.close(reader)

    def until(self, pattern: re.Pattern[str], mark: int, silence: float, deadline: Deadline) -> bool | None:
        """Whether it shows `pattern` after its first `mark` characters. For :meth:`listening`.

        None when QEMU closed it before; False once nothing at all has come for `silence` seconds, and at the deadline.
        """
        with self._more:
            looked = mark
            while not pattern.search(self._scroll.since(max(mark, looked - LINE))):
                looked = self._scroll.shown
                if not self._open:
                    return None
                if deadline.expired or not self._grows(min(silence, deadline.left)):
                    return False
            return True

    def _grows(self, seconds: float) -> bool:
        shown = self._scroll.shown
        return self._more.wait_for(lambda: self._scroll.shown > shown or not self._open, seconds)

    def type(self, data: bytes) -> None:
        """Raises OSError if QEMU is gone."""
        self._spawn.send(data)

    def expect(self, patterns: Sequence[str], seconds: float) -> int:
        """Wait until it shows one of `patterns` (regular expressions) after the previous match; returns which.

        Raises pexpect's TIMEOUT and EOF.
        """
        deadline = Deadline(seconds, "the console")
        wanted = [re.compile(pattern, re.DOTALL) for pattern in patterns]
        start = self._consumed
        while True:
            text = self.since(start)
            base = self.shown - len(text)
            found = [(match.start(), number, match) for number, one in enumerate(wanted) if (match := one.search(text))]
            if found:
                _, number, match = min(found, key=lambda one: one[:2])
                self._consumed = base + match.end()
                return number
            start = max(self._consumed, self.shown - LINE)
            self._wait(deadline)

    def line(self, seconds: float) -> str:
        """Its next whole line, or the beginning of one longer than LONGEST. Raises what :meth:`expect` does."""
        deadline = Deadline(seconds, "the console")
        while not deadline.expired:
            with self._more:
                self._consumed = self._scroll.first(self._consumed)
                text = self._scroll.since(self._consumed, USUAL)
                if "\n" not in text:
                    text = self._scroll.since(self._consumed, LONGEST)
            line, newline, _ = text.partition("\n")
            if newline or len(text) == LONGEST:
                self._consumed += len(line) + len(newline)
                return line.rstrip("\r")
            self._wait(deadline)
        raise pexpect.TIMEOUT(str(deadline))

    def _wait(self, deadline: Deadline) -> None:
        """Wait for more. Raises pexpect's TIMEOUT, and EOF when QEMU closed it and nothing is left."""
        before = self.shown
        if deadline.expired:
            raise pexpect.TIMEOUT(str(deadline))
        ready = self._open and select.select([self.fileno()], [], [], deadline.left)[0]
        if (ready or not self._open) and not self.drain() and self.shown == before:
            raise pexpect.EOF("QEMU closed the console")

    def ever(self, pattern: re.Pattern[str]) -> bool:
        """Whether it ever showed a match of this pattern, the same in each call; searches only what is new."""
        if not self._found and self._looked < self.shown:
            start, self._looked = max(0, self._looked - LINE), self.shown
            self._found = pattern.search(self.since(start)) is not None
        return self._found
