# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what makes a bisection this one and no other."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from harness.bisect.drive import Asked
from harness.bisect.identity import DAY, DECIDES, ELSEWHERE, GIVEN, INDIFFERENT, identity, of_its_day
from harness.bisect.state import State
from harness.core.errors import UsageError
from harness.core.options import Options, options_of
from harness.core.plan import Allowed, BpfRequest, FaultPlan, KernelRequest, Plan, SourceRequest
from harness.core.records import Fault, Operation

PLAN = Plan((KernelRequest(SourceRequest(tree="/linux"), "x86_64"),), seed=7)
ENTRY = Allowed("dmesg:warn:f", "known", "2027-01-31", ("arm64",), "allow.yaml:3")

OTHERS: dict[str, Any] = {
    "machines": ("numa",),
    "suite": "tests/kernel/selftests",
    "faults": (FaultPlan("create", Fault("failslab")),),
    "allow": (ENTRY,),
    "search": 60.0,
    "sequence": (Operation("create", {}),),
    "test_id": "t",
    "tree": "f" * 40,
    "added": {"a.c": (1,)},
    "seed": 8,
    "incremental": True,
    "argv": ("kharness",),
    "cache_cap_gib": 1,
}
AS_GIVEN = sorted(name for name, (_, meta) in options_of(Options).items() if not meta.becomes)


def shown(plan: Plan = PLAN) -> dict[str, Any]:
    return identity(plan, Asked(), ["a", "b"], [], [])


def test_each_field_of_a_plan_was_thought_about() -> None:
    """A new field of Plan fails here until it is in one of the three."""
    there = [*DECIDES, *ELSEWHERE, *INDIFFERENT]
    assert sorted(there) == sorted(field.name for field in fields(Plan))


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in INDIFFERENT])
def test_another_plan_is_another_bisection(name: str) -> None:
    assert shown(replace(PLAN, **{name: OTHERS[name]})) != shown()


@pytest.mark.parametrize("name", sorted(INDIFFERENT))
def test_what_does_not_decide_a_run_does_not_matter(name: str) -> None:
    assert OTHERS[name] != getattr(PLAN, name)
    assert shown(replace(PLAN, **{name: OTHERS[name]})) == shown()


def test_each_option_is_given_or_becomes_a_field_of_the_plan() -> None:
    becomes = {meta.becomes for _, meta in options_of(Options).values()} - {""}
    assert becomes <= {*DECIDES, *ELSEWHERE}
    assert becomes >= {"kernels", "machines", "suite", "kconfig", "seed"}
    assert {"select", "full", "cmdline", "toolchain", "coverage"} <= set(GIVEN)


@pytest.mark.parametrize("name", AS_GIVEN)
def test_an_option_decides_as_its_metadata_says(name: str) -> None:
    default = getattr(Options(), name)
    other = f"{default}x" if isinstance(default, str) else default + 1
    _, meta = options_of(Options)[name]
    assert (shown(PLAN.with_options(**{name: other})) != shown()) is meta.identity


def test_an_allow_list_is_what_it_allows() -> None:
    listed = shown(replace(PLAN, allow=(ENTRY,)))
    for same in ({"place": "other.yaml:9"}, {"expired": True}, {"reason": "in other words"}):
        assert shown(replace(PLAN, allow=(replace(ENTRY, **same),))) == listed, same
    for other in ({"signature": "dmesg:warn:g"}, {"arch": ()}, {"expires": "2027-02-28"}):
        assert shown(replace(PLAN, allow=(replace(ENTRY, **other),))) != listed, other
    second = replace(ENTRY, signature="kmemleak:leak:g")
    assert shown(replace(PLAN, allow=(ENTRY, second))) == shown(replace(PLAN, allow=(second, ENTRY)))


def test_a_bpf_program_is_its_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.bpf.c"
    file.write_text("one")
    plan = replace(PLAN, bpf=(BpfRequest(str(file)),))
    one = shown(plan)
    assert one == shown(plan) != shown()
    (tmp_path / "mine.h").write_text("two")
    two = shown(plan)
    assert two != one
    file.write_text("three")
    assert shown(plan) not in (one, two)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*gone: No such file"):
        identity(PLAN, Asked(), [], [str(tmp_path / "gone")], [])


def test_an_entry_that_expires_overnight_holds_until_the_bisection_ends(tmp_path: Path) -> None:
    state = State.open(tmp_path, {})
    state.note(DAY, "2027-01-31")
    read_the_day_after = replace(PLAN, allow=(replace(ENTRY, expired=True),))
    assert not of_its_day(read_the_day_after, state).allow[0].expired
    state.close()
    fresh = State.open(tmp_path / "later", {})
    assert of_its_day(replace(PLAN, allow=(replace(ENTRY, expires="2020-01-01"),)), fresh).allow[0].expired
    assert fresh.notes[DAY] > "2020-01-01"
    fresh.close()


def test_a_fault_plan_that_was_moved_is_the_same() -> None:
    entry = FaultPlan("create", Fault("failslab"), "faults.yaml:1")
    one, moved = replace(PLAN, faults=(entry,)), replace(PLAN, faults=(replace(entry, place="other.yaml:7"),))
    assert shown(one) == shown(moved)
