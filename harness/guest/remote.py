# SPDX-License-Identifier: GPL-2.0-only
"""An interactive session in a guest: SSH with a watch that notices when the guest dies or hangs."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import paramiko

from harness.core.errors import GuestError
from harness.guest import ssh
from harness.guest.ssh import Reachable

PING_SECONDS = 3.0
"""Between two questions to the agent."""

MOST = 2 << 30
"""Most bytes of a command's output: a file comes as a whole, and a guest has files without an end."""

ERRORS = 1 << 20
"""Most bytes of its standard error."""

PATIENCE = 45.0
"""Nominal seconds without an answer that make a hang.

The kernel's watchdogs speak after 20 (watchdog_thresh), and one of a BPF scheduler, which ends it if it starves all,
after 30.
"""

Look = Callable[[Sequence[str]], None]
"""Is called with the console from time to time; an exception of it ends the session."""


class Watch:
    """Asks the agent for a sign of life in a thread of its own, the agent's only caller meanwhile.

    When none comes, QEMU ends or `look` raises, it keeps the exception and calls `hang_up`, which must end any wait of
    the session. Without `patience` (nominal seconds) a guest may be stopped, as under a debugger.
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
        # A daemon: the exit of the process does not wait for the answer of a guest that may be hung.
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
        except Exception as error:  # check() raises it in the session's own thread
            self._error = error
            self._hang_up()

    def _deserted(self, patience: float) -> bool:
        """Ask the agent whether the SSH server ended although we did not close the connection.

        QEMU keeps its side of the port open, so the connection itself does not show that.
        """
        answer = self._machine.agent.call(
            "reap", seconds=patience, check=False, record=False, name=ssh.SERVER, timeout_ms=0
        )
        return bool(answer["ok"])

    def stop(self) -> None:
        """End the watch. Raises what it found, or what a last request to the guest finds."""
        self._over = True
        os.write(self._waker, b".")
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._machine.vm.qmp("query-status")  # the simplest reason: QEMU is gone
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

        Raises the guest's end when the connection breaks within the block, GuestError if the guest still runs.
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
        """Run a command to its end with `given` as its input: status, output, and the last line of its errors.

        Raises what :meth:`channel` does.
        """
        with self.channel(command) as channel:
            with contextlib.suppress(OSError):  # it may have ended without reading all: its status says so
                channel.sendall(given)
                channel.shutdown_write()
            out, err = channel.makefile("rb").read(MOST + 1), channel.makefile_stderr("rb").read(ERRORS)
            if len(out) > MOST or len(err) == ERRORS:
                raise GuestError(f"{command[:40]}: the guest sends without an end")
            status = channel.recv_exit_status()
            if status < 0:
                raise EOFError(f"no status of {command[:40]}")
        return status, out, err.decode(errors="replace").strip().rpartition("\n")[2]

    def settle(self) -> None:
        """End the watch. Raises the guest's end if it no longer runs."""
        self._watch.stop()


@contextlib.contextmanager
def session(machine: Reachable, look: Look, patience: float | None = PATIENCE) -> Iterator[Remote]:
    """SSH into a running guest, watched. The guest is not cleaned up afterwards: it must not be used again.

    Raises GuestError when its SSH server does not answer; in the block, the guest's end.
    """
    with ssh.connect(machine, tidy=False) as client:
        transport = client.get_transport()
        assert transport is not None

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # broken already, as intended
                transport.sock.shutdown(socket.SHUT_RDWR)

        yield Remote(client, Watch(machine, look, hang_up, patience))


def shell_line(words: Sequence[str]) -> str:
    """A command for the guest's shell: one word is a line of shell, several are passed as they are.

    The outer shell stays, so that a command killed by a signal has the status 128 + signal.
    """
    line = words[0] if len(words) == 1 else shlex.join(words)
    return f"/bin/sh -c {shlex.quote(line)}; exit $?"
