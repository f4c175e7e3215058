# SPDX-License-Identifier: GPL-2.0-only
"""Waiting: every wait has a deadline that scales with the machine's measured speed and says what for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from harness.host.interrupts import paused

NOMINAL_BOOT_SECONDS = 3.0
"""Boot to agent on the machine the nominal waits were written for (TCG, 2 idle cores)."""

MIN_SCALE = 1.0
MAX_SCALE = 20.0


def _now() -> float:
    return time.monotonic() - paused()


def scale_of(boot_seconds: float) -> float:
    """How many times slower this machine is than the nominal one, from its own boot; never below 1."""
    return min(MAX_SCALE, max(MIN_SCALE, boot_seconds / NOMINAL_BOOT_SECONDS))


@dataclass(frozen=True)
class Deadline:
    """`seconds` from its creation; `what` completes the sentence "waited ... for ..."."""

    seconds: float
    what: str
    start: float = field(default_factory=_now)

    @property
    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.start + self.seconds - _now())

    @property
    def expired(self) -> bool:
        return self.left == 0.0

    def __str__(self) -> str:
        return f"waited {self.seconds:.0f} s for {self.what}"
