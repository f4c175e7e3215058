# SPDX-License-Identifier: GPL-2.0-only
"""A suite of two tests that every kernel fails: one leaves a scheduler behind, of the other nothing is left."""

from __future__ import annotations

from sched_ext.dsq import Dsqs

from harness.guest.guest import Guest


def test_wants_another_state(dsq: Dsqs, guest: Guest) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    state = guest.read("/sys/kernel/sched_ext/state").strip()
    assert state == "disabled", f"the scheduler is {state}"


def test_that_panics(guest: Guest) -> None:
    guest.write("/sys/kernel/debug/kharness/canary", "panic")
