# SPDX-License-Identifier: GPL-2.0-only
"""Owns a session in a guest for a person: SSH with a watch beside it that notices when the guest dies or hangs."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import paramiko

from harness.errors import GuestError
from harness.guest import ssh
from harness.guest.ssh import Reachable

PING_SECONDS = 3.0
"""Between two questions to the agent."""

PATIENCE = 45.0
"""Nominal seconds without an answer that make a hang.

The kernel's watchdogs speak after 20 (watchdog_thresh), and sched_ext's ends a scheduler that starves all after 30.
"""

Look = Callable[[Sequence[str]], None]
"""Is shown the console from time to time; what it raises ends the session."""


class Watch:
    """Asks the agent for a sign of life in a thread of its own, the agent's only caller meanwhile.

    When none comes, QEMU ends or `look` raises, it keeps the exception and calls `hang_up`, which is to break whatever
    the session waits for. Without `patience` (nominal seconds) a guest may stand still, as under a debugger.
    """

    def __init__(
        self, machine: Reachable, look: Look, hang_up: Callable[[], None], patience: float | None = PATIENCE
    ) -> None:
        self._machine = machine
        self._look = look
        self._hang_up = hang_up
        self._patience = patience
        self._wake, self._waker = os.pipe()
        self._over = False
        self._error: Exception | None = None
        # A daemon: whoever leaves for good does not wait for the answer of a guest that may be hung.
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                self._machine.vm.attend(PING_SECONDS, self._wake)
                if self._over:
                    return
                if self._patience is not None and self._deserted(self._patience):
                    self._hang_up()
                    return
                self._look(self._machine.vm.console_lines)
        except Exception as error:  # brought to the session's own thread by check()
            self._error = error
            self._hang_up()

    def _deserted(self, patience: float) -> bool:
        """Asks the agent after the SSH server: whether it ended, though we never said goodbye to it.

        QEMU keeps its side of the port open, so the connection itself does not show it.
        """
        answer = self._machine.agent.call(
            "reap", seconds=patience, check=False, record=False, name=ssh.SERVER, timeout_ms=0
        )
        return bool(answer["ok"])

    def stop(self) -> None:
        """Ends the watch. Raises what it found, or what a last question to the guest finds."""
        self._over = True
        os.write(self._waker, b".")
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._machine.vm.qmp("query-status")  # QEMU gone is the simplest reason of all
        if self._patience is not None:
            self._machine.agent.call("ping", seconds=self._patience, record=False)


class Remote:
    """An open session: channels to the guest that break when the guest does."""

    def __init__(self, client: paramiko.SSHClient, watch: Watch) -> None:
        self._client = client
        self._watch = watch

    @contextlib.contextmanager
    def channel(self, command: str | None, size: tuple[int, int] | None = None) -> Iterator[paramiko.Channel]:
        """A channel on which `command` runs (None: a login shell), on a terminal of `size` (columns, lines) if given.

        Raises what became of the guest when the connection breaks within the block, GuestError if it still stands.
        """
        try:
            transport = self._client.get_transport()
            if transport is None:
                raise EOFError("the connection is closed")
            with transport.open_session() as channel:
                if size is not None:
                    channel.get_pty(os.environ.get("TERM", "dumb"), *size)
                if command is None:
                    channel.invoke_shell()
                else:
                    channel.exec_command(command)
                yield channel
        except (paramiko.SSHException, EOFError, ConnectionError) as error:
            self._watch.stop()
            raise GuestError(f"the connection to the guest broke: {error or type(error).__name__}") from error

    def run(self, command: str, given: bytes = b"") -> tuple[int, bytes, str]:
        """A command to its end with `given` as its input: status, output, and the last line of its errors.

        Raises what :meth:`channel` does.
        """
        with self.channel(command) as channel:
            with contextlib.suppress(OSError):  # it may have ended unread: its status tells
                channel.sendall(given)
                channel.shutdown_write()
            out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
            status = channel.recv_exit_status()
            if status < 0:
                raise EOFError(f"no status of {command[:40]}")
        return status, out, err.decode(errors="replace").strip().rpartition("\n")[2]

    def settle(self) -> None:
        """Ends the watch. Raises what became of the guest if it no longer stands."""
        self._watch.stop()


@contextlib.contextmanager
def session(machine: Reachable, look: Look, patience: float | None = PATIENCE) -> Iterator[Remote]:
    """SSH into a running guest, watched. The guest is not tidied up afterwards: it is to be thrown away.

    Raises GuestError when its SSH server does not answer; in the block, what became of the guest.
    """
    with ssh.connect(machine, tidy=False) as client:
        transport = client.get_transport()
        assert transport is not None

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # broken already, which is what is wanted
                transport.sock.shutdown(socket.SHUT_RDWR)

        yield Remote(client, Watch(machine, look, hang_up, patience))


def shell_line(words: Sequence[str]) -> str:
    """A command for the guest's shell: one word is a line of shell, several are handed over as they are.

    The outer shell stays, so that a command that a signal ended has the status 128 + signal.
    """
    line = words[0] if len(words) == 1 else shlex.join(words)
    return f"/bin/sh -c {shlex.quote(line)}; exit $?"
