# SPDX-License-Identifier: GPL-2.0-only
"""Known-bad kernels, one defect each: is it caught, and is the right function named?

`make mutants`, K= selects; one run of `kharness mutants` tries them all, a minute each, and so they are in no other
target. The figures are kept in docs/lab/known-kernels.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.core.records import Finding, decode
from harness.mutants.judge import Fate, names
from harness.mutants.rows import Row, Table
from tests.e2e.command import Kharness
from tests.e2e.conftest import place
from tests.e2e.mutants import MUTANTS, UNDER_A_FAULT, Mutant
from tests.e2e.trees import UserTree

ARCH = os.environ.get("KHARNESS_ARCH", "x86_64")
MACHINE = os.environ.get("KHARNESS_MACHINE", "default")
HOURS = 8 * 3600.0


def named(finding: dict[str, Any], functions: tuple[str, ...]) -> bool:
    """Whether a finding of results.json names one of the functions."""
    return names(decode(finding, Finding), functions)


@dataclass(frozen=True)
class Tried:
    """What `kharness mutants` wrote: a row for each defect, by its name, and where its runs are."""

    rows: dict[str, Row]
    out: Path

    def findings(self, row: Row) -> list[dict[str, Any]]:
        """What the last run on it found, as results.json has it."""
        results = json.loads((self.out / "runs" / row.mutant.id / "results.json").read_text())
        return [finding for test in results["tests"] for finding in test["findings"] if not finding["expected"]]


@pytest.fixture(scope="session")
def tried(request: pytest.FixtureRequest, cache_home: Path, user_tree: UserTree) -> Iterator[Tried]:
    """The defects of the tests that were selected, tried in one go."""
    parameters = (getattr(item, "callspec", None) for item in request.session.items)
    wanted = [one.params["mutant"] for one in parameters if one is not None and "mutant" in one.params]
    defects = [
        {
            "name": one.name,
            "file": user_tree.scheduler,
            "function": one.function,
            "old": one.old,
            "new": one.new,
            "blamed": list(one.blamed),
        }
        for one in wanted
    ]
    for started in place(cache_home):
        (started.cwd / "defects.yaml").write_text(yaml.safe_dump(defects))
        asked = ("--tree", str(user_tree.folder), "--arch", ARCH, "--machine", MACHINE, "--edits", "defects.yaml")
        done = started("mutants", *asked, timeout=HOURS).expect(0)
        print(done.stdout)
        out = started.cwd / "out/mutants"
        print((out / "mutants.txt").read_text())
        table = decode(json.loads((out / "mutants.json").read_text()), Table)
        yield Tried({row.mutant.words: row for row in table.rows}, out)


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_caught_and_named(tried: Tried, mutant: Mutant) -> None:
    row = tried.rows[mutant.name]
    assert row.seen.fate is Fate.CAUGHT, row
    assert row.seen.right, f"caught, but none of {', '.join(mutant.blamed)} is named: {row.seen}"
    if mutant.name in UNDER_A_FAULT:
        assert any(
            named(found, mutant.blamed) and found["operation"] and found["site"] and found["fault"]
            for found in tried.findings(row)
        ), "named, but no finding tells under which fault"


@pytest.mark.mutants
def test_freed_too_early_is_caught_by_a_held_reader(kharness: Kharness, user_tree: UserTree) -> None:
    """Not by chance: the tests of freed memory alone find it, both parts of the DSQ, each with who freed it."""
    mutant = next(one for one in MUTANTS if one.name == "freed-too-early")
    with user_tree.edited(user_tree.scheduler, mutant.function, mutant.old, mutant.new):
        done = kharness(
            "run",
            "--arch",
            ARCH,
            "--tree",
            str(user_tree.folder),
            "-k",
            "use_after_free",
            "--machine",
            "default",
            timeout=1500,
        )
    print(done.stdout[-6000:])
    done.expect(1)
    row = done.test("test_destroyed_under_a_reader")
    early = {one["title"].partition(" was freed")[0]: one["function"] for one in row["findings"] if not one["expected"]}
    assert set(early) == {"the DSQ itself", "the percpu data of a DSQ"}, row
    assert set(early.values()) <= {"destroy_dsq", "exit_dsq"}, early
