# SPDX-License-Identifier: GPL-2.0-only
"""Tests of fault plans: what a file may say, what is wrong in one is named, and one line says it all again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import Exit, UsageError
from harness.core.plan import FaultPlan
from harness.core.records import Fault, decode, encode
from harness.faults import plans
from harness.faults.cause import plan_of

OPERATIONS = ("create", "attach", "fork", "create-duplicate")
RANGES = {"init_dsq": (16, 32), "scx_alloc_and_add_sched": (32, 64), "exit_dsq": (64, 80)}


def read(folder: Path, text: str) -> tuple[FaultPlan, ...]:
    file = folder / "faults.yaml"
    file.write_text(text)
    return plans.read(file, OPERATIONS)


# --- reading ------------------------------------------------------------------------------


def test_a_list_of_entries(tmp_path: Path) -> None:
    text = (
        "- {operation: attach, what: failslab, within: [init_dsq, exit_dsq], task: scx_enable_helper, nth: 3}\n"
        "- operation: create\n  what: function\n  caller: init_dsq\n  within: scx_bpf_create_dsq\n  every: 2\n\n"
        "- {operation: attach, what: page, task: all, probability: 10, seed: 7}\n- operation: fork\n"
    )
    found = read(tmp_path, text)
    assert found == (
        FaultPlan("attach", Fault("failslab", ("init_dsq", "exit_dsq"), "scx_enable_helper", nth=3)),
        FaultPlan("create", Fault("function", ("scx_bpf_create_dsq",), every=2, caller="init_dsq")),
        FaultPlan("attach", Fault("page", task="all", probability=10, seed=7)),
        FaultPlan("fork", Fault()),
    )
    assert [entry.place.rpartition("/")[2] for entry in found] == [f"faults.yaml:{n}" for n in (1, 2, 8, 9)]


def test_one_entry_needs_no_list(tmp_path: Path) -> None:
    assert read(tmp_path, "{operation: create, nth: 1}\n") == (FaultPlan("create", Fault(nth=1)),)
    assert read(tmp_path, "operation: create\nnth: 1\n") == (FaultPlan("create", Fault(nth=1)),)


def test_a_name_stays_as_it_is_written(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "{operation: create, task: on, within: [no]}")
    assert (found.fault.task, found.fault.within) == ("on", ("no",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "faults.yaml: no faults"),
        ("[]", "faults.yaml: no faults"),
        ("words", "faults.yaml: no faults"),
        ("- words", "faults.yaml:1: no entry"),
        ("- {operation: fork}\n- [a]", "faults.yaml:2: no entry"),
        ("- nth: 3", "faults.yaml:1: an entry without operation"),
        ("- operation: creat", "faults.yaml:1: operation: unknown operation 'creat'; near it: create"),
        ("- operation: xyzzy", "unknown operation 'xyzzy'; one of: create, attach, fork, create-duplicate"),
        ("- operation: [create]", "faults.yaml:1: operation: Expected str, got array"),
        ("- operation: fork\n  nht: 3", "faults.yaml:2: unknown key 'nht'; near it: nth"),
        ("- operation: fork\n  nth: 3\n  nth: 4", "faults.yaml:3: nth is there twice"),
        ("- operation: fork\n  what: slab", "faults.yaml:2: what: unknown type 'slab'; near it: failslab"),
        ("- {operation: fork, nth: 0}", "faults.yaml:1: nth: Expected int >= 1"),
        ("- {operation: fork, nth: third}", "faults.yaml:1: nth: Expected int, got str"),
        ("- {operation: fork, every: 0}", "faults.yaml:1: every: Expected int >= 1"),
        ("- {operation: fork, probability: 101}", "faults.yaml:1: probability: Expected int <= 100"),
        ("- {operation: fork, probability: 5, seed: -1}", "faults.yaml:1: seed: Expected int >= 0"),
        ("- {operation: fork, nth: 3, every: 2}", "faults.yaml:1: nth and every exclude each other"),
        ("- {operation: fork, nth: 3, seed: 2}", "faults.yaml:1: seed: nothing is drawn"),
        ("- {operation: fork, caller: f}", "faults.yaml:1: caller: only calls of alloc_percpu()"),
        ("- {operation: fork, within: 'a b'}", "faults.yaml:1: within: 'a b' is no function's name"),
        ("- {operation: fork, what: function, caller: 'f()'}", "faults.yaml:1: caller: 'f()' is no function's name"),
        ("- {operation: fork, task: ''}", "faults.yaml:1: task: '' is no thread's name"),
        (
            "- {operation: fork, nth: 3}\n- {operation: fork, nth: 3, what: any}",
            "faults.yaml:2: this fault is there twice",
        ),
        ("- {operation: fork", "faults.yaml: not YAML: "),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, text)
    assert says in raised.value.what
    assert raised.value.step and "\n" not in raised.value.line()
    assert raised.value.exit is Exit.USAGE


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the fault plan"):
        plans.read(tmp_path / "nothing.yaml", OPERATIONS)


# --- one line -----------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,20}", fullmatch=True)
COUNTS = st.integers(1, 1 << 40)
WHICH: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    COUNTS.map(lambda n: {"nth": n}),
    COUNTS.map(lambda n: {"every": n}),
    st.tuples(st.integers(1, 100), st.none() | st.integers(0, (1 << 63) - 1)).map(
        lambda drawn: {"probability": drawn[0], "seed": drawn[1]}
    ),
)
THREADS = st.sampled_from(
    ["self", "all", "kthreadd", "on", "null", "7.10", "kworker/0:1H", "a: b", "# x", "é\u0085".strip()]
)


@st.composite
def entries(draw: st.DrawFn) -> FaultPlan:
    what = draw(st.sampled_from(["any", "failslab", "page", "function"]))
    fault = Fault(
        what,
        tuple(draw(st.lists(NAMES, max_size=3))),
        draw(THREADS),
        caller=draw(st.just("") | NAMES) if what == "function" else "",
        **draw(WHICH),
    )
    return FaultPlan(draw(st.sampled_from(OPERATIONS)), fault)


@given(entries())
def test_the_line_says_the_same_again(tmp_path_factory: pytest.TempPathFactory, plan: FaultPlan) -> None:
    text = plans.line(plan)
    assert "\n" not in text and text.isprintable()
    assert read(tmp_path_factory.mktemp("plan"), text) == (plan,)
    assert read(tmp_path_factory.mktemp("plan"), f"- {text}\n") == (plan,)


@given(entries(), entries())
def test_different_entries_have_different_names(one: FaultPlan, other: FaultPlan) -> None:
    assert (one.name == other.name) == (one == other)


@given(entries())
def test_an_entry_survives_json(plan: FaultPlan) -> None:
    assert decode(json.loads(json.dumps(encode(plan))), FaultPlan) == plan


def test_the_line_says_no_more_than_needed() -> None:
    assert plans.line(FaultPlan("create", Fault(nth=3))) == "{operation: create, nth: 3}"
    fault = Fault("function", ("f",), "all", probability=10, seed=0, caller="init_dsq")
    wanted = "{operation: attach, what: function, within: [f], caller: init_dsq, task: all, probability: 10, seed: 0}"
    assert plans.line(FaultPlan("attach", fault)) == wanted


def test_what_a_sweep_tells_of_a_fault_is_a_plan(tmp_path: Path) -> None:
    assert read(tmp_path, plan_of("attach", "kthreadd", 7)) == (FaultPlan("attach", Fault(task="kthreadd", nth=7)),)
    assert read(tmp_path, plan_of("fork", "", 2)) == (FaultPlan("fork", Fault(nth=2)),)


# --- symbols ------------------------------------------------------------------------------


def test_functions_that_are_there() -> None:
    fault = Fault("function", ("scx_alloc_and_add_sched",), caller="init_dsq", nth=1)
    plans.check([FaultPlan("create", fault), FaultPlan("fork", Fault())], RANGES)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(within=("init_dsq", "exit_dqs")), "f.yaml:4: within: this kernel has no function exit_dqs"),
        (Fault("function", caller="exit_dqs"), "f.yaml:4: caller: this kernel has no function exit_dqs"),
    ],
)
def test_a_function_that_is_not_there(fault: Fault, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        plans.check([FaultPlan("create", fault, "f.yaml:4")], RANGES)
    assert says in raised.value.what
    assert "exit_dsq" in raised.value.step


# --- which calls fail ---------------------------------------------------------------------


def fails(fault: Fault, calls: int = 1000) -> list[int]:
    return [number for number in range(1, calls + 1) if plans.chosen(fault, number)]


def test_the_nth_and_every_nth() -> None:
    assert fails(Fault(nth=3)) == [3]
    assert fails(Fault(every=400)) == [400, 800]
    assert fails(Fault(every=1), 5) == [1, 2, 3, 4, 5]


def test_a_share_is_the_same_each_time_and_another_for_another_seed() -> None:
    some = fails(Fault(probability=10, seed=7))
    assert some == fails(Fault(probability=10, seed=7)) != fails(Fault(probability=10, seed=8))
    assert 60 < len(some) < 140
    assert set(some) < set(fails(Fault(probability=20, seed=7))), "a larger share has the smaller one in it"
    assert fails(Fault(probability=100, seed=7), 50) == list(range(1, 51))


@given(st.integers(0, (1 << 63) - 1))
def test_no_seed_is_far_off_its_share(seed: int) -> None:
    assert 400 < len(fails(Fault(probability=50, seed=seed))) < 600


def test_the_generator_is_splitmix64() -> None:
    """The first numbers of its published reference for seed 1234567."""
    known: list[Any] = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [plans._draw(1234567, number) for number in (1, 2, 3)] == known
