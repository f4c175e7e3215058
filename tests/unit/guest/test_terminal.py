# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the way out of a terminal, and of carrying bytes over a channel to its end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from typing import cast

import paramiko
import pytest

from harness.core.errors import HarnessError
from harness.guest import terminal
from harness.guest.terminal import Carrier, Escape, OutputClosed, resized


@pytest.mark.parametrize(
    ("typed", "sent", "left"),
    [
        (b"ls\r", b"ls\r", False),
        (b"~.", b"", True),
        (b"ls\r~.rest", b"ls\r", True),
        (b"ls ~.\r", b"ls ~.\r", False),
        (b"~~.", b"~.", False),
        (b"~~\r~.", b"~\r", True),
        (b"~/bin\r", b"~/bin\r", False),
        (b"~", b"", False),
        (b"\x03~.", b"\x03~.", False),
        (b"a\n~x~.", b"a\n~x~.", False),
    ],
)
def test_tilde_dot_leaves_only_at_the_beginning_of_a_line(typed: bytes, sent: bytes, left: bool) -> None:
    whole, bytewise = Escape(), Escape()
    assert (whole.feed(typed), whole.left) == (sent, left)
    out = b"".join(bytewise.feed(typed[i : i + 1]) for i in range(len(typed)) if not bytewise.left)
    assert (out, bytewise.left) == (sent, left)


class Far:
    """Stands for a channel: says what it is given, and takes at most `room` bytes at a time, `limit` in all."""

    def __init__(self, says: bytes = b"", complains: bytes = b"", room: int = 1 << 20, limit: int = 1 << 30) -> None:
        self.out, self.err, self.room, self.limit = says, complains, room, limit
        self.got = b""
        self.closed = False
        self._reader, self._writer = os.pipe()
        self._ended, self.refused = threading.Event(), threading.Event()
        if says or complains:
            os.write(self._writer, b"x")

    @property
    def eof_received(self) -> bool:
        return self._ended.is_set()

    def end(self) -> None:
        self._ended.set()
        os.write(self._writer, b"x")

    def fileno(self) -> int:
        return self._reader

    def recv_ready(self) -> bool:
        return bool(self.out)

    def recv_stderr_ready(self) -> bool:
        return bool(self.err)

    def recv(self, most: int) -> bytes:
        data, self.out = self.out[:most], self.out[most:]
        return data

    def recv_stderr(self, most: int) -> bytes:
        data, self.err = self.err[:most], self.err[most:]
        return data

    def send_ready(self) -> bool:
        return self.room > 0

    def send(self, data: bytes) -> int:
        if len(self.got) >= self.limit:
            self.refused.set()
            raise OSError("Socket is closed")
        taken = data[: self.room]
        self.got += taken
        return len(taken)

    def shutdown_write(self) -> None:
        self.end()


@contextlib.contextmanager
def piped() -> Iterator[tuple[int, int]]:
    """Our standard input and output as pipes: the writing end of the one, the reading end of the other.

    Not a fixture: pytest puts its own capture back between setup and call.
    """
    saved = [os.dup(0), os.dup(1)]
    (stdin, into), (out_of, stdout) = os.pipe(), os.pipe()
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)
    try:
        yield into, out_of
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
        for number in (*saved, into, out_of):
            with contextlib.suppress(OSError):  # the test closed it
                os.close(number)


def carried(far: Far, escape: Escape | None = None) -> bool:
    return Carrier(cast(paramiko.Channel, far), escape).run()


def write_all(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data)
    os.close(descriptor)


def test_input_goes_there_whole_and_its_end_is_told() -> None:
    with piped() as streams:
        given = bytes(range(256)) * 200
        far = Far(room=1000)
        writer = threading.Thread(target=write_all, args=(streams[0], given))
        writer.start()
        assert carried(far)
        writer.join()
        same = far.got == given  # apart: a diff of so much would take pytest minutes
        assert same


def test_output_comes_whole_before_the_end() -> None:
    with piped() as streams:
        far = Far(says=b"x" * 40_000, complains=b"oh\n")
        far.end()
        assert carried(far)
        assert os.read(streams[1], 1 << 16).count(b"x") == 40_000
        assert far.err == b""


def test_who_does_not_read_to_the_end_is_not_minded() -> None:
    with piped() as streams:
        far = Far(limit=4)
        os.write(streams[0], b"more than it takes")
        os.close(streams[0])
        far.room = 4

        def end() -> None:
            far.refused.wait(60)
            far.end()

        threading.Thread(target=end).start()
        assert carried(far)
        assert far.got == b"more"


def test_leaving_is_seen_although_nothing_can_be_sent() -> None:
    with piped() as streams:
        far = Far(room=0)
        os.write(streams[0], b"stuck\r")
        threading.Timer(0.2, os.write, (streams[0], b"~.")).start()
        assert not carried(far, Escape())
        assert far.got == b""


def test_a_channel_that_ends_while_the_terminal_is_resized_has_ended() -> None:
    class Ending(Far):
        def resize_pty(self, columns: int, lines: int) -> None:
            self.end()
            raise paramiko.SSHException("Channel is not open")

    with piped(), resized() as resize:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert Carrier(cast(paramiko.Channel, Ending()), Escape(), resize).run()


def test_output_that_nobody_takes_ends_it() -> None:
    with piped() as streams:
        os.close(streams[1])
        with pytest.raises(OutputClosed):
            carried(Far(says=b"hello"))


def test_a_pipe_is_no_person() -> None:
    with piped():
        assert not terminal.interactive()


@contextlib.contextmanager
def leading_to(descriptor: int, path: str) -> Iterator[None]:
    saved, other = os.dup(descriptor), os.open(path, os.O_RDWR)
    os.dup2(other, descriptor)
    os.close(other)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)


def test_output_that_finds_no_room_is_no_status_of_the_command() -> None:
    with leading_to(1, "/dev/full"), pytest.raises(HarnessError, match="output is lost: No space left on device"):
        carried(Far(says=b"hello"))


def test_stderr_that_finds_no_room_ends_nothing() -> None:
    with piped() as streams, leading_to(2, "/dev/full"):
        far = Far(says=b"hello", complains=b"oh")
        far.end()
        assert carried(far)
        assert os.read(streams[1], 100) == b"hello"


def test_a_terminal_that_is_gone_is_the_end_of_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """read(2) says EIO to who is left in the background of one."""
    read = os.read

    def gone(descriptor: int, most: int) -> bytes:
        if descriptor == 0:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, most)

    with piped() as streams:
        os.write(streams[0], b"x")  # select(2) says that it can be read
        monkeypatch.setattr(os, "read", gone)
        far = Far()
        assert carried(far)
        assert far.eof_received and far.got == b""


def test_a_terminal_that_is_gone_needs_no_restoring() -> None:
    with piped():
        master, slave = os.openpty()
        os.dup2(slave, 0)
        os.close(slave)
        with terminal.raw():
            os.close(master)
        assert terminal.size() == terminal.USUAL_SIZE
