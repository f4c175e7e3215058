# SPDX-License-Identifier: GPL-2.0-only
"""A suite whose guests end while they are restored for the first time, and live at the second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.oracles.registry import CANARY
from tests.e2e.suites.odd import kill_qemu

pytestmark = pytest.mark.solo


def _panics(guest: Guest) -> None:
    guest.write(CANARY, "panic")


@pytest.fixture(autouse=True)
def ends_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each guest's __enter__() ends in `deed`, but once only."""
    deed: Callable[[Guest], None] = {"test_panics_once": _panics, "test_qemu_killed_once": kill_qemu}[
        request.node.originalname
    ]
    restore, deeds = Guest.__enter__, [deed]

    def enter(guest: Guest) -> Guest:
        restore(guest)
        if deeds:
            deeds.pop()(guest)
            guest.read("/proc/version")
        return guest

    monkeypatch.setattr(Guest, "__enter__", enter)


def test_panics_once(guest: Guest) -> None:
    assert guest.read("/proc/version").startswith("Linux")


def test_qemu_killed_once(guest: Guest) -> None:
    assert guest.read("/proc/version").startswith("Linux")
