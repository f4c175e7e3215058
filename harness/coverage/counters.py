# SPDX-License-Identifier: GPL-2.0-only
"""The counters of `run --coverage` in the guest: zero when a test begins, brought home when it has been judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import GuestError, MachineEnded
from harness.core.plan import Session
from harness.core.words import file_name
from harness.guest.guest import Guest
from harness.kbuild.buildlog import BUILD

if TYPE_CHECKING:
    from harness.oracles.registry import KernelTarget

FOLDER = "coverage"
"""Below the output folder: for each kernel a folder, with a file of counters for each test."""

GCOV = "/sys/kernel/debug/gcov"
RESET = f"{GCOV}/reset"


def object_folder(profiled: str) -> str:
    """The folder of a kernel's counters that holds those of one object."""
    return file_name(str(Path(profiled).with_suffix("")))


class Counters:
    """The counters of the profiled objects, of one session."""

    def __init__(self, session: Session) -> None:
        self._folder = Path(session.out) / FOLDER

    def begin(self, guest: Guest) -> None:
        """Reset the counters, which a restored guest has from its boot. Raises AgentError on a kernel that has none."""
        guest.agent.call("write", record=False, path=RESET, data="1")

    def end(self, guest: Guest, target: KernelTarget, test: str) -> None:
        """Store the counters. Call it after the oracles: the kernel copies the counters, and needs memory for it.

        The counters of a dead guest are lost: fewer are stored than tests were run.
        """
        name = file_name(f"{test}-{target.name}")
        for profiled in target.kernel.profiles:
            # The kernel names the file by the folder in which its object was built (kernel/gcov/fs.c).
            path = f"{GCOV}{BUILD}/{Path(profiled).with_suffix('.gcda')}"
            try:
                answer = guest.agent.call("read", record=False, path=path)
            except (MachineEnded, GuestError):
                return
            folder = self._folder / target.kernel.id / object_folder(profiled)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.gcda").write_bytes(str(answer["data"]).encode("latin-1"))
            (folder.parent / f"{name}.id").write_text(test)
