# SPDX-License-Identifier: GPL-2.0-only
"""`run --keep`: the guest of a test that did not pass is saved, if there is still something to save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import KharnessError, MachineEnded
from harness.core.plan import Session
from harness.core.records import SCHEMA, Kept
from harness.core.words import file_name
from harness.guest import kept
from harness.guest.guest import Guest
from harness.host.toolchain import Toolchain

if TYPE_CHECKING:
    from harness.session.session import Target

FOLDER = "kept"
"""Below the output folder."""

ALIVE_SECONDS = 5.0
"""Nominal seconds; a guest that does not answer by then is useless for a shell."""


class Keeper:
    """Saves guests below OUT/kept/."""

    def __init__(self, session: Session, toolchain: Toolchain) -> None:
        self._folder = Path(session.out) / FOLDER
        self._toolchain = toolchain

    def keep(self, guest: Guest, target: Target, test: str, why: str) -> Kept:
        """Save the guest to a folder, or say why not; never raises, so that the test's result is not lost."""
        folder = self._folder / file_name(f"{test}-{target.name}")
        saved = kept.KeptGuest(SCHEMA, test, why, target.saved, self._toolchain.kind, self._toolchain.id)
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
