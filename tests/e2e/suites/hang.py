# SPDX-License-Identifier: GPL-2.0-only
"""A suite of kernels that hang, each in a way of its own, and one that dies: the module's canaries."""

from __future__ import annotations

import pytest

from harness.guest.guest import Guest
from harness.oracles.registry import CANARY

SECONDS = 2.0
"""Nominal, for an answer that does not come."""

WAYS = ("hang", "hang-one", "spin", "spin-locked", "sleep", "doze")


@pytest.mark.parametrize("way", WAYS)
def test_hangs(guest: Guest, way: str) -> None:
    guest.agent.call("write", seconds=SECONDS, path=CANARY, data=way)
    guest.agent.call("ping", seconds=SECONDS)


def test_dies(guest: Guest) -> None:
    guest.write(CANARY, "panic")
