# SPDX-License-Identifier: GPL-2.0-only
"""One kernel built and booted, or a kept guest, with an interactive shell or a command in it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import Ended, Exit, How, KernelFailure, KharnessError, MachineEnded
from harness.core.event_log import EventLog
from harness.core.options import ShellOptions
from harness.core.plan import Plan
from harness.core.records import Kernel
from harness.guest import files, kept, pristine, remote, terminal
from harness.guest.booted import Booted
from harness.guest.guest import Guest
from harness.guest.remote import Remote
from harness.guest.ssh import Reachable
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.scratch import private_folder, sweep
from harness.host.toolchain import Toolchain, open_toolchain
from harness.kbuild.symbols import Symbols
from harness.machine import gdb
from harness.oracles import crash, dmesg
from harness.oracles.splat.frames import Symbolize
from harness.oracles.splat.log import parse_console
from harness.oracles.splat.rules import STALLS
from harness.report.text import clean, one_line, place
from harness.run.targets import Workbench
from harness.run.trees import Sources
from harness.suite import loader

NO_STATUS = 255
"""The exit status when the guest lives and the command ended without a status; ssh(1) has the same."""

CLOSED = 128 + signal.SIGPIPE
"""The exit status of a command whose output has lost its reader."""


class Ear:
    """Watches the console during a session, and shows each report of the kernel once.

    With `patience` a stuck CPU is reported by a line; without it the session ends, as it is not interactive.
    """

    def __init__(self, symbols: Symbolize | None, patience: bool) -> None:
        self._symbols = symbols
        self._patience = patience
        self._length = 0
        self._reported: set[str] = set()

    def __call__(self, lines: Sequence[str]) -> None:
        """Check the console's new lines. Raises MachineEnded for a lockup or a stall."""
        if len(lines) == self._length:
            return
        self._length = len(lines)
        for found in dmesg.findings(parse_console(lines), self._symbols):
            if found.kind in STALLS - {"hung task"} and not self._patience:
                raise MachineEnded(found.title, Ended(How.RUNNING), lines, expired=True, waiting="the command")
            if found.title not in self._reported:  # not its signature, which changes while a report is printed
                self._reported.add(found.title)
                where = f" in {place(found)}" if place(found) else ""
                say(f"the kernel's log has: {found.kind}: {found.title}{where}")


def say(line: str) -> None:
    """Print a line on stderr, also while the terminal is raw."""
    start, end = ("\r", "\r\n") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{one_line(line)}", end=end, file=sys.stderr, flush=True)


def judged(error: MachineEnded, symbols: Symbolize | None) -> KharnessError:
    """The crash oracle's verdict on the end of a machine: the kernel's failure, or QEMU's."""
    found = crash.findings(error.lines, error.ended, error.expired, error.waiting, symbols)
    if not found:
        return crash.classify(error.lines, error.ended, error.expired, error.waiting) or error
    where = f" in {place(found[0])}" if place(found[0]) else ""
    return KernelFailure(found[0].kind, clean(found[0].title + where), detail=clean("\n".join(found[0].log)))


