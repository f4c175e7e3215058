# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions and the exit statuses: whose fault it was that something did not work.

Below the ground floor: this module imports nothing of the project.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Exit(enum.IntEnum):
    """Exit statuses of the ``kharness`` command."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    UNJUDGED = 4
    INTERRUPTED = 130


class KharnessError(Exception):
    """One clear line: what failed and why, and in `step` what to do next.

    `detail` has longer evidence (compiler output, the console's last lines), which is never part of the line itself.
    """

    exit: Exit = Exit.UNJUDGED

    def __init__(self, what: str, *, step: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.step = step
        self.detail = detail

    def line(self) -> str:
        """The error as one line for a terminal."""
        return f"{self.what}; {self.step}" if self.step else self.what


class UsageError(KharnessError):
    """The caller's mistake: a bad flag, no such tree, a patch that does not apply."""

    exit = Exit.USAGE


class HarnessError(KharnessError):
    """The harness or its host could not do its work: disk full, tool missing, QEMU killed."""

    exit = Exit.UNJUDGED


class MachineLost(HarnessError):
    """QEMU itself went away (killed, crashed, refused to start), which says nothing about the kernel."""


class GuestError(KharnessError):
    """A program in the guest (agent, BPF object, workload) failed; the kernel still runs."""

    exit = Exit.INCONCLUSIVE


class KernelFailure(KharnessError):
    """The kernel under test failed: it did not build, did not boot, crashed or hung.

    `kind` is ``build``, ``boot``, ``panic``, ``oops``, ``hang`` or ``reset`` (the guest ended by itself).
    """

    exit = Exit.FAIL

    def __init__(self, kind: str, what: str, *, step: str = "", detail: str = "") -> None:
        super().__init__(what, step=step, detail=detail)
        self.kind = kind


class How(enum.StrEnum):
    """What is known of QEMU when a machine is judged."""

    RUNNING = "running"
    EXITED = "exited"
    KILLED = "killed"
    GUEST_PANIC = "guest-panic"
    """QMP said GUEST_PANICKED (pvpanic)."""
    STOPPED = "stopped"
    """QEMU exists, but was stopped on the host: by SIGSTOP, or a debugger."""
    SILENT = "silent"
    """QEMU is gone and neither its status nor an event says how."""


@dataclass(frozen=True)
class Ended:
    """How QEMU ended: `status` with EXITED, `signal` with KILLED (a number, positive)."""

    how: How
    status: int | None = None
    signal: int | None = None


class MachineEnded(KharnessError):
    """A machine stopped answering; the crash oracle decides whether that is the kernel's fault.

    `lines` is the console since the machine started, `expired` whether a deadline ran out while QEMU still ran,
    `waiting` for what.
    """

    def __init__(self, what: str, ended: Ended, lines: Sequence[str], expired: bool, waiting: str = "") -> None:
        super().__init__(what, detail="\n".join(lines[-20:]))
        self.ended = ended
        self.lines = tuple(lines)
        self.expired = expired
        self.waiting = waiting


class Inconclusive(KharnessError):
    """A test that could not show what it is meant to show: no fault was injected, evidence was lost."""


class Disagreed(Exception):
    """The kernel answered what the model does not allow; `function` is the one that did it, where that is known."""

    def __init__(self, what: str, function: str | None = None) -> None:
        super().__init__(what)
        self.function = function
