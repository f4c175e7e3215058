# SPDX-License-Identifier: GPL-2.0-only
"""Planted defects: each proves, on each kernel, that oracles see the defects they are for."""

from __future__ import annotations

import pytest

from harness.core.errors import Inconclusive
from harness.core.records import Canary, EventKind
from harness.guest.guest import Guest
from harness.oracles import registry
from harness.oracles.registry import Defect
from harness.session.session import Target, TestSession


def due(target: Target) -> tuple[Defect, ...]:
    """The defects that are planted on a target: on a kernel's first target all that the kernel can show.

    On its further machines the cheap ones, all in one guest, with those that end it last. Slow ones are left out:
    kmemleak is proved by the machine's leak batch.
    """
    every = registry.defects(target.suite.oracles, target.suite.defects)
    possible = [defect for defect in every if defect.possible(target)]
    if target.first:
        return tuple(defect for defect in possible if not defect.further)
    cheap = sorted((defect for defect in possible if defect.cheap), key=lambda defect: defect.last)

    def plant(guest: Guest, target: Target) -> dict[str, bool]:
        seen: dict[str, bool] = {}
        for defect in cheap:
            seen |= defect.plant(guest, target)
        return seen

    return (Defect("shape", tuple(oracle for defect in cheap for oracle in defect.proves), plant),)


def record_canaries(test_session: TestSession, target: Target, caught: dict[str, bool], why: str = "") -> None:
    """Write to the event log which canaries were caught."""
    for oracle, seen in caught.items():
        canary = Canary(oracle, target.kernel.id, seen, why, target.machine.spec.name)
        test_session.event_log.emit(EventKind.CANARY, canary, kernel=target.kernel.id)


class CanaryItem(pytest.Item):
    """One deliberate defect on one target, in a guest of its own."""

    def __init__(self, *, target: Target, test_session: TestSession, defect: Defect, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.target = target
        self._session = test_session
        self._defect = defect
        self.recorded = False
        """Whether its failure is in the event log."""

    @property
    def oracles(self) -> tuple[str, ...]:
        """The oracles that this canary proves."""
        return self._defect.proves

    def runtest(self) -> None:
        """Raise Inconclusive naming the oracles that did not see it."""
        try:
            with self.target.restore() as guest:
                caught = self._defect.plant(guest, self.target)
        except Exception as error:
            self._report(dict.fromkeys(self.oracles, False), str(error))
            raise
        self._report(caught, "")
        missed = [oracle for oracle, seen in caught.items() if not seen]
        if missed:
            raise Inconclusive(f"the {', '.join(missed)} oracle did not see a deliberate defect on this kernel")

    def _report(self, caught: dict[str, bool], why: str) -> None:
        record_canaries(self._session, self.target, caught, why)
        self.recorded = not all(caught.values())

    def reportinfo(self) -> tuple[str, None, str]:
        return "canary", None, self.name


def canaries(session: pytest.Session, target: Target, test_session: TestSession) -> list[CanaryItem]:
    """The canaries of one target."""
    return [
        CanaryItem.from_parent(
            session,
            name=f"{defect.name}[{target.name}]",
            nodeid=f"canary::{defect.name}[{target.name}]",
            target=target,
            test_session=test_session,
            defect=defect,
        )
        for defect in due(target)
    ]
