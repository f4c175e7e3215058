# SPDX-License-Identifier: GPL-2.0-only
"""Several machines in one run: tests choose, the command line overrides, and only what is needed is booted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.command import Done, Kharness

KMEMLEAK = {"kmemleak slab", "kmemleak percpu"}
SHAPE = {"dmesg", "percpu", "ledger slab", "ledger percpu", "panic"}


def outcomes(done: Done) -> dict[tuple[str, str], str]:
    """How each real test ended, by its name and machine."""
    rows = [row for row in done.results["tests"] if "::" in row["id"]]
    return {(row["id"].rpartition("::")[2], row["machine"]): row["outcome"] for row in rows}


def caught(done: Done, machine: str) -> set[str]:
    """The oracles that saw a canary on a machine."""
    return {row["oracle"] for row in done.results["canaries"] if row["machine"] == machine and row["caught"]}


@pytest.mark.full
def test_a_test_chooses_its_machines(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    done = kharness.run("--suite", suite("shapes"), "-k", "two").expect(0)
    found = outcomes(done)
    assert {found["test_on_two", "default"], found["test_on_two", "cpu1"]} == {"pass"}
    assert [row["spec"]["name"] for row in done.results["machines"]] == ["default", "cpu1"], "cpu8 was not needed"
    assert caught(done, "default") == KMEMLEAK | SHAPE | {"hang"}
    assert caught(done, "cpu1") == KMEMLEAK | SHAPE


@pytest.mark.full
def test_the_command_line_overrides(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    done = kharness.run("--suite", suite("shapes"), "--machine", "cpu1").expect(0)
    found = outcomes(done)
    assert (found["test_on_two", "cpu1"], found["test_on_eight_only", "cpu1"]) == ("pass", "skip")
    assert "runs only on cpu8" in done.test("test_on_eight_only")["why"]
    assert [row["spec"]["name"] for row in done.results["machines"]] == ["cpu1"]


@pytest.mark.full
def test_a_machine_that_shows_nothing(kharness: Kharness, passed: Done, suite: Callable[[str], str]) -> None:
    done = kharness.run("--suite", suite("shapes"), "-k", "eight", "--machine", "cpu1").expect(3)
    assert "every test was skipped" in done.stdout and "runs only on cpu8" in done.stdout
