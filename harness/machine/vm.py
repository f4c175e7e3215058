# SPDX-License-Identifier: GPL-2.0-only
"""One running QEMU: its console, its agent channel, its monitor, and how it ended."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, TypeVar

import msgspec
import pexpect
from qemu.qmp import ExecInterruptedError, QMPError, StateError
from qemu.qmp.legacy import QEMUMonitorProtocol

from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.host import confine
from harness.host.process import Child, end, spawn
from harness.host.sandbox import Bind
from harness.host.scratch import FALLBACK, Scratch
from harness.host.toolchain import Toolchain
from harness.machine import gdb, written
from harness.machine.console import Console
from harness.machine.deadline import Deadline
from harness.machine.qemu import Launch, Memory, Sockets, argv
from harness.machine.stopped import is_stopped

STARTUP_SECONDS = 20.0
"""For QEMU to open its sockets; it needs a tenth of a second unless the host is overloaded."""


GOODBYE_SECONDS = 5.0
"""For a QEMU that closed its side to end."""

LOOK_SECONDS = 0.5
"""Between two looks at the events of a QEMU that lingers: the library may have read one, of which no socket tells."""

SAVE_SECONDS = 60.0

STATE_SPARE = 1 << 30
"""Bytes that a guest's state may have in addition to its memory."""

Form = TypeVar("Form")


class Status(TypedDict):
    """query-status and query-dump (QEMU's docs/interop/qmp-ref)."""

    status: str


class Migration(TypedDict, total=False):
    """query-migrate."""

    status: str


Index = TypedDict("Index", {"cpu-index": int})
"""An element of query-cpus-fast."""

MAX_SAID = 1 << 16
"""Bytes of what QEMU says on its standard error: what a pipe holds (pipe(7))."""

_TERMINATED = re.compile(r"terminating on signal (\d{1,2})\b")
"""What QEMU says when a signal ends it in order, with status 0 (qemu_kill_report() in system/runstate.c)."""

LAST_WORDS = 500
"""Characters of a last line, QEMU's or the console's, that an error quotes."""

LAST_CHARS = 1 << 16
"""Characters of the console within which its last line is sought."""

MAX_TMPDIR = 70
"""Bytes of a TMPDIR that leave room for /kharness-XXXXXXXX/t/console.sock."""


