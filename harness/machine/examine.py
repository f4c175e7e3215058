# SPDX-License-Identifier: GPL-2.0-only
"""Owns looking at a guest that answers no more, from outside: what its CPUs do, and what its kernel says when asked.

Registers come from QEMU and cost the guest nothing. The kernel is asked by a break on the serial console and a letter
(CONFIG_MAGIC_SYSRQ_SERIAL, Documentation/admin-guide/sysrq.rst): that works as long as the CPU that gets the console's
interrupt takes interrupts. An NMI shows no stacks: x86's says only that it came, arm64's machine has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from harness.errors import Ended, How, MachineEnded, MachineLost
from harness.machine import local_dsqs, registers
from harness.machine.deadline import Deadline
from harness.machine.local_dsqs import Layout, LocalDsq
from harness.machine.registers import Cpu
from harness.machine.vm import Vm

EXAMINE_SECONDS = 60.0
"""Nominal, for all of it together."""

REACT_SECONDS = 3.0
"""Nominal, for the kernel to begin its answer to the first letter; it begins within 20 ms."""

TELL_SECONDS = 20.0
"""Nominal, for one answer to end: all tasks take 2 s, and the backtraces of CPUs of which one does not react 10
(nmi_trigger_cpumask_backtrace() in lib/nmi_backtrace.c)."""

QUIET_SECONDS = 0.3
"""Nominal: a console that was silent for so long has printed what it had; it prints a line in 1 ms."""

NOTHING = re.compile(r"(?!)")

MUTE_SECONDS = 12.0
"""Nominal: an arm64 that waits for a CPU prints only afterwards (nbcon), and would wait again for each letter."""

END = ("h", "HELP : ")
"""A letter whose answer is one line: when it comes, what was asked before has been answered."""

LETTERS = (
    ("w", "Show Blocked State", QUIET_SECONDS),
    ("t", "Show State", QUIET_SECONDS),
    ("l", "Show backtrace of all active CPUs", MUTE_SECONDS),
)
"""What the kernel is asked (drivers/tty/sysrq.c): blocked tasks, all tasks, all CPUs. After so much silence (nominal
seconds) it is asked again."""


@dataclass(frozen=True)
class Examination:
    """What was seen. `cpus` and `queues` as they stood before the kernel was asked, `later` and `queues_later` after;
    `said` are the console's lines of its answers. `why` tells what could not be had."""

    cpus: tuple[Cpu, ...] = ()
    later: tuple[Cpu, ...] = ()
    said: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    queues: tuple[LocalDsq, ...] = ()
    queues_later: tuple[LocalDsq, ...] = ()


class Hung(MachineEnded):
    """A machine that stopped answering while QEMU ran, and was examined."""

    def __init__(self, error: MachineEnded, examined: Examination) -> None:
        super().__init__(error.what, error.ended, error.lines, error.expired, error.waiting)
        self.examined = examined


def look_into(vm: Vm, error: MachineEnded, scale: float, layout: Layout | None = None) -> MachineEnded:
    """The same end, examined if it is a hang: a :class:`Hung`. `scale` stretches every deadline.

    With `layout` the local DSQs of all CPUs are read, too.

    Any other end comes back as it is. A QEMU that turns out to be gone, or to have stopped the guest by itself, is no
    hang: then its end is what comes back.
    """
    if isinstance(error, Hung) or not error.expired or error.ended.how is not How.RUNNING:
        return error
    try:
        status = vm.qmp("query-status")["status"]
    except MachineEnded as gone:
        return gone
    except MachineLost as refused:
        return Hung(error, Examination(why=(refused.what,)))
    if status != "running":
        what = f"QEMU stopped the guest: {status}"
        return MachineEnded(what, Ended(How.SILENT), error.lines, expired=False)
    return Hung(error, examine(vm, scale, layout))


