# SPDX-License-Identifier: GPL-2.0-only
"""Tests of operations under a fault plan: when the program counts, with what it is armed, what a missed fault means."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import GuestError, Inconclusive
from harness.core.plan import FaultPlan
from harness.core.records import Fault, FaultSummary, Operation
from harness.core.wire import ByteOrder
from harness.faults import plans, policy
from harness.faults import types as faults
from harness.faults.actions import Action
from harness.faults.cause import Cause, Window
from harness.faults.policy import Policy, booked_on, live, settings, window
from harness.faults.sweep import Faults, Rate
from harness.faults.types import NAMES
from harness.session.context import TestContext

SOURCE = (Path(__file__).parents[3] / "bpf_progs/observers/fault_policy.bpf.c").read_text()
ON, OFF = live("p", 1), live("p", 0)
ATTACH, SETTLED, CLEAR = Operation("attach"), Operation("settled"), Operation("clear")

# --- what counts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("during", "wanted"),
    [
        ((ATTACH,), (ON, ATTACH, OFF)),
        ((CLEAR, ATTACH, SETTLED), (ON, CLEAR, ATTACH, OFF, SETTLED)),
        ((ATTACH, Operation("wait-file")), (ON, ATTACH, OFF, Operation("wait-file"))),
        ((), (ON, OFF)),
    ],
)
def test_waiting_is_no_part_of_an_operation(during: tuple[Operation, ...], wanted: tuple[Operation, ...]) -> None:
    assert window("p", during) == wanted
    assert window("p", during, [CLEAR]) == (CLEAR, *wanted)


def test_numbers_are_those_of_the_program() -> None:
    found = dict(re.findall(r"TYPE_(\w+) = (\d)", SOURCE))
    types = {"failslab": int(found["SLAB"]), "page": int(found["PAGE"]), "function": int(found["PERCPU"])}
    assert {name: faults.policy(name) for name in NAMES} == {**types, "any": types["failslab"] + types["page"]}
    assert f"#define MAX_RANGES {policy.MAX_RANGES}\n" in SOURCE
    assert {program for name in NAMES for program in policy.programs_of(name)} == set(
        re.findall(r"BPF_K?PROG?(?:BE)?\((\w+)", SOURCE)
    )


@pytest.mark.parametrize("fault", [Fault(nth=3), Fault("page", every=2), Fault("function", probability=5, seed=9)])
def test_every_setting_is_a_variable(fault: Fault) -> None:
    found = settings(fault)
    assert all(re.search(rf"^(?:u64|u32|s32) {name};", SOURCE, re.M) for name in found)
    assert [found[name] for name in ("nth", "every", "probability", "seed")] == [
        value or 0 for value in (fault.nth, fault.every, fault.probability, fault.seed)
    ]
    assert found["calls"] == found["fired"] == 0, "what an operation before it counted is forgotten"


def test_a_call_that_the_observer_does_not_see_is_booked_on_its_site() -> None:
    got = {"outcomes": [[0, -12, 0, 1, 1]], "loud": [[0, 1, 5, 6]], "runs": 1}
    shown, left = booked_on(1, got, {"left": [[0, 1, 0, 1, 8, []]], "count": 1}, 0)
    assert (shown["outcomes"], shown["loud"], shown["runs"]) == ([[1, -12, 0, 1, 1]], [[1, 1, 5, 6]], 1)
    assert left["left"] == [[1, 1, 0, 1, 8, []]]
    absorbed, _ = booked_on(1, {"outcomes": [], "loud": []}, {"left": []}, -17)
    assert absorbed["outcomes"] == [[1, -17, 0, 1, 1]], "an answer as without a fault is shown by nobody"


# --- a guest that answers -----------------------------------------------------------------

FINE = {"outcomes": [], "loud": [], "disputed": 0, "lost": 0, "runs": 1}


class Object:
    """A BPF object: remembers what it is set to; the program counts `calls` each time it is armed."""

    def __init__(self, name: str, calls: int = 0, wrong: int = 0) -> None:
        self.name, self.calls, self.wrong = name, calls, wrong
        self.values: dict[str, int] = {}
        self.attached: list[str] = []

    def set(self, variable: str, value: int, index: int = 0) -> None:
        self.values[f"{variable}[{index}]" if index else variable] = value

    def attach(self, what: str) -> None:
        self.attached.append(what)

    def get(self, *names: str) -> dict[str, Any]:
        if names == ("lost",):
            return {"lost": 0}
        which: dict[str, Any] = {name: self.values[name] or None for name in ("nth", "every", "probability")}
        fault = Fault(seed=self.values["seed"], **which)
        fired = sum(plans.chosen(fault, number) for number in range(1, self.calls + 1))
        return {
            "calls": self.calls,
            "fired": fired + self.wrong,
            "fired_caller": 20,
            "fired_depth": 0,
            "fired_stack": [],
        }

    def dump(self, map_name: str) -> list[tuple[bytes, bytes]]:
        return []

    def clear(self, map_name: str) -> None: ...


class Stage:
    """A guest, its context and its faults, as far as a policy needs them."""

    def __init__(self, calls: int, *, wrong: int = 0, threads: dict[str, int] | None = None, seed: int = 4242) -> None:
        self.program = Object("p", calls, wrong)
        self.swept: list[tuple[Any, ...]] = []
        self.whole: list[str | None] = []
        agent = SimpleNamespace(call=lambda verb, **args: {"tid": 77, "left": []}, kmsg=[], order=ByteOrder.LITTLE)
        guest = SimpleNamespace(
            agent=agent,
            tid=lambda: 77,
            load=lambda name: self.program,
            sweep=self.sweep,
            settle=lambda: "",
            log=lambda: agent.kmsg.append(f"6,{500 + len(agent.kmsg)},1,-;read"),
            thread=lambda name: (threads or {}).get(name, 0),
        )
        self.target = SimpleNamespace(
            gfp_bits={15: "NOFAIL"},
            pristine=SimpleNamespace(scale=1.0, next_seq=500),
            symbols=SimpleNamespace(
                ranges=lambda names: {name: ((16, 32), (64, 80)) if name != "gone" else () for name in names},
                chain=lambda addresses: (),
            ),
        )
        context = SimpleNamespace(
            guest=guest,
            target=self.target,
            seed=seed,
            findings=[],
            windows=[],
            armed=[],
            arms=False,
            _cause=None,
            count_faults=lambda summary: None,
            count_model=lambda *n: None,
        )
        for name in ("under", "arming", "next_record"):
            setattr(context, name, getattr(TestContext, name).__get__(context))
        self.context = context
        self.windows: list[Window] = context.windows
        self.rates: list[Rate] = []
        faults = SimpleNamespace(
            observer=Object("o"), ledger=lambda under, deep: Object("l"), sweep=self.sweep_whole, rates=self.rates
        )
        self.policy = Policy(cast(TestContext, context), cast(Faults, faults))

    def sweep(self, *steps: Any, **settings: int) -> dict[str, Any]:
        self.swept.append((steps, settings))
        return FINE

    def sweep_whole(self, action: Action, thread: str | None) -> FaultSummary | None:
        self.whole.append(thread)
        self.rates += [Rate(2, 0.1), Rate(3, 0.1)]
        return None if thread == "nobody" else FaultSummary()

    def __call__(self, **fault: Any) -> policy.Shot:
        return self.policy.carry_out(FaultPlan("attach", Fault(**fault)), Action("attach", (ATTACH, SETTLED)))


def test_one_fault_is_one_run() -> None:
    stage = Stage(5)
    assert stage(nth=3) == policy.Shot(5, 1)
    ((steps, how),) = stage.swept
    assert steps[0] == (ON, ATTACH, OFF, SETTLED)
    assert steps[2] == (OFF,), "also where the operation broke off"
    assert (how["every"], how["to"], how["all"], how["budget_ms"]) == (1, 1, 1, policy.OPERATION_MS)
    assert stage.windows == [Window(501, 502, Cause("attach", fault="{operation: attach, nth: 3}"))], (
        "the log meanwhile"
    )
    assert (stage.context.arms, stage.context.armed) == (True, []), (
        "the agent tells in which part of it something failed"
    )
    assert stage.program.attached == ["fail_slab", "fail_page"]
    assert (stage.program.values["only_tid"], stage.program.values["gfp_nofail"]) == (77, 1 << 15)
    assert (stage.program.values["nr_ranges"], stage.program.values["nr_callers"]) == (0, 0)


def test_a_fault_that_never_fires_is_seen() -> None:
    assert Stage(5)(nth=6) == policy.Shot(5, 0)
    assert Stage(0)(every=1) == policy.Shot(0, 0)


def test_a_program_that_does_not_do_what_the_plan_says_is_not_believed() -> None:
    with pytest.raises(GuestError, match="of 5 allocations 2 failed, 1 should have"):
        Stage(5, wrong=1)(nth=3)


def test_where_and_who() -> None:
    stage = Stage(5, threads={"helper": 88})
    stage(what="function", within=("f",), caller="g", task="helper", every=9)
    values = stage.program.values
    assert (values["nr_ranges"], values["starts"], values["ends[1]"]) == (2, 16, 80), "each clone has its text"
    assert (values["nr_callers"], values["caller_starts[1]"], values["only_tid"]) == (2, 64, 88)
    assert stage.program.attached == ["fail_percpu"]
    stage(what="failslab", task="all", every=9)
    assert (values["nr_ranges"], values["nr_callers"], values["only_tid"]) == (0, 0, 0)
    watch = stage.swept[1][0][0][0]
    assert (watch.args["name"], watch.args["var"], watch.args["value"]) == ("o", "watch_tid", -1)


def test_an_operation_that_is_only_countable_below_a_function() -> None:
    stage = Stage(5)
    action = Action("fork", (Operation("fork"),), within="scx_fork")
    stage.policy.carry_out(FaultPlan("fork", Fault(nth=1)), action)
    assert stage.program.values["nr_ranges"] == 2


def test_a_share_without_a_seed_takes_that_of_the_run() -> None:
    stage = Stage(50, seed=99)
    assert stage(probability=10).fired == sum(plans.chosen(Fault(probability=10, seed=99), n) for n in range(1, 51))
    stage(probability=10, seed=0)
    assert stage.program.values["seed"] == 0, "0 is a seed"
    stage(nth=1)
    assert stage.program.values["seed"] == 0


def test_no_such_thread_and_no_such_function() -> None:
    with pytest.raises(Inconclusive, match="there is no thread nobody when attach is done"):
        Stage(5)(task="nobody", nth=1)
    with pytest.raises(pytest.skip.Exception, match="this kernel has no function gone"):
        Stage(5)(within=("gone",), nth=1)


def test_each_allocation_once() -> None:
    stage = Stage(4)
    assert stage(what="failslab") == policy.Shot(4, 4)
    assert len(stage.swept) == 4 + policy.MISSES
    assert stage.whole == []


def test_without_a_restriction_it_is_the_suites_own_sweep() -> None:
    stage = Stage(4)
    assert [stage(), stage(task="all"), stage(task="helper")] == [policy.Shot(5, 5)] * 3
    assert stage.whole == ["", None, "helper"]
    assert not stage.swept
    with pytest.raises(Inconclusive, match="there is no such thread"):
        stage(task="nobody")
