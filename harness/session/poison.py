# SPDX-License-Identifier: GPL-2.0-only
"""A block of a test under the quarantine: percpu data is poisoned when it is freed, and examined.

What was written to after that is in the kernel log at the block's end, where the dmesg oracle finds it; a pointer that
was read from it faults at once (harness/oracles/splat/rules.py, POISON).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict

from harness.core.errors import Inconclusive, MachineEnded
from harness.core.records import Evidence
from harness.faults.percpu import Callers, PercpuFaults
from harness.guest.freed import Counts, Quarantine
from harness.session.context import TestContext

ORACLE = "percpu poison"


class PercpuPoison:
    """The quarantine of one guest, for percpu objects of one function."""

    def __init__(self, context: TestContext, faults: PercpuFaults) -> None:
        self._context = context
        self._faults = faults
        self._quarantine = Quarantine(context.guest.agent)

    @contextlib.contextmanager
    def armed(self, learn: Callable[[PercpuFaults], Callers]) -> Iterator[PercpuPoison]:
        """Poison the percpu data that certain calls allocate within the block when it is freed.

        `learn` returns these calls, as `PercpuFaults.callers()` does for an operation. At the end the guest is quiesced
        and everything is examined. Raises Inconclusive if nothing was poisoned, or if not all of it was examined.
        """
        callers = learn(self._faults)
        self._faults.unload()
        self._quarantine.arm([(address, address + 1) for address in callers.addresses])
        try:
            yield self
        except MachineEnded:
            raise
        except BaseException:
            self._close()  # or the kept objects would count as leaked, and the findings be lost
            raise
        counts = self._close()
        if not counts.poisoned or counts.checked != counts.poisoned:
            raise Inconclusive(
                f"{counts.poisoned} percpu objects of {callers.function}() were poisoned and {counts.checked} checked"
            )

    def look(self) -> Counts:
        """Quiesce the guest and examine what was freed so far, within the block."""
        self._context.guest.settle()
        return self._quarantine.drain()

    def _close(self) -> Counts:
        self._context.guest.settle()
        counts = self._quarantine.disarm()
        why = f"its table was full for {counts.lost} objects" if counts.lost else ""
        self._context.evidence.append(Evidence(ORACLE, payload=asdict(counts), lost=counts.lost, why=why))
        return counts
