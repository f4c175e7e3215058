# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the collecting pass: which machines the selected tests need, and mistakes found before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UsageError
from harness.core.options import Options
from harness.core.plan import BpfRequest, FaultPlan, KernelRequest, Plan, SourceRequest
from harness.core.records import Fault
from harness.run import survey as collect

TESTS = """
import pytest

def test_plain(guest): ...

@pytest.mark.machines("default", "cpu8", full="cpu64")
@pytest.mark.parametrize("size", [1, 2])
def test_wide(context, size): ...

@pytest.mark.machines("node2", only=True)
def test_nodes(dsq): ...
"""

Needed = Callable[..., dict[str, dict[str, int]]]


@pytest.fixture
def needed(tmp_path: Path) -> Needed:
    """The machines that a suite of this text needs."""

    def survey(
        text: str = TESTS, arches: tuple[str, ...] = ("x86_64",), select: str = "", full: bool = False, **more: Any
    ) -> dict[str, dict[str, int]]:
        (tmp_path / "test_it.py").write_text(text)
        kernels = tuple(KernelRequest(SourceRequest(version="7.2"), arch) for arch in arches)
        found = collect.machines(Plan(kernels, 1, Options(select=select, full=full), suite=str(tmp_path), **more))
        return {arch: dict(count) for arch, count in found.items()}

    return survey


def test_each_architecture_has_its_machines_the_default_first(needed: Needed) -> None:
    wanted = {"default": 3, "cpu8": 2, "node2": 1}
    found = needed(arches=("x86_64", "arm64"))
    assert found == {"x86_64": wanted, "arm64": wanted}
    assert list(found["arm64"]) == ["default", "cpu8", "node2"]


def test_only_what_is_selected(needed: Needed) -> None:
    assert needed(select="nodes") == {"x86_64": {"node2": 1}}
    assert needed(select="wide", full=True) == {"x86_64": {"default": 2, "cpu8": 2, "cpu64": 2}}
    assert needed(select="wide and cpu8") == {"x86_64": {"cpu8": 2}}, "the target is part of a test's name"
    assert needed(select="nothing") == {"x86_64": {"default": 0}}


def test_the_command_line_overrides(needed: Needed) -> None:
    """Also where a test will be skipped: the skip has to be seen."""
    assert needed(machines=("cpu1", "cpu8")) == {"x86_64": {"cpu1": 4, "cpu8": 4}}


def test_a_replay_has_named_its_machine(needed: Needed) -> None:
    assert needed(text="import nothing", machines=("cpu8",), test_id="t::x") == {"x86_64": {"cpu8": 0}}


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        (TESTS.replace("node2", "node9"), {}, ["test_nodes", "no machine 'node9' for x86_64", "cpu256"]),
        (TESTS.replace("only", "just"), {}, ["test_nodes", "no option 'just'"]),
        (TESTS, {"select": "a b"}, ["-k", "a b"]),
        ("import nothing", {}, ["test_it.py", "No module named 'nothing'"]),
        ("def test_(", {}, ["test_it.py", "SyntaxError"]),
    ],
    ids=["machine", "option", "expression", "import", "syntax"],
)
def test_mistakes(needed: Needed, text: str, more: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        needed(text, **more)
    for word in words:
        assert word in raised.value.line()
    assert "\n" not in raised.value.line()


FOR_EACH = "def test_mine(context, user_scheduler): ...\n\ndef test_plain(guest): ...\n"
BPF = (BpfRequest("/home/me/one.bpf.c"), BpfRequest("/home/me/two.bpf.c"))


def test_the_users_schedulers_have_tests_of_their_own(needed: Needed) -> None:
    """Once for each file, by its name; without one they are no part of the run."""
    assert needed(FOR_EACH) == {"x86_64": {"default": 1}}
    assert needed(FOR_EACH, bpf=BPF, select="test_it") == {"x86_64": {"default": 3}}
    assert needed(FOR_EACH, bpf=BPF, select="test_it and one") == {"x86_64": {"default": 1}}


PLANNED = "def test_planned(context, fault_plan): ...\n\ndef test_plain(guest): ...\n"
ENTRIES = (FaultPlan("create", Fault(nth=1)), FaultPlan("fork", Fault(every=2)))


def test_a_fault_plan_has_a_test_for_each_entry(needed: Needed) -> None:
    assert needed(PLANNED) == {"x86_64": {"default": 1}}
    assert needed(PLANNED, faults=ENTRIES, select="test_it") == {"x86_64": {"default": 3}}
    assert needed(PLANNED, faults=ENTRIES, select="test_it and fork") == {"x86_64": {"default": 1}}
    assert needed(FOR_EACH + PLANNED.partition("\n")[0], faults=ENTRIES, select="test_it") == {"x86_64": {"default": 3}}


def test_its_entries_are_carried_out_whatever_the_suite_is(needed: Needed) -> None:
    """Beside the tests that are selected, or alone."""
    assert needed("def test_plain(guest): ...", faults=ENTRIES) == {"x86_64": {"default": 3}}
    assert needed("def test_plain(guest): ...", faults=ENTRIES, select="plan") == {"x86_64": {"default": 2}}
    plan = Plan((), seed=1, faults=ENTRIES, suite="tests/kernel/sched_ext")
    assert [word for word in collect.argv(plan) if "tests/kernel" in word] == [str(collect.ROOT / plan.suite)]
    beside = replace(plan, suite="tests/kernel/sched_ext/test_guest.py")
    files = ["tests/kernel/sched_ext/test_guest.py", "tests/kernel/sched_ext/test_plan.py"]
    assert [word for word in collect.argv(beside) if "tests/kernel" in word] == [str(collect.ROOT / f) for f in files]
    whole = collect.machines(
        Plan(
            (KernelRequest(SourceRequest(), "x86_64"),),
            seed=1,
            options=Options(select="plan"),
            faults=ENTRIES,
            suite="tests/kernel/sched_ext",
        )
    )
    assert whole["x86_64"].total() == len(ENTRIES), "of the whole suite nothing else is called so"


def test_they_are_tested_whatever_the_suite_is(needed: Needed) -> None:
    alone = needed(FOR_EACH, bpf=BPF)["x86_64"]["default"]
    assert alone > 3
    assert needed("", bpf=BPF) == {"x86_64": {"default": alone - 3}}
    plan = Plan((), seed=1, bpf=BPF, suite="tests/kernel/sched_ext")
    assert [word for word in collect.argv(plan) if "tests/kernel" in word] == [str(collect.ROOT / plan.suite)]


def test_a_suite_without_tests_for_them_takes_none(needed: Needed) -> None:
    for flag, given in (("--bpf", {"bpf": BPF}), ("--faults", {"faults": ENTRIES})):
        with pytest.raises(UsageError, match=f"the suite selftests has no tests for {flag}"):
            collect.argv(Plan((), seed=1, suite="tests/kernel/selftests", **given))


def test_selftests_are_chosen_once_they_are_built(needed: Needed) -> None:
    """Nobody knows their names before: one stands for all, whatever is selected."""
    plan = Plan(
        (KernelRequest(SourceRequest(), "x86_64"),),
        seed=1,
        suite="tests/kernel/selftests",
        options=Options(select="exit"),
    )
    assert collect.machines(plan)["x86_64"] == {"default": 2}, "and what compares their list with the runner's"
    assert "-k" in collect.argv(plan)
    assert "-k" not in collect.argv(plan, collect.SURVEY, "survey.json")
    assert needed("def test_exit(guest): ...", select="numa") == {"x86_64": {"default": 0}}