class Vm:
    """A QEMU process, started paused. Use as a context manager: leaving it ends QEMU.

    With `debug` gdb can attach, with `sequential` its CPUs take turns (:func:`argv`).

    `incoming` is the state of a saved guest. It lacks the memory if that is in the files of `memory`, which are then
    to be private; a guest whose memory is to be in files is booted with others (see :meth:`save`).

    Errors say whose fault they are: MachineLost when QEMU does not start, MachineEnded (for the crash oracle) when it
    stops answering later.
    """

    def __init__(
        self,
        launch: Launch,
        toolchain: Toolchain,
        incoming: Path | None = None,
        memory: Memory | None = None,
        *,
        debug: bool = False,
        sequential: bool = False,
    ) -> None:
        self.launch = launch
        self._memory, self._sequential = memory, sequential
        self._debug = debug
        self._scratch = Scratch(_short_folder())
        self.sockets = Sockets(self._scratch.path)
        self._toolchain = toolchain
        self._incoming = incoming
        self._process: Child | None = None
        self._qmp: QEMUMonitorProtocol | None = None
        self._console: Console | None = None
        self._agent: socket.socket | None = None
        self._monitor: socket.socket | None = None
        self._unsent = bytearray()
        self._lingers, self._reset = False, False
        self._said = b""
        self._stderr = -1

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
        binds = [Bind(self.launch.image), Bind(self.launch.initramfs), Bind(self.sockets.folder, writable=True)]
        if self._incoming:
            binds.append(Bind(self._incoming))
        if self._memory:
            binds.append(Bind(self._memory.folder, writable=not self._memory.private))
        more = [*confine.options(self._toolchain, self.launch.definition.qemu.binary)]
        more += gdb.stub(self.sockets) if self._debug else []
        saved, turns = self._incoming is not None, self._sequential
        whole = [*argv(self.launch, self.sockets, self._memory, incoming=saved, sequential=turns), *more]
        command = self._toolchain.argv(whole, binds=binds, kvm=self.launch.accelerator == "kvm")
        # A pipe: when it is full QEMU drops further output, so that it never waits for us, and fills no disk.
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._process = spawn(command, stdout=subprocess.DEVNULL, stderr=stderr)
        finally:
            os.close(stderr)
        deadline = Deadline(STARTUP_SECONDS, "QEMU to open its sockets")
        console = self._connect(self.sockets.console, deadline)
        self._console = Console(console)
        self._agent = self._connect(self.sockets.agent, deadline)
        monitor = self._connect(self.sockets.qmp, deadline)
        self._qmp, self._monitor = QEMUMonitorProtocol(monitor), monitor
        self._qmp.settimeout(STARTUP_SECONDS)
        self._greeted(monitor, deadline)
        try:
            with _cut_off(monitor, deadline.left):
                self._qmp.connect()
        except (QMPError, EOFError, ConnectionError) as error:
            self._qmp = None
            raise self._not_started() from error
        if self._incoming:
            self._leave_out_memory(self._memory is not None)
            self.qmp("migrate-incoming", uri=f"file:{self._incoming}")
            self._wait_migration("inmigrate", Deadline(STARTUP_SECONDS, "the snapshot to be read"))

    def _connect(self, path: Path, deadline: Deadline) -> socket.socket:
        """A connection to a socket that QEMU is about to open."""
        assert self._process is not None
        while True:
            try:
                return written.connect(path)
            except OSError:
                # The socket has no event of its own to wait for until it exists.
                time.sleep(0.003)
            if self._process.over(0):
                raise self._not_started()
            if deadline.expired:
                raise MachineLost(f"{deadline}: {path.name}", step="run 'kharness doctor'")

    def _greeted(self, monitor: socket.socket, deadline: Deadline) -> None:
        """Wait for QMP's greeting to begin: the library's own connect() has no deadline."""
        if not select.select([monitor], [], [], deadline.left)[0]:
            self._qmp = None
            raise MachineLost(f"{deadline}: QMP said nothing", step="run 'kharness doctor'")

    def _not_started(self) -> MachineLost:
        binary = self.launch.definition.qemu.binary
        return MachineLost(f"{binary} did not start: {self._last_words()}", step="run 'kharness doctor'")

    def _last_words(self) -> str:
        while self._stderr >= 0 and len(self._said) < MAX_SAID and select.select([self._stderr], [], [], 0)[0]:
            data = os.read(self._stderr, MAX_SAID)
            if not data:
                break
            self._said += data
        text = self._said.decode(errors="replace").strip()
        return text.splitlines()[-1][:LAST_WORDS] if text else "it said nothing"

    def close(self) -> None:
        """Ends QEMU and removes its folder; may be called twice."""
        if self._process is not None:
            end(self._process)  # first: closing a connection to a live QEMU may wait for it
        if self._qmp is not None:
            try:
                self._qmp.close()
            except (TimeoutError, QMPError, OSError, EOFError, ValueError):
                self._qmp = None  # it was gone before we said goodbye, or its last line had no end (ValueError)
        for channel in (self._agent, self._console):
            if channel is not None:
                channel.close()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1
        self._scratch.close()

    # --- monitor ----------------------------------------------------------------------

    def qmp(self, command: str, **arguments: object) -> Any:
        """One QMP command. Raises MachineEnded when QEMU is gone, MachineLost when it refuses."""
        if self._qmp is None:
            raise MachineLost(f"QMP {command}: QEMU is not running")
        try:
            answer = self._qmp.cmd(command, **arguments)
            if not self._lingers:
                self._qmp.clear_events()  # they are not used, and a guest can cause any number
            return answer
        except (TimeoutError, EOFError, ConnectionError, ExecInterruptedError, StateError) as error:
            raise self.gone(f"QMP {command}") from error
        except QMPError as error:
            raise MachineLost(f"QMP {command}: {error}") from error

    def resume(self) -> None:
        """Lets the guest run."""
        self.qmp("cont")

    def linger(self) -> None:
        """Let QEMU stay when the guest resets, as its memory is needed. Raises what :meth:`qmp` does."""
        self.qmp("set-action", reboot="shutdown", shutdown="pause")
        self._lingers = True

    def _has_reset(self) -> bool:
        """Whether the guest of a QEMU that lingers has ended by itself."""
        if self._lingers and not self._reset and self._qmp is not None:
            try:
                self._reset = any(_by_guest(event) for event in self._qmp.get_events())
            except (EOFError, ConnectionError, QMPError):
                return False  # QEMU went away: its sockets say so, too
        return self._reset

    def pass_file(self, name: str, file: int) -> None:
        """Pass QEMU an open file, as ``fd:NAME``. Raises what :meth:`qmp` does."""
        if self._qmp is None:
            raise MachineLost("QEMU is not running")
        try:
            self._qmp.send_fd_scm(file)
        except (OSError, QMPError) as error:
            raise self.gone("passing a file") from error
        self.qmp("getfd", fdname=name)

    def _leave_out_memory(self, out: bool) -> None:
        """Whether a state has no memory that is in files which the guest writes to (ram_save_setup() in QEMU's
        migration/ram.c). It must be read as it was written."""
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": out}])

    def save(self, path: Path) -> None:
        """Stop the guest and write its state to `path`, without its memory if that is in files.

        The guest goes on writing to these until QEMU has ended.
        """
        self.qmp("stop")
        inside = self.sockets.folder / "state"
        self._leave_out_memory(self._memory is not None and not self._memory.private)
        self.qmp("migrate", uri=f"file:{inside}")
        self._wait_migration("migrate", Deadline(SAVE_SECONDS, "the snapshot to be written"))
        written.take(inside, path, (self.launch.spec.memory_mib << 20) + STATE_SPARE)

    def memory(self, address: int, size: int) -> bytes:
        """The content of the guest's physical memory, even of a dead guest. Raises what :meth:`qmp` does."""
        return self._written("pmemsave", address, size)

    def _written(self, command: str, address: int, size: int, **arguments: object) -> bytes:
        """The memory that QEMU writes to a file by this command."""
        inside = self.sockets.folder / "memory"
        written.clear(inside)
        self.qmp(command, val=address, size=size, filename=str(inside), **arguments)
        return written.read(inside, size)

    def registers(self, cpu: int) -> str:
        """One CPU's registers as QEMU prints them. Raises what :meth:`qmp` does."""
        return str(self.qmp("human-monitor-command", **{"command-line": "info registers", "cpu-index": cpu}))

    def peek(self, address: int, size: int, cpu: int) -> bytes:
        """The memory at a virtual address of this CPU; empty where it is not mapped. Raises MachineEnded as qmp()."""
        try:
            return self._written("memsave", address, size, **{"cpu-index": cpu})
        except MachineLost:
            return b""

    def _wait_migration(self, direction: str, deadline: Deadline) -> None:
        """Poll until the migration is done: QMP has no blocking wait."""
        while True:
            if direction == "inmigrate":
                done, failed = ask(self, Status, "query-status")["status"] != "inmigrate", False
            else:
                status = ask(self, Migration, "query-migrate").get("status")
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
        """The console since the machine started; a line says so where some is missing (:attr:`Console.lost`)."""
        self.console.drain()
        return self.console.lines

    @property
    def console(self) -> Console:
        """The console of a machine that was started."""
        assert self._console is not None
        return self._console

    def expect(self, patterns: Sequence[str], deadline: Deadline) -> int:
        """Waits until the console shows one of `patterns` (regular expressions); returns which.

        Raises MachineEnded at the deadline and when QEMU is gone.
        """
        with self._reading(deadline):
            return self.console.expect(patterns, deadline.left)

    def line(self, deadline: Deadline) -> str:
        """The console's next whole line. Raises what :meth:`expect` does."""
        with self._reading(deadline):
            return self.console.line(deadline.left)

    @contextmanager
    def _reading(self, deadline: Deadline) -> Iterator[None]:
        """Turn pexpect's exceptions into the end of a wait for a machine."""
        try:
            yield
        except pexpect.TIMEOUT as error:
            raise self.expired(deadline) from error
        except pexpect.EOF as error:
            raise self.gone(deadline.what) from error

    def send(self, data: bytes) -> None:
        """Send data to the agent; what it does not take at once is sent while :meth:`receive` waits.

        Raises MachineEnded.
        """
        self._unsent += data
        self._pass_on()

    def _pass_on(self) -> None:
        """Send the agent as much as it takes."""
        assert self._agent is not None
        try:
            while self._unsent:
                sent = self._agent.send(self._unsent, socket.MSG_DONTWAIT)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError as error:
            raise self.gone("writing to the agent") from error

    def receive(self, deadline: Deadline, fatal: re.Pattern[str] | None = None, grace: float = 0.0) -> bytes:
        """The agent's data, at least one byte; drains the console meanwhile, so that the guest does not block on it.

        Once the console has shown `fatal`, it waits at most `grace` seconds. Raises MachineEnded at the deadline
        and when QEMU is gone.
        """
        assert self._agent is not None
        hurried = False
        assert self._monitor is not None
        agent, console = self._agent.fileno(), self.console.fileno()
        while True:
            if fatal and not hurried and self.console.ever(fatal):
                hurried, deadline = True, Deadline(min(deadline.left, grace), deadline.what)
            if self._has_reset():
                raise self.gone(deadline.what)
            monitor = self._monitor.fileno() if self._lingers else -1  # -1 also once the library has found its end
            channels = [agent, console] if monitor < 0 else [agent, console, monitor]
            seconds = min(deadline.left, LOOK_SECONDS) if self._lingers else deadline.left
            ready, takes, _ = select.select(channels, [agent] if self._unsent else [], [], seconds)
            if takes:
                self._pass_on()
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
            if deadline.expired:
                raise self.expired(deadline)

    def attend(self, seconds: float, wake: int) -> None:
        """Drain the console until the deadline, or until the descriptor `wake` can be read.

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
        """The end of a wait for a machine whose QEMU runs, or was stopped from outside, which says nothing about it."""
        if self._process is not None and is_stopped(self._process.pid):
            what = f"QEMU was stopped during: {deadline.what}"
            return MachineEnded(what, Ended(How.STOPPED), self.console_lines, expired=False)
        return MachineEnded(
            f"{deadline}; last console line: {self._last_line()}",
            Ended(How.RUNNING),
            self.console_lines,
            expired=True,
            waiting=f"{deadline.what}, {deadline.seconds:.0f} s",
        )

    def _last_line(self) -> str:
        self.console.drain()
        lines = self.console.since(max(0, self.console.shown - LAST_CHARS)).splitlines()
        return next((line[:LAST_WORDS] for line in reversed(lines) if line.strip()), "(none)")

    def gone(self, what: str) -> MachineEnded:
        """The end of a machine whose QEMU closed its side: wait for its exit status and say how it ended."""
        ended = Ended(How.SILENT)
        if self._has_reset():
            ended = Ended(How.EXITED, status=0)  # what it does where it need not linger
        elif self._process is not None:
            try:
                ended = _ended(self._process.wait(timeout=GOODBYE_SECONDS))
                if ended.status == 0 and (signalled := _TERMINATED.search(self._last_words())):
                    ended = Ended(How.KILLED, signal=int(signalled[1]))
            except subprocess.TimeoutExpired:
                ended = Ended(How.STOPPED if is_stopped(self._process.pid) else How.SILENT)
        lines = self.console_lines
        return MachineEnded(f"QEMU ended during: {what}; last console line: {self._last_line()}", ended, lines, False)

    @property
    def pid(self) -> int:
        """The pid of the process that we started (the sandbox around QEMU)."""
        assert self._process is not None
        return self._process.pid


def cpus(vm: Vm) -> list[int]:
    """The indices of a machine's CPUs. Raises what :func:`ask` does."""
    return [cpu["cpu-index"] for cpu in ask(vm, list[Index], "query-cpus-fast")]


