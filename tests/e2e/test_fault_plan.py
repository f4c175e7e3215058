# SPDX-License-Identifier: GPL-2.0-only
"""Fault plans of the user's: carried out, never a pass where nothing fired, refused where no function is called so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import Done, Kharness
from tests.e2e.conftest import place

PLAN = """
- {operation: create, what: failslab, within: [scx_bpf_create_dsq], nth: 1}
- {operation: create, what: failslab, probability: 50, seed: 3}
- {operation: destroy, nth: 99}
"""


@pytest.fixture(scope="module")
def carried(cache_home: Path, passed: Done, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """One run of a plan alone, named in a file of options beside it; the suite is another."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "faults.yaml").write_text(PLAN)
    (folder / "mine.yaml").write_text(
        "faults: faults.yaml\nsuite: tests/kernel/sched_ext/test_guest.py\nselect: plan\n"
    )
    for started in place(cache_home):
        yield started.run(str(folder / "mine.yaml"), timeout=600)


def test_each_entry_is_a_test_and_nothing_else_is(carried: Done) -> None:
    ids = [row["id"] for row in carried.results["tests"] if "::test_" in row["id"]]
    assert len(ids) == 3 and all("test_plan[" in name for name in ids)


def test_a_fault_that_fired_is_told_with_its_site(carried: Done) -> None:
    row = carried.test("test_plan[create-failslab-in-scx_bpf_create_dsq-nth1]")
    assert row["outcome"] == "pass"
    assert row["faults"]["injected"] == 1
    (site,) = [site for site in row["faults"]["sites"] if site["injected"]]
    assert "scx_bpf_create_dsq" in site["stack"] and site["answers"] == {"-ENOMEM": 1}
    assert carried.test("test_plan[create-failslab-probability50-seed3]")["outcome"] == "pass"


def test_a_fault_that_never_fired_is_no_pass(carried: Done) -> None:
    carried.expect(3)
    row = carried.test("test_plan[destroy-any-nth99]")
    assert row["outcome"] == "inconclusive"
    assert row["why"].startswith("{operation: destroy, nth: 99}: armed and never fired")


def test_a_replay_has_the_entry_too(kharness: Kharness, carried: Done) -> None:
    again = kharness("replay", carried.test("test_plan[destroy-any-nth99]")["replay"], timeout=300).expect(3)
    assert "armed and never fired" in again.test("test_plan[destroy-any-nth99]")["why"]


def test_a_function_that_the_kernel_has_not_is_the_users_mistake(
    kharness: Kharness, passed: Done, tmp_path: Path
) -> None:
    (tmp_path / "faults.yaml").write_text("operation: create\nwithin: scx_bpf_create_dqs\nnth: 1\n")
    done = kharness.run("--faults", str(tmp_path / "faults.yaml"), "-k", "plan", timeout=300).expect(2)
    assert f"{tmp_path}/faults.yaml:1: within: this kernel has no function scx_bpf_create_dqs" in done.error
    assert "did you mean scx_bpf_create_dsq" in done.error
    assert not (done.cwd / "out/latest").exists()
