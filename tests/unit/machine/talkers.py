# SPDX-License-Identifier: GPL-2.0-only
"""Machines whose guest is a process of its own that talks as fast as it can, over real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from harness.guest.agent import Agent
from harness.machine.console import Console
from harness.machine.qemu import Sockets
from harness.machine.vm import Vm

LIFE_SECONDS = 60
SOON = 8.0
"""Seconds within which a wait of a second has ended on a loaded machine; without a bound these never end."""

TALK = """
import itertools, signal, socket, time
signal.alarm({life})
sock = socket.socket(fileno={file})
{code}
"""

FLOOD = "data = {data!r}\nwhile True:\n sock.sendall(data)"
"""The same bytes for ever."""

TORRENT = "import os\nos.dup2(sock.fileno(), 1)\nos.execvp('cat', ['cat', '/dev/zero'])"
"""Zeroes, faster than we can read them."""

TRICKLE = "while True:\n sock.sendall({data!r})\n time.sleep(0.05)"
"""Twenty times a second."""


@contextlib.contextmanager
def talker(code: str) -> Iterator[socket.socket]:
    """The other end of a socket on which a process does this."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-c", TALK.format(life=LIFE_SECONDS, file=theirs.fileno(), code=code)]
    child = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        yield ours
    finally:
        child.kill()
        child.wait()
        ours.close()


class Wired(Vm):
    """A machine that consists of a console and an agent's port; its monitor says nothing."""

    def __init__(self, console: socket.socket, agent: socket.socket) -> None:
        self._console, self._agent, self._monitor = Console(console), agent, agent
        self.ours = agent
        self._lingers = self._reset = False
        self._qmp = self._process = None
        self._unsent = bytearray()
        self.sockets = Sockets(Path("/nonexistent"))


@contextlib.contextmanager
def endless(console: bytes = b"", agent: bytes = b"") -> Iterator[Wired]:
    """A machine of which one end says this whenever one looks, and the other nothing."""
    quiet, other = socket.socketpair()
    with quiet, other, contextlib.closing(Endless(console or agent, SOON)) as end:
        vm = Wired(quiet, other)
        if console:
            vm.console._spawn = end
        else:
            vm._agent = cast(socket.socket, end)
        yield vm


@contextlib.contextmanager
def wired(console: str = "time.sleep(1000)", agent: str = "time.sleep(1000)") -> Iterator[Wired]:
    """Such a machine, with what talks on each."""
    with talker(console) as shown, talker(agent) as said:
        yield Wired(shown, said)


class Endless:
    """Either end of a guest that is always faster than we are: there is something to read whenever one looks.

    Whoever still reads after `seconds` fails.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        self.data, self.until = data, time.monotonic() + seconds
        self._unread, writer = os.pipe()
        os.write(writer, b"x")
        os.close(writer)

    def fileno(self) -> int:
        return self._unread

    def recv(self, size: int) -> bytes:
        assert time.monotonic() < self.until, "it is read for ever"
        return self.data[:size]

    def read_nonblocking(self, size: int, timeout: float) -> bytes:
        """As pexpect's."""
        return self.recv(size)

    def send(self, data: bytes, flags: int) -> int:
        return len(data)

    def close(self) -> None:
        os.close(self._unread)


def begun(end: Console | socket.socket) -> None:
    """Waits until there is something to be read: a process that talks has to be started first."""
    assert select.select([end], [], [], LIFE_SECONDS)[0], "nothing is said"


def calls(vm: Vm) -> Agent:
    return Agent(vm, 1.0)


def resident() -> int:
    """Bytes of our memory that are in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