def ask(vm: Vm, form: type[Form], command: str, **arguments: object) -> Form:
    """One QMP command whose answer has this form. Raises what :meth:`Vm.qmp` does, MachineLost for another form."""
    try:
        return msgspec.convert(vm.qmp(command, **arguments), form)
    except msgspec.ValidationError as error:
        raise MachineLost(f"QMP {command}: QEMU answered garbage: {error}") from error


@contextmanager
def _cut_off(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Shut the connection down if the block takes longer than the deadline: then its reader sees the end of it."""
    own = sock.dup()
    timer = threading.Timer(seconds, own.shutdown, [socket.SHUT_RDWR])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        own.close()


def _short_folder() -> str:
    """The folder for sockets: TMPDIR, unless a socket's path there would exceed the 107 bytes of sun_path (unix(7))."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) < MAX_TMPDIR else FALLBACK


def _by_guest(event: Mapping[str, Any]) -> bool:
    """Whether an event tells that the guest has ended by itself, and not by a signal to QEMU."""
    return event["event"] == "SHUTDOWN" and bool(event.get("data", {}).get("guest", True))


def _ended(status: int) -> Ended:
    """From a wait status as subprocess and a sandbox's shell give it (128 + signal)."""
    if status < 0:
        return Ended(How.KILLED, signal=-status)
    if status > 128:
        return Ended(How.KILLED, signal=status - 128)
    return Ended(How.EXITED, status=status)
