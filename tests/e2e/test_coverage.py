# SPDX-License-Identifier: GPL-2.0-only
"""Coverage of error paths, on a kernel of its own: what the tests of faults took, and what one other test does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.command import Done, Kharness
from tests.e2e.conftest import QUICK

CALLERS = {"alloc_pnode", "scx_alloc_and_add_sched", "scx_bpf_create_dsq"}
"""Of init_dsq() after boot, in 7.2."""


def covered(done: Done) -> dict[str, Any]:
    """The coverage of the one kernel of a run."""
    (found,) = done.results["coverage"]
    assert not found["why"]
    return dict(found)


@pytest.mark.full
def test_a_run_that_injects_nothing_is_inconclusive(kharness: Kharness, passed: Done) -> None:
    done = kharness.run("--coverage", "-k", QUICK).expect(3)
    (plain,), (counting,) = passed.results["kernels"], done.results["kernels"]
    assert (plain["tree"], plain["config_sha256"]) != (counting["tree"], counting["config_sha256"])
    found = covered(done)
    assert found["tests"] == 1
    assert {call["function"]: call["failed"] for call in found["calls"]} == dict.fromkeys(CALLERS, 0)
    assert "scx_bpf_create_dsq() never saw init_dsq() fail" in " ".join(done.stdout.split())
    rows = {row["function"]: row for row in found["functions"]}
    assert rows["scx_bpf_create_dsq"]["lines_run"] and rows["scx_bpf_create_dsq"]["errors_not_taken"]
    # Creating a DSQ twice is refused behind init_dsq(): that branch was taken.
    assert rows["scx_bpf_create_dsq"]["errors_taken"] == 1
    assert rows["init_dsq"]["errors_taken"] == 0


@pytest.mark.full
def test_faults_take_the_error_branch_of_each_caller(kharness: Kharness, passed: Done) -> None:
    done = kharness.run("--coverage", "-k", "faults").expect(0)
    found = covered(done)
    calls = {call["function"]: call["failed"] for call in found["calls"]}
    assert calls.keys() == CALLERS and all(calls.values())
    rows = {row["function"]: row for row in found["functions"]}
    assert rows["init_dsq"]["errors_not_taken"] == []
    assert "coverage" in done.stdout and "3 of 3 callers saw init_dsq() fail" in " ".join(done.stdout.split())
