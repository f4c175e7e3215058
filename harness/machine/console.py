# SPDX-License-Identifier: GPL-2.0-only
"""Owns a machine's serial console: what it has shown, what is typed into it, and that it is always read in time."""

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

LINE = 200
"""Characters that are looked at again: a line may come in parts."""


class Console:
    """A console on a connected socket. `text` is all that it has shown: Latin-1, so that no byte is lost or refused.

    Its methods may be called while :meth:`listening` reads it in another thread.
    """

    def __init__(self, sock: socket.socket) -> None:
        # pexpect's stubs do not know SocketSpawn.
        self._spawn: Any = pexpect.socket_pexpect.SocketSpawn(sock, timeout=None)
        self._more = threading.Condition()
        self._open = True
        self._looked, self._found = 0, False
        self.text = ""

    def fileno(self) -> int:
        """For select()."""
        return int(self._spawn.fileno())

    def close(self) -> None:
        """May be called twice."""
        self._spawn.close()

    def drain(self) -> bool:
        """Takes what the console has; False when QEMU closed it."""
        with self._more:
            try:
                while True:
                    self.text += _text(self._spawn.read_nonblocking(65536, timeout=0))
            except (pexpect.TIMEOUT, BlockingIOError):
                return self._open
            except (pexpect.EOF, OSError):
                self._open = False
                return False
            finally:
                self._more.notify_all()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """It is read all the time within the block, lest QEMU's monitor never answer.

        QEMU's PL011 waits for whoever reads the console, and holds the lock meanwhile that the monitor needs; its 16550
        drops what is not read soon: a socket takes some 280 of its writes of one byte each.
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

    def until(self, pattern: re.Pattern[str], mark: int, quiet: float, deadline: Deadline) -> bool | None:
        """Whether it shows `pattern` after its first `mark` characters. For :meth:`listening`.

        None when QEMU closed it before; False once nothing at all has come for `quiet` seconds, and at the deadline.
        """
        with self._more:
            while not pattern.search(self.text, mark):
                if not self._open:
                    return None
                if deadline.expired or not self._grows(min(quiet, deadline.left)):
                    return False
            return True

    def _grows(self, seconds: float) -> bool:
        shown = len(self.text)
        return self._more.wait_for(lambda: len(self.text) > shown or not self._open, seconds)

    def type(self, data: bytes) -> None:
        """Raises OSError if QEMU is gone."""
        self._spawn.send(data)

    def expect(self, patterns: Sequence[str], seconds: float) -> int:
        """Waits until it shows one of `patterns` (regular expressions); returns which.

        Raises pexpect's TIMEOUT and EOF.
        """
        shown = b""
        try:
            found = int(self._spawn.expect([pattern.encode() for pattern in patterns], timeout=seconds))
            shown = self._spawn.before + self._spawn.after
        except pexpect.ExceptionPexpect:
            shown = self._spawn.before
            raise
        finally:
            self.text += _text(shown)
        return found

    def matched(self) -> str:
        """What :meth:`expect` found."""
        return _text(self._spawn.after)

    def ever(self, pattern: re.Pattern[str]) -> bool:
        """Whether it ever showed what this pattern, always the same, matches; looks at what is new only."""
        start, self._looked = max(0, self._looked - LINE), len(self.text)
        self._found = self._found or pattern.search(self.text, start) is not None
        return self._found


def _text(data: bytes) -> str:
    return data.decode("latin-1")
