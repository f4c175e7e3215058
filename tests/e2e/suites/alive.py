# SPDX-License-Identifier: GPL-2.0-only
"""A suite whose tests leave objects behind that the ledger counts, and one that the model knows nothing of."""

from __future__ import annotations

import pytest
from sched_ext.dsq import Dsqs, dsq_context

from harness.guest.guest import Guest
from harness.oracles.registry import CANARY

PERCPU, SLAB = 3, 2
"""How many objects are left."""


def test_that_leaks_both(dsq: Dsqs, guest: Guest) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    for kind, times in (("percpu", PERCPU), ("slab", SLAB)):
        for _ in range(times):
            guest.write(CANARY, f"{kind}-leak")
    dsq.check_objects()


@pytest.mark.parametrize("behind", ["create", "destroy"])
def test_behind_the_model_s_back(dsq: Dsqs, behind: str) -> None:
    dsq.attach("dsq_many", [(7, -1)], nr_dsqs=1, first_id=7)
    dsq.check_objects()
    dsq.api.run(behind, dsq_context(8 if behind == "create" else 7))
    dsq.check_objects()