class Shell:
    """One shell, or one command, in a guest."""

    def __init__(self, plan: Plan, options: ShellOptions) -> None:
        self._plan = plan
        self._options = options
        self._puts = [files.put_of(text) for text in options.put]
        self._gets = [files.get_of(text, options.force) for text in options.get]
        self._old = kept.read(Path(options.kept)) if options.kept else None
        self._person = not options.command and terminal.interactive()
        self._cache = Cache.default(plan.cache_cap_gib << 30)
        self._progress = Progress(self._cache.folder("durations"))
        sweep(self._progress.say)

    def run(self) -> int:
        """Do everything; returns the exit status. Raises errors of usage and of the host, and a kernel's failure."""
        if self._old is not None:
            kernel = self._old.target.kernel
            toolchain = open_toolchain(self._old.toolchain, kernel.arch, self._cache, self._progress)
            # The guest has its kernel; vmlinux was in the cache and may be pruned. Any other file does not count.
            vmlinux = Path(kernel.vmlinux).resolve()
            ours = vmlinux.is_relative_to(self._cache.root.resolve()) and vmlinux.is_file()
            symbols = Symbols(vmlinux, toolchain) if ours else None
            guest = kept.restore(Path(self._options.kept), self._old, toolchain)
            return self._in(guest, kernel, symbols, f"as {self._old.test} left it ({self._old.why})")
        arch = self._plan.kernels[0].arch
        toolchain = open_toolchain(self._plan.options.toolchain, arch, self._cache, self._progress)
        with private_folder() as scratch, EventLog(Path(os.devnull), "") as event_log:
            sources = Sources(self._plan, toolchain, self._cache, self._progress, scratch)
            workbench = Workbench(self._plan, toolchain, self._cache, self._progress, event_log, sources)
            return self._built(workbench, toolchain)

    def _built(self, workbench: Workbench, toolchain: Toolchain) -> int:
        kernel, tree = workbench.build(self._plan.kernels[0])
        (launch,), _ = workbench.launches(kernel, tree, self._plan.machines)
        launch, chosen = workbench.accelerated(launch)
        symbols = Symbols(Path(kernel.vmlinux), toolchain)
        about = f"{launch.spec.name}, {chosen.name}"
        if self._options.gdb:
            if "CONFIG_RANDOMIZE_BASE=y" in Path(kernel.config).read_text().splitlines():
                launch = replace(launch, cmdline=f"{launch.cmdline} nokaslr")
            booted = Booted(launch, toolchain)
            line = gdb.command(launch.definition, Path(kernel.vmlinux), tree.path, booted.vm.sockets.gdb)
            return self._in(booted, kernel, symbols, about, line)
        with _judging(symbols):
            name = Path(kernel.path).name
            functions = loader.of(self._plan.suite).code.functions
            saved = pristine.ensure(launch, name, symbols, toolchain, self._cache, self._progress, functions)
        return self._in(Guest(saved, toolchain), kernel, symbols, about)

    def _in(
        self, machine: Guest | Booted, kernel: Kernel, symbols: Symbolize | None, about: str, attach: str = ""
    ) -> int:
        """The session itself, in a guest that is not yet entered."""
        with _judging(symbols), machine:
            if isinstance(machine, Booted):
                say("the machine stands at its first instruction until this gdb says 'continue':")
                say(attach)
                machine.up(lambda line: print(one_line(line), file=sys.stderr))
            prompt = f"export PS1='{kernel.arch} {kernel.release} \\w # '\n"
            machine.agent.call("write", record=False, path="/root/.profile", data=prompt, mode="644")
            # In an interactive session, or with gdb, the user decides what is too long.
            ear = Ear(symbols, self._person or self._options.gdb)
            patience = None if self._options.gdb else remote.PATIENCE
            with remote.session(machine, ear, patience) as session:
                return self._session(session, machine, ear, f"{kernel.arch} {kernel.release} ({about})")

    def _session(self, session: Remote, machine: Reachable, ear: Ear, about: str) -> int:
        for sent in self._puts:
            files.put(session, sent)
        if self._person:
            say(f"{about}: 'exit' or ~. at the beginning of a line leaves; nothing in this guest stays.")
        status = self._talk(session)
        if status is None:  # the user left by ~.
            return Exit.PASS
        for fetched in self._gets:
            files.get(session, fetched, self._options.force)
        session.settle()
        lines = machine.vm.console_lines
        ear(lines)
        if crash.classify(lines, Ended(How.RUNNING), False):  # an oops that the guest survived
            raise MachineEnded("the kernel oopsed", Ended(How.RUNNING), lines, expired=False)
        return Exit.PASS if self._person else status

    def _talk(self, session: Remote) -> int | None:
        """Run the shell or the command; returns its exit status, NO_STATUS if it had none, None if the user left."""
        command = remote.shell_line(self._options.command) if self._options.command else None
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
        print("kharness: the guest lives, but its SSH server ended before the command: no status", file=sys.stderr)
        return NO_STATUS


@contextlib.contextmanager
def _judging(symbols: Symbolize | None) -> Iterator[None]:
    """Turn an end of the machine in the block into the crash oracle's verdict."""
    try:
        yield
    except MachineEnded as error:
        raise judged(error, symbols) from error


def visit(plan: Plan, options: ShellOptions) -> int:
    """`kharness shell`: its exit status; see :class:`Shell`."""
    try:
        return Shell(plan, options).run()
    except terminal.OutputClosed:
        return CLOSED
