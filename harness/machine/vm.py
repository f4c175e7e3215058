# SPDX-License-Identifier: GPL-2.0-only
"""Owns one running QEMU: its console, its agent channel, its monitor, and how it ended."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pexpect
from qemu.qmp import ExecInterruptedError, QMPError, StateError
from qemu.qmp.legacy import QEMUMonitorProtocol

from harness.errors import Ended, How, MachineEnded, MachineLost
from harness.host.process import end, spawn
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.machine import gdb
from harness.machine.console import Console
from harness.machine.deadline import Deadline
from harness.machine.qemu import Launch, Sockets, argv

STARTUP_SECONDS = 20.0
"""For QEMU to open its sockets; it needs a tenth of a second unless the host is drowning."""


MAX_TMPDIR = 70
"""Bytes of a TMPDIR that leave room for /kharness-vm-XXXXXXXX/console.sock."""


class Vm:
    """A QEMU process, started paused. Use as a context manager: leaving it ends QEMU. With `debug` gdb can attach.

    Everything raised says whose fault it is: MachineLost when QEMU does not start, MachineEnded (for the crash
    oracle) when it stops answering later.
    """

    def __init__(
        self, launch: Launch, toolchain: Toolchain, incoming: Path | None = None, *, debug: bool = False
    ) -> None:
        self.launch = launch
        self._debug = debug
        self.sockets = Sockets(Path(tempfile.mkdtemp(prefix="kharness-vm-", dir=_short_folder())))
        self._toolchain = toolchain
        self._incoming = incoming
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: QEMUMonitorProtocol | None = None
        self._console: Console | None = None
        self._agent: socket.socket | None = None
        self._monitor: socket.socket | None = None
        self._lingers, self._reset = False, False
        self._stderr = self.sockets.folder / "qemu.stderr"

    # --- life -------------------------------------------------------------------------

    def __enter__(self) -> Vm:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        binds = [
            Bind(self.launch.image), Bind(self.launch.initramfs), Bind(self.sockets.folder, writable=True)
        ]  # fmt: skip
        if self._incoming:
            binds.append(Bind(self._incoming))
        more = gdb.stub(self.sockets) if self._debug else []
        command = self._toolchain.argv([*argv(self.launch, self.sockets, self._incoming), *more], binds=binds)
        with open(self._stderr, "wb") as stderr:
            self._process = spawn(command, stdout=subprocess.DEVNULL, stderr=stderr)
        deadline = Deadline(STARTUP_SECONDS, "QEMU to open its sockets")
        console = self._connect(self.sockets.console, deadline)
        self._console = Console(console)
        self._agent = self._connect(self.sockets.agent, deadline)
        monitor = self._connect(self.sockets.qmp, deadline)
        self._qmp, self._monitor = QEMUMonitorProtocol(monitor), monitor
        self._qmp.settimeout(STARTUP_SECONDS)
        self._greeted(monitor, deadline)
        try:
            self._qmp.connect()
        except (QMPError, EOFError, ConnectionError) as error:
            self._qmp = None
            raise self._not_started() from error
        if self._incoming:
            self._wait_migration("inmigrate", Deadline(STARTUP_SECONDS, "the snapshot to be read"))

    def _connect(self, path: Path, deadline: Deadline) -> socket.socket:
        """A connection to a socket that QEMU is about to open."""
        assert self._process is not None
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(path))
                return sock
            except OSError:
                sock.close()
            if self._process.poll() is not None:
                raise self._not_started()
            if deadline.expired:
                raise MachineLost(f"{deadline}: {path.name}", step="run 'kharness doctor'")
            # The socket has no event of its own to wait for until it exists.
            time.sleep(0.003)

    def _greeted(self, monitor: socket.socket, deadline: Deadline) -> None:
        """Waits for QMP's greeting to begin: the library's own connect() has no deadline."""
        if not select.select([monitor], [], [], deadline.left)[0]:
            self._qmp = None
            raise MachineLost(f"{deadline}: QMP said nothing", step="run 'kharness doctor'")

    def _not_started(self) -> MachineLost:
        binary = self.launch.definition.qemu.binary
        return MachineLost(f"{binary} did not start: {self._last_words()}", step="run 'kharness doctor'")

    def _last_words(self) -> str:
        text = self._stderr.read_text(errors="replace").strip() if self._stderr.exists() else ""
        return text.splitlines()[-1] if text else "it said nothing"

    def close(self) -> None:
        """Ends QEMU and removes its folder; may be called twice."""
        if self._qmp is not None:
            try:
                self._qmp.close()
            except (TimeoutError, QMPError, OSError, EOFError):
                self._qmp = None  # it was gone before we said goodbye
        for channel in (self._agent, self._console):
            if channel is not None:
                channel.close()
        if self._process is not None:
            end(self._process)
        shutil.rmtree(self.sockets.folder, ignore_errors=True)

    # --- monitor ----------------------------------------------------------------------

    def qmp(self, command: str, **arguments: object) -> Any:
        """One QMP command. Raises MachineEnded when QEMU is gone, MachineLost when it refuses."""
        if self._qmp is None:
            raise MachineLost(f"QMP {command}: QEMU is not running")
        try:
            return self._qmp.cmd(command, **arguments)
        except (TimeoutError, EOFError, ConnectionError, ExecInterruptedError, StateError) as error:
            raise self.gone(f"QMP {command}") from error
        except QMPError as error:
            raise MachineLost(f"QMP {command}: {error}") from error

    def resume(self) -> None:
        """Lets the guest run."""
        self.qmp("cont")

    def linger(self) -> None:
        """From now on QEMU stays when the guest resets, for its memory is wanted. Raises what :meth:`qmp` does."""
        self.qmp("set-action", reboot="shutdown", shutdown="pause")
        self._lingers = True

    def _has_reset(self) -> bool:
        """Whether the guest of a QEMU that lingers has ended by itself."""
        if self._lingers and not self._reset and self._qmp is not None:
            try:
                self._reset = any(event["event"] == "SHUTDOWN" for event in self._qmp.get_events())
            except (EOFError, ConnectionError, QMPError):
                return False  # QEMU went away: its sockets say so, too
        return self._reset

    def pass_file(self, name: str, file: int) -> None:
        """Gives QEMU an open file, as ``fd:NAME``. Raises what :meth:`qmp` does."""
        if self._qmp is None:
            raise MachineLost("QEMU is not running")
        try:
            self._qmp.send_fd_scm(file)
        except (OSError, QMPError) as error:
            raise self.gone("passing a file") from error
        self.qmp("getfd", fdname=name)

    def save(self, path: Path) -> None:
        """Stops the guest and writes its state to `path`, a file in a folder bound writable."""
        self.qmp("stop")
        inside = self.sockets.folder / "state"
        self.qmp("migrate", uri=f"file:{inside}")
        self._wait_migration("migrate", Deadline(60.0, "the snapshot to be written"))
        shutil.move(inside, path)

    def memory(self, address: int, size: int) -> bytes:
        """What lies in the guest's physical memory, also when nothing in it answers. Raises what :meth:`qmp` does."""
        inside = self.sockets.folder / "memory"
        self.qmp("pmemsave", val=address, size=size, filename=str(inside))
        return inside.read_bytes()

    def registers(self, cpu: int) -> str:
        """One CPU's registers as QEMU prints them. Raises what :meth:`qmp` does."""
        return str(self.qmp("human-monitor-command", **{"command-line": "info registers", "cpu-index": cpu}))

    def peek(self, address: int, size: int, cpu: int) -> bytes:
        """What lies at a virtual address of this CPU; nothing where it is not mapped. Raises MachineEnded as qmp()."""
        inside = self.sockets.folder / "memory"
        try:
            self.qmp("memsave", val=address, size=size, filename=str(inside), **{"cpu-index": cpu})
        except MachineLost:
            return b""
        return inside.read_bytes()

    def _wait_migration(self, direction: str, deadline: Deadline) -> None:
        """QMP has no blocking wait for a migration: asks until it is done."""
        while True:
            if direction == "inmigrate":
                done, failed = self.qmp("query-status")["status"] != "inmigrate", False
            else:
                status = self.qmp("query-migrate").get("status")
                done, failed = status == "completed", status in ("failed", "cancelled")
            if failed:
                raise MachineLost(
                    f"QEMU could not write its state to {self.sockets.folder.parent}",
                    step="free space there, or set TMPDIR to another folder",
                )
            if done:
                return
            if deadline.expired:
                raise MachineLost(str(deadline))
            time.sleep(0.002)

    # --- console and agent ------------------------------------------------------------

    @property
    def console_lines(self) -> list[str]:
        """The console since the machine started."""
        self.console.drain()
        return self.console.text.splitlines()

    @property
    def console(self) -> Console:
        """The console of a machine that was started."""
        assert self._console is not None
        return self._console

    def expect(self, patterns: Sequence[str], deadline: Deadline) -> int:
        """Waits until the console shows one of `patterns` (regular expressions); returns which.

        Raises MachineEnded at the deadline and when QEMU is gone.
        """
        try:
            return self.console.expect(patterns, deadline.left)
        except pexpect.TIMEOUT as error:
            raise self.expired(deadline) from error
        except pexpect.EOF as error:
            raise self.gone(deadline.what) from error

    def line(self, deadline: Deadline) -> str:
        """The console's next whole line. Raises what :meth:`expect` does."""
        self.expect([r"[^\n]*\n"], deadline)
        return self.console.matched().rstrip("\r\n")

    def send(self, data: bytes) -> None:
        """To the agent."""
        assert self._agent is not None
        try:
            self._agent.sendall(data)
        except OSError as error:
            raise self.gone("writing to the agent") from error

    def receive(self, deadline: Deadline, fatal: re.Pattern[str] | None = None, grace: float = 0.0) -> bytes:
        """What the agent sent, at least one byte; the console is drained meanwhile, lest the guest block on it.

        Once the console has shown `fatal`, no more than `grace` seconds are waited. Raises MachineEnded at the deadline
        and when QEMU is gone.
        """
        assert self._agent is not None
        hurried = False
        assert self._monitor is not None
        agent, console = self._agent.fileno(), self.console.fileno()
        channels = [agent, console, *([self._monitor.fileno()] if self._lingers else [])]
        while True:
            if fatal and not hurried and self.console.ever(fatal):
                hurried, deadline = True, Deadline(min(deadline.left, grace), deadline.what)
            if self._has_reset():
                raise self.gone(deadline.what)
            ready, _, _ = select.select(channels, [], [], deadline.left)
            if agent in ready:
                try:
                    data = self._agent.recv(1 << 20)
                except ConnectionError as error:  # QEMU died with something of ours unread
                    raise self.gone(deadline.what) from error
                if data:
                    return data
                raise self.gone(deadline.what)
            if console in ready and not self.console.drain():
                raise self.gone(deadline.what)
            if not ready and deadline.expired:
                raise self.expired(deadline)

    def attend(self, seconds: float, wake: int) -> None:
        """Drains the console for so long, or until the descriptor `wake` can be read.

        Raises MachineEnded as soon as QEMU is gone.
        """
        deadline = Deadline(seconds, "nothing")
        while not deadline.expired:
            ready, _, _ = select.select([self.console.fileno(), wake], [], [], deadline.left)
            if self.console.fileno() in ready and not self.console.drain():
                raise self.gone("the session")
            if wake in ready:
                return

    def expired(self, deadline: Deadline) -> MachineEnded:
        """The end of a wait for a machine whose QEMU runs."""
        return MachineEnded(
            f"{deadline}; last console line: {self._last_line()}",
            Ended(How.RUNNING), self.console_lines, expired=True, waiting=f"{deadline.what}, {deadline.seconds:.0f} s",
        )  # fmt: skip

    def _last_line(self) -> str:
        lines = [line for line in self.console_lines if line.strip()]
        return lines[-1] if lines else "(none)"

    def gone(self, what: str) -> MachineEnded:
        """QEMU closed its side: waits for its exit status and says how it ended."""
        ended = Ended(How.SILENT)
        if self._has_reset():
            ended = Ended(How.EXITED, status=0)  # what it does where it need not linger
        elif self._process is not None:
            try:
                status = self._process.wait(timeout=5.0)
                ended = _ended(status)
            except subprocess.TimeoutExpired:
                ended = Ended(How.SILENT)
        lines = self.console_lines
        return MachineEnded(
            f"QEMU ended during: {what}; last console line: {self._last_line()}", ended, lines, False
        )

    @property
    def pid(self) -> int:
        """Of the process that we started (the sandbox around QEMU)."""
        assert self._process is not None
        return self._process.pid


def _short_folder() -> str:
    """Where sockets go: TMPDIR, unless a socket's path there would pass the 107 bytes of sun_path (unix(7))."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) < MAX_TMPDIR else "/tmp"


def _ended(status: int) -> Ended:
    """From a wait status as subprocess and a sandbox's shell give it (128 + signal)."""
    if status < 0:
        return Ended(How.KILLED, signal=-status)
    if status > 128:
        return Ended(How.KILLED, signal=status - 128)
    return Ended(How.EXITED, status=status)
