# SPDX-License-Identifier: GPL-2.0-only
"""Owns a suite whose tests choose their machines."""

from __future__ import annotations

import pytest

from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs


def online(bench: Bench) -> int:
    """CPUs that the guest says it has."""
    text = bench.guest.read("/proc/stat")
    return sum(line.startswith("cpu") for line in text.splitlines()) - 1  # without their sum


@pytest.mark.machines("default", "cpu1")
def test_on_two(dsq: Dsqs, bench: Bench) -> None:
    assert online(bench) == bench.ready.machine.spec.online_cpus
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    dsq.check_live()


@pytest.mark.machines("cpu8", only=True)
def test_on_eight_only(bench: Bench) -> None:
    assert online(bench) == 8
