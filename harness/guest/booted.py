# SPDX-License-Identifier: GPL-2.0-only
"""A guest booted under a debugger, which may stop it anywhere: nothing in it has a deadline."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType

from harness.core.errors import GuestError
from harness.guest.agent import Agent
from harness.guest.pristine import BROKEN, READY
from harness.host.toolchain import Toolchain
from harness.machine.deadline import MAX_SCALE, Deadline
from harness.machine.qemu import Launch
from harness.machine.vm import Vm

FOR_EVER = 30 * 86400.0
"""Seconds; as long as a session with a debugger may take."""


class Booted:
    """A machine that is stopped at its first instruction until gdb continues it. Leaving it ends QEMU."""

    def __init__(self, launch: Launch, toolchain: Toolchain) -> None:
        self.vm = Vm(launch, toolchain, debug=True)
        self.agent = Agent(self.vm, MAX_SCALE)

    def __enter__(self) -> Booted:
        self.vm.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vm.close()

    def up(self, on_line: Callable[[str], None]) -> None:
        """Return when the agent is there; `on_line` sees the console until then.

        Raises MachineEnded when QEMU ends, GuestError when our own userspace does not come up.
        """
        deadline = Deadline(FOR_EVER, "the kernel to boot")
        while True:
            line = self.vm.line(deadline)
            on_line(line)
            if re.search(READY, line):
                break
            if any(re.search(pattern, line) for pattern in BROKEN):
                raise GuestError(f"the guest's userspace did not come up: {line}")
        self.agent.call("ping", record=False)
