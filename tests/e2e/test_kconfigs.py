# SPDX-License-Identifier: GPL-2.0-only
"""Our kernels beside the plain one: the clean source is left alone, and what the plain kernel does not show is found."""

from __future__ import annotations

import pytest

from harness.core.options import DEFAULT_ARCHES
from harness.run.planning import variants
from tests.e2e.command import Kharness
from tests.e2e.mutants import SILENT, Mutant
from tests.e2e.test_mutants import named
from tests.e2e.trees import UserTree

BUILD_SECONDS = 3600.0
"""A kernel with KASAN, and the suite on it, which is three to six times slower there."""

PROVES = {"kasan": "kasan", "lockdep": "lockdep", "preempt": "preemptible"}
"""The canary that proves what a kernel of ours adds."""

each_architecture = pytest.mark.parametrize("arch", DEFAULT_ARCHES)


def test_each_is_proved_by_a_canary() -> None:
    assert PROVES.keys() == variants().keys()


@pytest.mark.full
@each_architecture
@pytest.mark.parametrize("name", sorted(PROVES))
def test_clean_source_passes(kharness: Kharness, name: str, arch: str) -> None:
    done = kharness.run("--kconfig", name, "--arch", arch, "--machine", "default", timeout=BUILD_SECONDS).expect(0)
    caught = {canary["oracle"] for canary in done.results["canaries"] if canary["caught"]}
    assert PROVES[name] in caught
    if name == "lockdep":
        tests = [row for row in done.results["tests"] if row["outcome"] == "pass" and row["evidence"]]
        assert tests
        watched = [row for row in tests if any(e["oracle"] == name and e["watched"] for e in row["evidence"])]
        assert [row["id"] for row in tests if row not in watched] == ["boot"]


@pytest.mark.full
@each_architecture
@pytest.mark.parametrize("mutant", SILENT, ids=lambda mutant: mutant.name)
def test_what_the_plain_kernel_does_not_show(
    kharness: Kharness, user_tree: UserTree, mutant: Mutant, arch: str
) -> None:
    """Found and named on one kernel, and nothing at all on the other: else it would not need the one."""
    what = ("--arch", arch, "--machine", "default", "--tree", str(user_tree.folder), "-k", "lifecycle or load")
    with user_tree.edited(user_tree.scheduler, mutant.function, mutant.old, mutant.new):
        done = kharness("run", "--kconfig", mutant.kconfig, *what, timeout=BUILD_SECONDS).expect(1)
        found = [finding for row in done.results["tests"] for finding in row["findings"] if not finding["expected"]]
        shown = [finding for finding in found if finding["kind"] == mutant.says]
        assert any(named(finding, mutant.blamed) for finding in shown), "\n".join(f["title"] for f in found)
        kharness("run", *what, timeout=BUILD_SECONDS).expect(0)
