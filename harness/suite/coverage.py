# SPDX-License-Identifier: GPL-2.0-only
"""Owns the counters of `run --coverage` in the guest: zero when a test begins, brought home when it has been judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import replay
from harness.build.buildlog import BUILD
from harness.errors import GuestError, MachineEnded
from harness.guest.guest import Guest
from harness.plan import PROFILE, Session

if TYPE_CHECKING:
    from harness.suite.session import Ready

FOLDER = "coverage"
"""Below the output folder: for each kernel a folder, with a file of counters for each test."""

GCOV = "/sys/kernel/debug/gcov"
RESET = f"{GCOV}/reset"
COUNTERS = f"{GCOV}{BUILD}/{Path(PROFILE.object).with_suffix('.gcda')}"
"""The kernel names the file by where its object was built (kernel/gcov/fs.c)."""


class Counters:
    """The counters of the profiled object, of one session."""

    def __init__(self, session: Session) -> None:
        self._folder = Path(session.out) / FOLDER

    def begin(self, guest: Guest) -> None:
        """A restored guest holds the counters of its boot; they go. Raises AgentError on a kernel that has none."""
        guest.agent.call("write", record=False, path=RESET, data="1")

    def end(self, guest: Guest, ready: Ready, test: str) -> None:
        """Keeps the counters. Call it after the oracles: the kernel copies the counters, and needs memory for it.

        A guest that is dead keeps what its test did to itself: fewer counters are kept than tests were run.
        """
        try:
            answer = guest.agent.call("read", record=False, path=COUNTERS)
        except (MachineEnded, GuestError):
            return
        folder = self._folder / ready.kernel.id
        folder.mkdir(parents=True, exist_ok=True)
        name = replay.file_name(f"{test}-{ready.name}") + ".gcda"
        (folder / name).write_bytes(str(answer["data"]).encode("latin-1"))
