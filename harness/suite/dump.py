# SPDX-License-Identifier: GPL-2.0-only
"""Owns `run --dump`: the memory of a guest that crashed or hangs is written to a file before QEMU is ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import replay
from harness.errors import KharnessError, MachineEnded
from harness.guest.guest import Guest
from harness.machine.dump import dump
from harness.plan import Session
from harness.records import Dump

if TYPE_CHECKING:
    from harness.suite.session import Ready

FOLDER = "dumps"
"""Below the output folder."""


class Dumper:
    """Writes dumps below OUT/dumps/."""

    def __init__(self, session: Session) -> None:
        self._folder = Path(session.out) / FOLDER

    def dump(self, guest: Guest, ready: Ready, test: str) -> Dump:
        """The file with the guest's memory, or why there is none; a test's result must not be lost for it."""
        stem = self._folder / replay.file_name(f"{test}-{ready.name}")
        try:
            path = dump(guest.vm, stem, guest.agent.scale)
            return Dump(path=str(path), mib=path.stat().st_size >> 20)
        except MachineEnded:
            return Dump(why="QEMU is gone, and the guest's memory with it")
        except KharnessError as error:
            return Dump(why=error.line())
        except OSError as error:
            return Dump(why=f"cannot write to {self._folder}: {error.strerror}")
