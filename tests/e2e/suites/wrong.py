# SPDX-License-Identifier: GPL-2.0-only
"""Owns a suite that every right kernel fails, in the same way each time."""

from __future__ import annotations

from harness.guest.guest import Guest, dsq_context
from harness.suite.dsq import Dsqs
from harness.suite.extra import CANARY


def test_wants_a_duplicate(dsq: Dsqs) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    answer = dsq.api.run("create", dsq_context(7))[0]
    assert answer == 0, f"creating DSQ 7 twice answered {answer}"


def test_reads_a_warning_itself(guest: Guest) -> None:
    guest.write(CANARY, "warn")
    assert guest.log(), "reading takes the records out of the guest"
