# SPDX-License-Identifier: GPL-2.0-only
"""The part of a test that fault injection and the leak hunt need; harness.session.context implements it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from harness.core.records import Evidence, FaultSummary, Finding
from harness.faults.cause import Cause, Window
from harness.guest.guest import Guest
from harness.oracles.registry import KernelTarget


class FaultContext(Protocol):
    """A test, its guest, and its records of faults and findings."""

    test_id: str
    seed: int
    guest: Guest
    findings: list[Finding]
    evidence: list[Evidence]
    windows: list[Window]
    armed: list[tuple[int, int]]
    arms: bool
    must_inject: tuple[str, ...]

    @property
    def target(self) -> KernelTarget:
        """The kernel and the machine under test."""

    def arming(self, *, whole: bool = True) -> AbstractContextManager[None]:
        """A fault is armed within the block."""

    def under(self, cause: Cause) -> AbstractContextManager[None]:
        """Failures within the block came under this fault."""

    def learn(self, cause: Cause, more: Cause) -> None:
        """Replace what was known of a fault when its block began."""

    def next_record(self) -> int:
        """The sequence number of the kernel log's next record."""

    def count_faults(self, summary: FaultSummary) -> None:
        """Add the faults of one operation."""

    def count_model(self, operations: int, compared: int, disagreement: str | None = None) -> None:
        """Add operations done and answers judged."""

    def blame_sites(self, outcome: str, findings: Sequence[Finding], causes: Sequence[Cause]) -> None:
        """Book findings on the fault sites that they came under."""

    def unreferenced(self) -> list[Finding]:
        """kmemleak's findings, after its whole protocol."""
