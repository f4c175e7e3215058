# SPDX-License-Identifier: GPL-2.0-only
"""Owns `run --keep`: the guest of a test that did not pass is saved, if there is still something to save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import replay
from harness.errors import KharnessError, MachineEnded
from harness.guest import kept
from harness.guest.guest import Guest
from harness.host.toolchain import Toolchain
from harness.plan import Session
from harness.records import SCHEMA, Kept

if TYPE_CHECKING:
    from harness.suite.session import Ready

FOLDER = "kept"
"""Below the output folder."""

ALIVE_SECONDS = 5.0
"""Nominal; a guest that does not answer by then is of no use to a shell."""


class Keeper:
    """Saves guests below OUT/kept/."""

    def __init__(self, session: Session, toolchain: Toolchain) -> None:
        self._folder = Path(session.out) / FOLDER
        self._toolchain = toolchain

    def keep(self, guest: Guest, ready: Ready, test: str, why: str) -> Kept:
        """The folder with the guest, or why there is none; a test's result must not be lost for it."""
        folder = self._folder / replay.file_name(f"{test}-{ready.name}")
        saved = kept.KeptGuest(SCHEMA, test, why, ready.target, self._toolchain.kind, self._toolchain.id)
        try:
            guest.agent.call("ping", seconds=ALIVE_SECONDS, record=False)
            kept.save(guest, folder, saved)
        except MachineEnded as error:
            return Kept(why="it hangs" if error.expired else "it is dead")
        except KharnessError as error:
            return Kept(why=error.line())
        except OSError as error:
            return Kept(why=f"cannot write to {folder}: {error.strerror}")
        return Kept(path=str(folder))
