# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the order of things: what is built, what is run with which tests, what is not, and going on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.bisect import steps
from harness.bisect.state import State
from harness.core.errors import HarnessError, KernelFailure
from harness.core.options import Options
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.core.records import Kernel
from harness.mutants import engine, judge
from harness.mutants.engine import FIRST, Engine, Reach
from harness.mutants.judge import Fate, Seen
from harness.mutants.operators import Mutant
from tests.unit.core.test_plan import KERNEL

PLAN = Plan(
    (KernelRequest(SourceRequest(tree="/linux"), "x86_64", patches=("/p.patch",)),), 7, Options(select="faults")
)


def mutant(name: str, line: int = 5) -> Mutant:
    return Mutant(name * 10, "drop-call", "a.c", "make", line, "x() is not called", f"diff {name}")


class World:
    """Kernels that are their last patch, and runs that end as `seen` says, in order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, seen: Sequence[Seen]) -> None:
        self.folder = folder
        self.seen = list(seen)
        self.runs: list[Plan] = []
        self.built: list[str] = []
        self.unbuilt: set[str] = set()
        self.same: set[str] = set()
        monkeypatch.setattr(steps, "conduct", self.conduct)
        monkeypatch.setattr(engine, "differing", lambda one, other: other.name not in self.same)
        monkeypatch.setattr("harness.report.results.read", lambda out: out)
        monkeypatch.setattr(judge, "judge", lambda results, functions, owners: self.seen.pop(0))

    def conduct(self, plan: Plan, log: Path) -> Any:
        self.runs.append(plan)
        return SimpleNamespace(error="")

    def build(self, request: KernelRequest) -> Kernel:
        name = Path((*request.patches, *request.own)[-1]).stem
        self.built.append(name)
        if name in self.unbuilt:
            raise KernelFailure("build", "a.c:5: error: no")
        return replace(KERNEL, vmlinux=f"/k/{name}")

    def run(
        self,
        mutants: Sequence[Mutant],
        tests: Sequence[str] = ("t::test_a[1]", "t::test_b"),
        *,
        equivalent: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Fate]:
        reach = Reach({"a.c": {"5": tests, "6": ["t::test_b"], "9": []}})
        with contextlib.closing(State.open(self.folder, {})) as state:
            done = Engine(PLAN, reach, state, self.build, lambda line: None).run(mutants, equivalent or {}, seconds)
        return {row.mutant.id[0]: row.seen.fate for row in done}

    @property
    def selects(self) -> list[str]:
        return [plan.options.select for plan in self.runs]


CAUGHT = Seen(Fate.CAUGHT, "t::test_a[1]", right=True)
LEFT = Seen(Fate.SURVIVED)


def test_a_mutant_is_run_with_the_tests_that_execute_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch, [CAUGHT])
    assert world.run([mutant("a")]) == {"a": Fate.CAUGHT}
    (plan,) = world.runs
    assert plan.options.select == "(faults) and (test_b or test_a)", "the one that executes more lines comes first"
    assert plan.options.fail_fast and plan.incremental and not plan.options.coverage
    assert (plan.kernels[0].patches, plan.kernels[0].own) == (("/p.patch",), (f"{tmp_path}/diffs/aaaaaaaaaa.patch",))
    assert (tmp_path / "diffs/aaaaaaaaaa.patch").read_text() == "diff a"


def test_what_needs_no_run_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch, [])
    world.unbuilt, world.same = {"b" * 10}, {"c" * 10}
    found = world.run(
        [mutant("a", 30), mutant("b"), mutant("c"), mutant("d")], equivalent={"d" * 10: "the order does not matter"}
    )
    assert found == {"a": Fate.UNREACHED, "b": Fate.UNBUILT, "c": Fate.SAME, "d": Fate.EQUIVALENT}
    assert not world.runs and "a" * 10 not in world.built and "d" * 10 not in world.built


def test_the_other_tests_come_when_the_first_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = [f"t::test_{number}" for number in range(FIRST + 2)]
    world = World(tmp_path, monkeypatch, [LEFT, CAUGHT])
    assert world.run([mutant("a")], tests) == {"a": Fate.CAUGHT}
    first, second = (select.count("test_") for select in world.selects)
    assert (first, second) == (FIRST, 2)
    assert len({name for select in world.selects for name in select.split() if "test_" in name}) == len(tests)


def test_what_caught_one_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch, [CAUGHT, LEFT])
    world.run([mutant("a"), mutant("b")])
    assert world.selects[1] == "(faults) and (test_a or test_b)"


def test_the_same_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [mutant("a"), mutant("b")]
    assert len(World(tmp_path, monkeypatch, [CAUGHT]).run(both[:1])) == 1
    world = World(tmp_path, monkeypatch, [LEFT])
    assert world.run(both) == {"a": Fate.CAUGHT, "b": Fate.SURVIVED}
    assert len(world.runs) == 1


def test_a_survivor_that_is_said_to_be_equivalent_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch, [LEFT])
    assert world.run([mutant("a")]) == {"a": Fate.SURVIVED}
    assert world.run([mutant("a")], equivalent={"a" * 10: "no reader can tell"}) == {"a": Fate.EQUIVALENT}


def test_after_the_budget_none_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert World(tmp_path, monkeypatch, []).run([mutant("a")], seconds=-1.0) == {}


def test_what_the_runner_raises_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch, [])
    broken = SimpleNamespace(error="HarnessError", exit=4, what="no space", step="", detail="")
    monkeypatch.setattr(steps, "conduct", lambda plan, log: broken)
    with pytest.raises(HarnessError, match="no space"):
        world.run([mutant("a")])
    assert World(tmp_path, monkeypatch, [CAUGHT]).run([mutant("a")]) == {"a": Fate.CAUGHT}, "it is tried again"


def test_a_line_without_code_of_its_own_is_that_of_the_statement(tmp_path: Path) -> None:
    reach = Reach({"a.c": {"5": ["t::test_a"], "6": []}})
    assert reach.tests(mutant("a", 6)) == ("t::test_a",)
    assert reach.tests(mutant("a", 3)) == ("t::test_a",), "the arm of a condition that gcov has no line of"
    assert Reach(reach.ran, {"a.c": {4}}).tests(mutant("a", 3)) == (), "that arm never ran"
    assert reach.tests(mutant("a", 20)) == ()
    assert Reach(reach.ran, {"a.c": {6}}).tests(mutant("a", 6)) == (), "it is known that no test executes it"
