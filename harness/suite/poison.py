# SPDX-License-Identifier: GPL-2.0-only
"""Owns a block of a test under the quarantine: percpu data of DSQs is poisoned when it is freed, and looked at.

What was written to after that is in the kernel log at the block's end, where the dmesg oracle finds it; a pointer that
was read from it faults at once (harness/oracles/rules.py, POISON).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict

from harness.errors import MachineEnded
from harness.guest.freed import Counts, Quarantine
from harness.records import Evidence
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.outcome import Inconclusive
from harness.suite.percpu import PercpuFaults

ORACLE = "percpu poison"


class PercpuPoison:
    """The quarantine of one guest, for the percpu data of its DSQs."""

    def __init__(self, bench: Bench, faults: PercpuFaults) -> None:
        self._bench = bench
        self._faults = faults
        self._quarantine = Quarantine(bench.guest.agent)

    @contextlib.contextmanager
    def armed(self, dsq: Dsqs) -> Iterator[PercpuPoison]:
        """Percpu data of DSQs that is allocated within the block is poisoned when it is freed.

        Whose calls these are is learned first, from an attach and a create (`PercpuFaults.callers()`). At the end the
        guest is made quiescent and everything is looked at. Raises Inconclusive if nothing was poisoned, or if not all
        of it was looked at.
        """
        callers = self._faults.callers(dsq)
        self._faults.unload()
        self._quarantine.arm([(address, address + 1) for address in callers.addresses])
        try:
            yield self
        except MachineEnded:
            raise
        except BaseException:
            self._close()  # or what it keeps would be taken for leaked, and what it found be lost
            raise
        counts = self._close()
        if not counts.poisoned or counts.checked != counts.poisoned:
            raise Inconclusive(
                f"{counts.poisoned} percpu objects of {callers.function}() were poisoned and {counts.checked} checked"
            )

    def look(self) -> Counts:
        """Makes the guest quiescent and looks at what was freed so far, within the block."""
        self._bench.guest.settle()
        return self._quarantine.drain()

    def _close(self) -> Counts:
        self._bench.guest.settle()
        counts = self._quarantine.disarm()
        why = f"its table was full for {counts.lost} objects" if counts.lost else ""
        self._bench.evidence.append(Evidence(ORACLE, payload=asdict(counts), lost=counts.lost, why=why))
        return counts