def examine(vm: Vm, scale: float, layout: Layout | None = None) -> Examination:
    """Looks at every CPU, asks the kernel, and looks again. What fails is told in the answer's `why`, never raised."""
    whole = Deadline(EXAMINE_SECONDS * scale, "the guest to be examined")
    why: list[str] = []
    before = len(vm.console_lines)
    with vm.console.listening():
        cpus, queues = _cpus(vm, whole, why), _queues(vm, layout, why)
        _ask(vm, scale, whole, why)
        later = _cpus(vm, whole, why) if cpus else ()
        queues_later = _queues(vm, layout, why) if queues else ()
    said, told = tuple(vm.console_lines[before:]), tuple(dict.fromkeys(why))
    return Examination(cpus, later, said, told, queues, queues_later)


def _queues(vm: Vm, layout: Layout | None, why: list[str]) -> tuple[LocalDsq, ...]:
    """The local DSQs, where it is known where they lie."""
    if layout is None:
        return ()
    try:
        return local_dsqs.look(vm, layout)
    except MachineEnded:
        why.append("QEMU went away while the local DSQs were looked at")
    except MachineLost as error:
        why.append(f"the local DSQs could not be looked at: {error.what}")
    return ()


def _ask(vm: Vm, scale: float, whole: Deadline, why: list[str]) -> None:
    """Has the kernel tell of its tasks and CPUs on the console."""
    quiet = QUIET_SECONDS * scale
    for number, (letter, header, silence) in enumerate(LETTERS):
        seconds = (TELL_SECONDS if number else REACT_SECONDS) * scale
        try:
            _letter(vm, letter, header, Deadline(min(seconds, whole.left), "the kernel to answer"), silence * scale)
            ending = Deadline(min(TELL_SECONDS * scale, whole.left), "the kernel to end its answer")
            vm.console.until(NOTHING, 0, quiet, ending)  # until it is silent: it would miss the break
            _letter(vm, *END, ending, quiet)
        except MachineEnded as error:
            if error.expired:
                why.append(f"sysrq-{letter} on the console: {error.what.partition(';')[0]}")
            else:
                why.append(f"QEMU went away while sysrq-{letter} was asked for")
            return
        except MachineLost as error:
            why.append(f"the console takes no break: {error.what}")
            return


def _letter(vm: Vm, letter: str, header: str, deadline: Deadline, quiet: float) -> None:
    """A break, a letter, and the answer's first line: again and again, each time after the console was silent.

    A guest that prints may miss a break or what follows it, and a second break takes back the first
    (uart_handle_break() in include/linux/serial_core.h). Raises MachineEnded at the deadline.
    """
    seen = len(vm.console.text)
    answer = re.compile(rf"sysrq: {re.escape(header)}[^\n]*\n")
    while True:
        vm.qmp("chardev-send-break", id="console")
        try:
            vm.console.type(letter.encode())
        except OSError as error:
            raise vm.gone(deadline.what) from error
        found = vm.console.until(answer, seen, quiet, deadline)
        if found:
            return
        if found is None:
            raise vm.gone(deadline.what)
        if deadline.expired:
            raise vm.expired(deadline)


def _cpus(vm: Vm, whole: Deadline, why: list[str]) -> tuple[Cpu, ...]:
    """Registers and stacks, one CPU after the other, of a guest that stands still meanwhile."""
    out: list[Cpu] = []
    try:
        vm.qmp("stop")
        try:
            indices: Sequence[int] = [int(cpu["cpu-index"]) for cpu in vm.qmp("query-cpus-fast")]
            for index in indices:
                if whole.expired:
                    why.append(f"{whole}: {len(indices) - len(out)} of {len(indices)} CPUs were not looked at")
                    break
                out.append(registers.read(index, vm.registers(index), partial(vm.peek, cpu=index)))
        finally:
            vm.resume()
    except MachineEnded:
        why.append("QEMU went away while the CPUs were looked at")
    except MachineLost as error:
        why.append(f"the CPUs could not be looked at: {error.what}")
    return tuple(out)
