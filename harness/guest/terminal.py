# SPDX-License-Identifier: GPL-2.0-only
"""Carrying bytes between our standard streams and a channel of the guest; on a terminal, raw, with a way out."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator

import paramiko

from harness.core.errors import HarnessError
from harness.host import streams

CHUNK = 1 << 15
USUAL_SIZE = 80, 24
RETRY_SECONDS = 0.05
"""paramiko has no descriptor that shows when the guest will take more."""


class OutputClosed(Exception):
    """The reader of our output has closed it, as with ``| head``."""


class Escape:
    """Finds ``~.`` at the beginning of a line among what is typed; ``~~`` is one tilde."""

    def __init__(self) -> None:
        self.left = False
        self._fresh = True
        self._tilde = False

    def feed(self, typed: bytes) -> bytes:
        """The part of `typed` that is for the guest; nothing once `left` is set."""
        out = bytearray()
        for byte in typed:
            if self._tilde:
                self._tilde = False
                if byte == ord("."):
                    self.left = True
                    break
                if byte != ord("~"):
                    out.append(ord("~"))
            elif byte == ord("~") and self._fresh:
                self._tilde = True
                continue
            out.append(byte)
            self._fresh = byte in b"\r\n"
        return bytes(out)


def interactive() -> bool:
    """Whether input and output are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def size() -> tuple[int, int]:
    """Columns and lines of our terminal; the usual ones for one that is gone."""
    try:
        now = os.get_terminal_size(1)
    except OSError:
        return USUAL_SIZE
    return now.columns, now.lines


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Put our terminal in raw mode: each key, Ctrl-C too, goes to the guest."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def resized() -> Iterator[int]:
    """A descriptor that can be read after the terminal's size changed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old = signal.signal(signal.SIGWINCH, lambda number, frame: _poke(writer))
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, old)
        os.close(reader)
        os.close(writer)


def _poke(writer: int) -> None:
    with contextlib.suppress(BlockingIOError):  # the pipe is full, and so readable
        os.write(writer, b"w")


class Carrier:
    """One channel joined to our standard streams until it ends, or until the user leaves."""

    def __init__(self, channel: paramiko.Channel, escape: Escape | None = None, resize: int | None = None) -> None:
        self._channel = channel
        self._escape = escape
        self._resize = resize
        self._pending = b""
        self._input_ended = False

    def run(self) -> bool:
        """Carry bytes until the end; False when the user left by ``~.``. Raises OutputClosed without a reader."""
        while not self._ended():
            for ready in select.select(self._sources(), [], [], RETRY_SECONDS if self._pending else None)[0]:
                if ready == 0:
                    self._read()
                elif ready == self._resize:
                    os.read(ready, CHUNK)
                    with contextlib.suppress(paramiko.SSHException):  # it has ended meanwhile
                        self._channel.resize_pty(*size())
            if self._escape is not None and self._escape.left:
                return False
            self._send()
            self._show()
        return True

    def _ended(self) -> bool:
        channel = self._channel
        over = bool(channel.eof_received or channel.closed)
        return over and not channel.recv_ready() and not channel.recv_stderr_ready()

    def _sources(self) -> list[int]:
        sources = [self._channel.fileno()]
        # At a terminal input is read even if it cannot be sent, so that ~. is seen.
        if not self._input_ended and (self._escape is not None or not self._pending):
            sources.append(0)
        return sources if self._resize is None else [*sources, self._resize]

    def _read(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except OSError:  # EIO: the terminal is gone
            data = b""
        self._input_ended = not data
        self._pending += self._escape.feed(data) if self._escape is not None else data
        if self._input_ended and not self._pending:
            self._channel.shutdown_write()

    def _send(self) -> None:
        try:
            while self._pending and self._channel.send_ready():
                self._pending = self._pending[self._channel.send(self._pending[:CHUNK]) :]
                if not self._pending and self._input_ended:
                    self._channel.shutdown_write()
        except OSError:  # the command has ended without reading all, which is no error
            self._pending, self._input_ended = b"", True

    def _show(self) -> None:
        channel = self._channel
        while channel.recv_ready():
            _write(1, channel.recv(CHUNK))
        while channel.recv_stderr_ready():
            _write(2, channel.recv_stderr(CHUNK))


def _write(descriptor: int, data: bytes) -> None:
    """Pass on the output of the guest's program as it is."""
    try:
        streams.send(descriptor, data)
    except OSError as error:
        if descriptor == 2:  # a lost stderr ends nothing
            return
        if streams.is_reader_gone(error):
            raise OutputClosed from error
        raise HarnessError(f"the command's output is lost: {error.strerror}", step="look where stdout leads") from error
