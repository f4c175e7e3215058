# SPDX-License-Identifier: GPL-2.0-only
"""Owns `kharness shell`: one kernel built and booted, or a kept guest, with a person or a command in it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from harness.build.symbols import Symbols
from harness.errors import Ended, Exit, How, KernelFailure, KharnessError, MachineEnded
from harness.guest import files, kept, pristine, remote, terminal
from harness.guest.booted import Booted
from harness.guest.guest import Guest
from harness.guest.remote import Remote
from harness.guest.ssh import Reachable
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain, open_toolchain
from harness.journal import Journal
from harness.machine import gdb
from harness.oracles import crash, dmesg
from harness.oracles.frames import Symbolize
from harness.oracles.log import parse_console
from harness.oracles.rules import STALLS
from harness.plan import Plan, Visit
from harness.prepare import Workbench
from harness.records import Kernel
from harness.report.text import clean, place
from harness.sources import Sources

UNTOLD = 255
"""The exit status when the guest lives and what ran there ended without a status; ssh(1) has the same."""

CLOSED = 128 + signal.SIGPIPE
"""What a command has that nobody reads from."""


class Ear:
    """Hears what the kernel says on the console meanwhile, and says each report once.

    With `patience` a CPU that is stuck is worth a line; without it the session ends, for no one sits there to see it.
    """

    def __init__(self, symbols: Symbolize | None, patience: bool) -> None:
        self._symbols = symbols
        self._patience = patience
        self._length = 0
        self._told: set[str] = set()

    def __call__(self, lines: Sequence[str]) -> None:
        """Raises MachineEnded for a lockup or a stall."""
        if len(lines) == self._length:
            return
        self._length = len(lines)
        for found in dmesg.findings(parse_console(lines), self._symbols):
            if found.kind in STALLS - {"hung task"} and not self._patience:
                raise MachineEnded(found.title, Ended(How.RUNNING), lines, expired=True, waiting="the command")
            if found.title not in self._told:  # not its signature, which grows with a report under way
                self._told.add(found.title)
                where = f" in {place(found)}" if place(found) else ""
                say(f"the kernel's log has: {found.kind}: {found.title}{where}")


def say(line: str) -> None:
    """A line on stderr, also while the terminal is raw."""
    start, end = ("\r", "\r\n") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{clean(line)}", end=end, file=sys.stderr, flush=True)


def judged(error: MachineEnded, symbols: Symbolize | None) -> KharnessError:
    """What the crash oracle says of a machine that ended: the kernel's failure, or QEMU's."""
    found = crash.findings(error.lines, error.ended, error.expired, error.waiting, symbols)
    if not found:
        return crash.classify(error.lines, error.ended, error.expired, error.waiting) or error
    where = f" in {place(found[0])}" if place(found[0]) else ""
    return KernelFailure(found[0].kind, clean(found[0].title + where), detail=clean("\n".join(found[0].log)))


class Shell:
    """One visit to a guest."""

    def __init__(self, plan: Plan, visit: Visit) -> None:
        self._plan = plan
        self._visit = visit
        self._puts = [files.put_of(text) for text in visit.put]
        self._gets = [files.get_of(text, visit.force) for text in visit.get]
        self._old = kept.read(Path(visit.kept)) if visit.kept else None
        self._person = not visit.command and terminal.interactive()
        self._cache = Cache.default(plan.cache_cap_gib << 30)
        self._progress = Progress(self._cache.folder("durations"))

    def run(self) -> int:
        """Everything; the exit status. Raises what is ours: usage, host trouble, a kernel that failed."""
        if self._old is not None:
            kernel = self._old.target.kernel
            toolchain = open_toolchain(self._old.toolchain, kernel.arch, self._cache, self._progress)
            # The guest holds its kernel; vmlinux was the cache's and may be pruned.
            symbols = Symbols(Path(kernel.vmlinux), toolchain) if Path(kernel.vmlinux).exists() else None
            guest = kept.restore(Path(self._visit.kept), self._old, toolchain)
            return self._in(guest, kernel, symbols, f"as {self._old.test} left it ({self._old.why})")
        toolchain = open_toolchain(self._plan.toolchain, self._plan.kernels[0].arch, self._cache, self._progress)
        with tempfile.TemporaryDirectory(prefix="kharness-") as scratch, Journal(Path(os.devnull), "") as journal:
            sources = Sources(self._plan, toolchain, self._cache, self._progress, Path(scratch))
            workbench = Workbench(self._plan, toolchain, self._cache, self._progress, journal, sources)
            return self._built(workbench, toolchain)

    def _built(self, workbench: Workbench, toolchain: Toolchain) -> int:
        kernel, tree = workbench.build(self._plan.kernels[0])
        (launch,), _ = workbench.launches(kernel, tree, self._plan.machines)
        launch, chosen = workbench.accelerated(launch)
        symbols = Symbols(Path(kernel.vmlinux), toolchain)
        about = f"{launch.spec.name}, {chosen.name}"
        if self._visit.gdb:
            if "CONFIG_RANDOMIZE_BASE=y" in Path(kernel.config).read_text().splitlines():
                launch = replace(launch, cmdline=f"{launch.cmdline} nokaslr")
            booted = Booted(launch, toolchain)
            line = gdb.command(launch.definition, Path(kernel.vmlinux), tree.path, booted.vm.sockets.gdb)
            return self._in(booted, kernel, symbols, about, line)
        with _judging(symbols):
            name = Path(kernel.path).name
            saved = pristine.ensure(launch, name, symbols, toolchain, self._cache, self._progress)
        return self._in(Guest(saved, toolchain), kernel, symbols, about)

    def _in(
        self, machine: Guest | Booted, kernel: Kernel, symbols: Symbolize | None, about: str, attach: str = ""
    ) -> int:
        """The visit itself, in a guest that is not yet entered."""
        with _judging(symbols), machine:
            if isinstance(machine, Booted):
                say("the machine stands at its first instruction until this gdb says 'continue':")
                say(attach)
                machine.up(lambda line: print(clean(line), file=sys.stderr))
            prompt = f"export PS1='{kernel.arch} {kernel.release} \\w # '\n"
            machine.agent.call("write", record=False, path="/root/.profile", data=prompt, mode="644")
            # Somebody who sits there, or before gdb, decides himself what is too long.
            ear = Ear(symbols, self._person or self._visit.gdb)
            patience = None if self._visit.gdb else remote.PATIENCE
            with remote.session(machine, ear, patience) as session:
                return self._session(session, machine, ear, f"{kernel.arch} {kernel.release} ({about})")

    def _session(self, session: Remote, machine: Reachable, ear: Ear, about: str) -> int:
        for wish in self._puts:
            files.put(session, wish)
        if self._person:
            say(f"{about}: 'exit' or ~. at the beginning of a line leaves; nothing in this guest stays.")
        status = self._talk(session)
        if status is None:  # left in a hurry
            return Exit.PASS
        for fetched in self._gets:
            files.get(session, fetched, self._visit.force)
        session.settle()
        lines = machine.vm.console_lines
        ear(lines)
        if crash.classify(lines, Ended(How.RUNNING), False):  # an oops that the guest survived
            raise MachineEnded("the kernel oopsed", Ended(How.RUNNING), lines, expired=False)
        return Exit.PASS if self._person else status

    def _talk(self, session: Remote) -> int | None:
        """The shell or the command: its exit status, UNTOLD if it had none, None where the person left."""
        command = remote.shell_line(self._visit.command) if self._visit.command else None
        if not self._person:
            with session.channel(command) as channel:
                terminal.Carrier(channel).run()
                status = channel.recv_exit_status()
        else:
            with session.channel(None, terminal.size()) as channel, terminal.raw(), terminal.resized() as resize:
                if not terminal.Carrier(channel, terminal.Escape(), resize).run():
                    return None
                status = channel.recv_exit_status()
        if status >= 0:
            return status
        session.settle()
        print("kharness: the guest lives, but its SSH server ended before what ran there: no status", file=sys.stderr)
        return UNTOLD


@contextlib.contextmanager
def _judging(symbols: Symbolize | None) -> Iterator[None]:
    """Whatever ends the machine in the block comes out as the crash oracle's word."""
    try:
        yield
    except MachineEnded as error:
        raise judged(error, symbols) from error


def _hung_up(number: int, frame: object) -> NoReturn:
    """The terminal is gone: ends as Ctrl-C does, so that nothing stays behind."""
    raise KeyboardInterrupt


def visit(plan: Plan, wish: Visit) -> int:
    """`kharness shell`: its exit status; see :class:`Shell`."""
    signal.signal(signal.SIGHUP, _hung_up)
    try:
        return Shell(plan, wish).run()
    except terminal.OutputClosed:
        return CLOSED
