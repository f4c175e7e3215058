# SPDX-License-Identifier: GPL-2.0-only
"""A patch's lines are counted beside: which run does that, and what of it comes to the run that it is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.core.event_log import read
from harness.core.options import Options
from harness.core.plan import KernelRequest, Plan, SavedTarget, SourceRequest
from harness.core.records import EventKind, Outcome, Role
from harness.coverage.coverage import Coverage
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.run import counted
from harness.run.runner import Runner
from harness.source.tree import Tree
from harness.verdict import Results, TestRow
from tests.unit.core.test_plan import KERNEL, MACHINE
from tests.unit.report.eventlog import Log
from tests.unit.report.eventlog import kernel as row
from tests.unit.verdict.test_coverage import SAW, covered, judged

PATCHED = KernelRequest(SourceRequest(version="7.2"), "x86_64", Role.PATCHED, ("/p.patch",))
BASE = replace(PATCHED, role=Role.BASE, patches=())
OPTIONS = Options(patch=("/p.patch",), coverage=True, keep=True, fail_fast=True, select="create", machine="default")
PLAN = Plan((BASE, PATCHED), 7, OPTIONS)
TREE = Tree(Path("/cache/source/beef"), "beef", "c0ffee", False, "7.2 with p.patch", "7.2.13")
ADDED: dict[str, tuple[int, ...]] = {"kernel/a.c": (3, 4)}


def test_the_same_tests_run_on_the_patched_tree_alone() -> None:
    plan = counted.plan_of(PLAN, PATCHED, TREE, ADDED, Path("out"))
    (kernel,) = plan.kernels
    assert (kernel.role, kernel.patches, kernel.source.pinned and kernel.source.pinned.tree) == (Role.TREE, (), "beef")
    assert (plan.added, plan.seed, plan.options.select) == (ADDED, 7, "create")
    assert (plan.options.coverage, plan.options.keep, plan.options.fail_fast) == (True, False, False)
    assert plan.options.out == "out/coverage/x86_64"


def counts(out: Path, *found: Coverage, **outcomes: Outcome) -> Results:
    """The results of a run that counts, in its folder."""
    folder = out / "coverage/x86_64/coverage/tree-x86_64"
    folder.mkdir(parents=True)
    (folder / "patch.txt").write_text("2 tests + x\n")
    tests = tuple(TestRow(name, "x86_64", "tree-x86_64", "default", outcome) for name, outcome in outcomes.items())
    return replace(judged(Log(row())), coverage=found, tests=tests)


def test_what_it_found_is_told_of_the_plain_kernel(tmp_path: Path) -> None:
    results = counts(tmp_path, covered(SAW), a=Outcome.PASS, b=Outcome.FAIL)
    found = counted.taken(results, replace(KERNEL, id="patched-x86_64"), tmp_path)
    assert found == replace(covered(SAW), kernel="patched-x86_64", beside=True, failing=("b",))
    assert (tmp_path / "coverage/patched-x86_64/patch.txt").read_text() == "2 tests + x\n"


def test_one_that_counted_nothing_says_so(tmp_path: Path) -> None:
    found = counted.taken(counts(tmp_path), replace(KERNEL, id="patched-x86_64"), tmp_path)
    assert (found.beside, found.why) == (True, "no test gave counters")


def test_a_kernel_that_counts_and_is_not_built_is_why(tmp_path: Path) -> None:
    results = counts(tmp_path)
    build = TestRow("build", "x86_64", "tree-x86_64", "", Outcome.FAIL, why="a.c:3: undefined reference to `f'")
    found = counted.taken(replace(results, tests=(build,)), replace(KERNEL, id="patched-x86_64"), tmp_path)
    assert found.why == "build of the kernel that counts: a.c:3: undefined reference to `f'"
    assert found.failing == ("build",)


class Sources:
    """Trees and lines of a patch."""

    def added(self, arch: str) -> dict[str, tuple[int, ...]]:
        return ADDED

    def tree(self, request: KernelRequest) -> Tree:
        return TREE


@pytest.mark.parametrize("error", [None, HarnessError("no disk", step="make room")])
def test_its_end_is_an_event_whatever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: HarnessError | None
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = Runner(PLAN.with_options(out="r1"), Progress(None), Cache(tmp_path / "cache", 0))
    monkeypatch.setattr("harness.run.runner.Runner", lambda plan, progress, cache: Counting(plan))

    class Counting:
        def __init__(self, plan: Plan) -> None:
            assert plan.options.out == "r1/coverage/x86_64"

        def carry_out(self) -> Results:
            if error:
                raise error
            return counts(tmp_path / "r1", covered(SAW))

    kernels = [replace(KERNEL, id=f"{role}-x86_64", role=role) for role in (Role.BASE, Role.PATCHED)]
    targets = [SavedTarget(kernel, MACHINE, "/i") for kernel in kernels]
    runner._count_lines(targets, Sources())  # type: ignore[arg-type]
    (event,) = [one for one in read(runner.event_log.path) if one.kind is EventKind.COVERAGE]
    assert (event.kernel, event.data["beside"]) == ("patched-x86_64", True)
    assert event.data["why"] == ("no disk; make room" if error else "")
