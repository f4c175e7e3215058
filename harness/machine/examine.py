# SPDX-License-Identifier: GPL-2.0-only
"""Looking at a guest that answers no more, from outside: what its CPUs do, and what its kernel says when asked.

Registers come from QEMU and cost the guest nothing. The kernel is asked by a break on the serial console and a letter
(CONFIG_MAGIC_SYSRQ_SERIAL, Documentation/admin-guide/sysrq.rst): that works as long as the CPU that gets the console's
interrupt takes interrupts. An NMI shows no stacks: x86's says only that it came, arm64's machine has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.machine import registers
from harness.machine.deadline import Deadline
from harness.machine.registers import Cpu, Peek
from harness.machine.vm import Status, Vm, ask
from harness.machine.vm import cpus as indices_of

EXAMINE_SECONDS = 60.0
"""Nominal, for the whole examination; a single command of QEMU's monitor may take longer (vm.STARTUP_SECONDS)."""

REACT_SECONDS = 3.0
"""Nominal, for the kernel to begin its answer to the first letter; it begins within 20 ms."""

ANSWER_SECONDS = 20.0
"""Nominal, for one answer to end: all tasks take 2 s, and the backtraces of CPUs of which one does not react 10
(nmi_trigger_cpumask_backtrace() in lib/nmi_backtrace.c)."""

SILENT_SECONDS = 0.3
"""Nominal: a console that was silent for so long has printed everything; it prints a line in 1 ms."""

NOTHING = re.compile(r"(?!)")

MUTE_SECONDS = 12.0
"""Nominal: an arm64 that waits for a CPU prints only afterwards (nbcon), and would wait again for each letter."""

END = ("h", "HELP : ")
"""A letter whose answer is one line: when it comes, the request before has been answered."""

LETTERS = (
    ("w", "Show Blocked State", SILENT_SECONDS),
    ("t", "Show State", SILENT_SECONDS),
    ("l", "Show backtrace of all active CPUs", MUTE_SECONDS),
)
"""What the kernel is asked (drivers/tty/sysrq.c): blocked tasks, all tasks, all CPUs. After so much silence (nominal
seconds) it is asked again."""


class Reader(Protocol):
    """Reads one structure of a kernel from the memory of a guest that may be dead and may contain anything.

    `what` names the structure in the plural ("the local queues"), `culprit` the function to blame where it is wrong.
    """

    what: str
    culprit: str

    def look(self, vm: Vm, deadline: Deadline | None = None) -> Sequence[Any]:
        """Its present content; what is not reached by the deadline is left out. Raises what Vm.qmp does."""

    def unseen(self, seen: Sequence[Any]) -> str:
        """The part that was not seen ("1 of 8 local queues"), empty where all was."""

    def wrong(self, first: Sequence[Any], later: Sequence[Any]) -> list[str]:
        """What is certainly wrong, as it was so in both of two readings, a line each."""


@dataclass(frozen=True)
class Reading:
    """What a reader saw before the kernel was asked by sysrq, and after."""

    reader: Reader
    first: tuple[Any, ...]
    later: tuple[Any, ...]

    @property
    def wrong(self) -> list[str]:
        return self.reader.wrong(self.first, self.later)


@dataclass(frozen=True)
class Examination:
    """What was seen. `cpus` are their states before the kernel was asked, `later` after; `said` are the console's lines
    of its answers, `readings` what a suite's readers saw. `why` says what could not be read."""

    cpus: tuple[Cpu, ...] = ()
    later: tuple[Cpu, ...] = ()
    said: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()


class Hung(MachineEnded):
    """A machine that stopped answering while QEMU ran, and was examined."""

    def __init__(self, error: MachineEnded, examined: Examination) -> None:
        super().__init__(error.what, error.ended, error.lines, error.expired, error.waiting)
        self.examined = examined


def look_into(vm: Vm, error: MachineEnded, scale: float, readers: Sequence[Reader] = ()) -> MachineEnded:
    """Examine a hang: returns a :class:`Hung`. `scale` stretches every deadline; `readers` read the guest's memory.

    Any other end is returned as it is. If QEMU turns out to be gone, or to have stopped the guest by itself, that is
    no hang: then its end is returned.
    """
    if isinstance(error, Hung) or not error.expired or error.ended.how is not How.RUNNING:
        return error
    try:
        status = ask(vm, Status, "query-status")["status"]
    except MachineEnded as gone:
        return gone
    except MachineLost as refused:
        return Hung(error, Examination(why=(refused.what,)))
    if status != "running":
        what = f"QEMU stopped the guest: {status}"
        return MachineEnded(what, Ended(How.SILENT), error.lines, expired=False)
    return Hung(error, examine(vm, scale, readers))


