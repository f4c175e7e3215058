# SPDX-License-Identifier: GPL-2.0-only
"""`run --dump`: the memory of a guest that crashed or hangs is written to a file before QEMU is ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import KharnessError, MachineEnded
from harness.core.plan import Session
from harness.core.records import Dump
from harness.core.words import file_name
from harness.guest.guest import Guest
from harness.machine.dump import dump

if TYPE_CHECKING:
    from harness.session.session import Target

FOLDER = "dumps"
"""Below the output folder."""


class Dumper:
    """Writes dumps below OUT/dumps/."""

    def __init__(self, session: Session) -> None:
        self._folder = Path(session.out) / FOLDER

    def dump(self, guest: Guest, target: Target, test: str) -> Dump:
        """Write the guest's memory to a file, or say why not; never raises, so that the test's result is not lost."""
        stem = self._folder / file_name(f"{test}-{target.name}")
        try:
            path = dump(guest.vm, stem, guest.agent.scale)
            return Dump(path=str(path), mib=path.stat().st_size >> 20)
        except MachineEnded:
            return Dump(why="QEMU is gone, and the guest's memory with it")
        except KharnessError as error:
            return Dump(why=error.line())
        except OSError as error:
            return Dump(why=f"cannot write to {self._folder}: {error.strerror}")
