# SPDX-License-Identifier: GPL-2.0-only
"""A suite whose tests choose their machines."""

from __future__ import annotations

import pytest
from sched_ext.dsq import Dsqs

from harness.session.context import TestContext


def online(context: TestContext) -> int:
    """CPUs that the guest says it has."""
    text = context.guest.read("/proc/stat")
    return sum(line.startswith("cpu") for line in text.splitlines()) - 1  # without their sum


@pytest.mark.machines("default", "cpu1")
def test_on_two(dsq: Dsqs, context: TestContext) -> None:
    assert online(context) == context.target.machine.spec.online_cpus
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    dsq.check_live()


@pytest.mark.machines("cpu8", only=True)
def test_on_eight_only(context: TestContext) -> None:
    assert online(context) == 8