def examine(vm: Vm, scale: float, readers: Sequence[Reader] = ()) -> Examination:
    """Look at every CPU, ask the kernel, and look again. Failures are reported in the answer's `why`, never raised."""
    whole = Deadline(EXAMINE_SECONDS * scale, "the guest to be examined")
    why: list[str] = []
    vm.console.drain()
    before = vm.console.shown
    with vm.console.listening():
        cpus, first = _cpus(vm, whole, why), [_read(vm, reader, whole, why) for reader in readers]
        _ask(vm, scale, whole, why)
        later = _cpus(vm, whole, why) if cpus else ()
        readings = tuple(
            Reading(reader, seen, _read(vm, reader, whole, why))
            for reader, seen in zip(readers, first, strict=True)
            if seen
        )
    said = tuple(vm.console.since(before).splitlines())
    return Examination(cpus, later, said, tuple(dict.fromkeys(why)), readings)


def _within(whole: Deadline, peek: Peek) -> Peek:
    """The same memory, which reads as unmapped after the deadline."""
    return lambda address, size: b"" if whole.expired else peek(address, size)


def _read(vm: Vm, reader: Reader, whole: Deadline, why: list[str]) -> tuple[Any, ...]:
    """What a reader sees now."""
    try:
        found = tuple(reader.look(vm, whole))
        if unseen := reader.unseen(found):
            why.append(f"{unseen} were not seen")
        return found
    except MachineEnded:
        why.append(f"QEMU went away while {reader.what} were looked at")
    except MachineLost as error:
        why.append(f"{reader.what} could not be looked at: {error.what}")
    return ()


def _ask(vm: Vm, scale: float, whole: Deadline, why: list[str]) -> None:
    """Let the kernel print its tasks and CPUs on the console, by sysrq."""
    pause = SILENT_SECONDS * scale
    for number, (letter, header, silence) in enumerate(LETTERS):
        seconds = (ANSWER_SECONDS if number else REACT_SECONDS) * scale
        try:
            _letter(vm, letter, header, Deadline(min(seconds, whole.left), "the kernel to answer"), silence * scale)
            ending = Deadline(min(ANSWER_SECONDS * scale, whole.left), "the kernel to end its answer")
            vm.console.until(NOTHING, vm.console.shown, pause, ending)  # before that it would miss the break
            _letter(vm, *END, ending, pause)
        except MachineEnded as error:
            if error.expired:
                why.append(f"sysrq-{letter} on the console: {error.what.partition(';')[0]}")
            else:
                why.append(f"QEMU went away while sysrq-{letter} was asked for")
            return
        except MachineLost as error:
            why.append(f"the console takes no break: {error.what}")
            return


def _letter(vm: Vm, letter: str, header: str, deadline: Deadline, silence: float) -> None:
    """Send a break and a letter until the answer's first line comes, each time after the console was silent.

    A guest that prints may miss a break or what follows it, and a second break cancels the first
    (uart_handle_break() in include/linux/serial_core.h). Raises MachineEnded at the deadline.
    """
    seen = vm.console.shown
    answer = re.compile(rf"sysrq: {re.escape(header)}[^\n]*\n")
    while True:
        vm.qmp("chardev-send-break", id="console")
        try:
            vm.console.type(letter.encode())
        except OSError as error:
            raise vm.gone(deadline.what) from error
        found = vm.console.until(answer, seen, silence, deadline)
        if found:
            return
        if found is None:
            raise vm.gone(deadline.what)
        if deadline.expired:
            raise vm.expired(deadline)


def _cpus(vm: Vm, whole: Deadline, why: list[str]) -> tuple[Cpu, ...]:
    """Registers and stacks, one CPU after the other, while the guest is stopped."""
    out: list[Cpu] = []
    try:
        vm.qmp("stop")
        try:
            indices = indices_of(vm)
            for index in indices:
                if whole.expired:
                    why.append(f"{whole}: {len(indices) - len(out)} of {len(indices)} CPUs were not looked at")
                    break
                out.append(registers.read(index, vm.registers(index), _within(whole, partial(vm.peek, cpu=index))))
        finally:
            vm.resume()
    except MachineEnded:
        why.append("QEMU went away while the CPUs were looked at")
    except MachineLost as error:
        why.append(f"the CPUs could not be looked at: {error.what}")
    return tuple(out)
