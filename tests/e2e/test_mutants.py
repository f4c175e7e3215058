# SPDX-License-Identifier: GPL-2.0-only
"""Known-bad kernels, one defect each: is it caught by a run as users make it, and is the right function named?

`make mutants`, K= selects; some three minutes each on a warm ccache, and so in no other target. The figures are kept in
docs/known-kernels.md.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.e2e.command import Kharness
from tests.e2e.mutants import MUTANTS, UNDER_A_FAULT, Mutant
from tests.e2e.trees import UserTree

TOP = 4
"""A function is named if it is among so many frames from the top, or is the one that is blamed."""
ARCH = os.environ.get("KHARNESS_ARCH", "x86_64")


def named(finding: dict[str, Any], functions: tuple[str, ...]) -> bool:
    """Whether a finding names one of the functions: as the one to blame, at the top of its stack, or in its words."""
    top = [frame["function"] for frame in finding["frames"] if frame["reliable"]][:TOP]
    words = f"{finding['title']} {finding['operation'] or ''}"
    return any(name in (finding["function"], *top) or name in words for name in functions)


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_caught_and_named(kharness: Kharness, user_tree: UserTree, mutant: Mutant) -> None:
    with user_tree.edited(user_tree.scheduler, mutant.function, mutant.old, mutant.new):
        done = kharness("run", "--arch", ARCH, "--tree", str(user_tree.folder), timeout=1500)
    print(done.stdout[-6000:])
    done.expect(1)
    rows = [row for row in done.results["tests"] if row["outcome"] == "fail"]
    found = [finding for row in rows for finding in row["findings"] if not finding["expected"]]
    disputed = [row["model"]["first_disagreement"] or row["why"] for row in rows]
    assert any(named(finding, mutant.blamed) for finding in found), (
        f"caught, but none of {', '.join(mutant.blamed)} is named:\n"
        + "\n".join([*(f"{f['oracle']} {f['kind']}: {f['title']} in {f['function']}" for f in found), *disputed])
    )
    if mutant.name in UNDER_A_FAULT:
        assert any(named(f, mutant.blamed) and f["operation"] and f["site"] and f["fault"] for f in found), (
            "named, but no finding tells under which fault"
        )


@pytest.mark.mutants
def test_freed_too_early_is_caught_by_a_held_reader(kharness: Kharness, user_tree: UserTree) -> None:
    """Not by chance: the tests of freed memory alone find it, both parts of the DSQ, each with who freed it."""
    mutant = next(one for one in MUTANTS if one.name == "freed-too-early")
    with user_tree.edited(user_tree.scheduler, mutant.function, mutant.old, mutant.new):
        done = kharness(
            "run", "--arch", ARCH, "--tree", str(user_tree.folder), "-k", "use_after_free", "--machine", "default",
            timeout=1500,
        )  # fmt: skip
    print(done.stdout[-6000:])
    done.expect(1)
    row = done.test("test_destroyed_under_a_reader")
    early = {one["title"].partition(" was freed")[0]: one["function"] for one in row["findings"] if not one["expected"]}
    assert set(early) == {"the DSQ itself", "the percpu data of a DSQ"}, row
    assert set(early.values()) <= {"destroy_dsq", "exit_dsq"}, early
