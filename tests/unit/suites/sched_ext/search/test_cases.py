# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the search's schedulers: as data, what is drawn of them, when they are played, and what of them is the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from sched_ext.features import NO_PRIVATE_STACK
from sched_ext.fields import problem
from sched_ext.model import ids
from sched_ext.model.case import SWITCH_PARTIAL, Case, End, ExitKind, Insert, Platform, Seen
from sched_ext.model.ops import CALM_MS, MAY_SLEEP, OpsRules
from sched_ext.model.state import Features
from sched_ext.search import cases
from sched_ext.search.cases import CHANGES, MOST_CREATED, SLEEPING, VERB, known, merged
from sched_ext.search.moves import move
from sched_ext.search.same import kin
from sched_ext.search.words import words

from harness.core.errors import Disagreed
from harness.core.records import Finding, Operation, Scenario, decode, encode
from harness.guest.agent import AgentError
from harness.oracles.splat.frames import neutral, signature
from tests.unit.suites.sched_ext.search.test_player import ATTACH, World
from tests.unit.suites.sched_ext.search.test_search import FakeGuest, search_of
from tests.unit.suites.sched_ext.search.test_search import World as SearchWorld

EVERYTHING = Case(
    flags=SWITCH_PARTIAL | 1 << 63,
    timeout_ms=ids.U32,
    dispatch_max_batch=1,
    exit_dump_len=2,
    hotplug=1,
    name="a/b",
    without=frozenset(["enable", "dispatch"]),
    sleeping=frozenset(["cpu_online"]),
    extra=frozenset(["update_idle"]),
    creates=((ids.U64, -1), (7, 0)),
    init=-5,
    cgroup_init=1,
    init_task=-4096,
    nth=3,
    fork=-1,
    disallow=True,
    select_cpu=-1,
    select=Insert(ids.LOCAL, 0, ids.U64, 1 << 56, 2),
    enqueue=None,
    dispatch=Insert(7),
    move=7,
    pinned=None,
)

PLATFORM = Platform(
    Features(), frozenset({0}), 2, 0x1FF, 0xFF << 56, {"SCX_ENQ_IMMED": 1 << 33}, frozenset(["cgroup_init"])
)


def through_a_file(one: Operation) -> Operation:
    scenario = Scenario("default", (), 7, (one,))
    return decode(json.loads(json.dumps(encode(scenario))), Scenario).sequence[0]


# --- as data ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [one.name for one in fields(Case)])
def test_every_field_comes_through_a_replay_file(name: str) -> None:
    value = getattr(EVERYTHING, name)
    assert value != getattr(Case(), name), "else it tells nothing"
    case = replace(Case(), **{name: value})
    one = cases.encode(case)
    assert list(one.args) == [name], "nothing else is said"
    assert cases.decode(through_a_file(one).args) == case


def test_all_fields_together() -> None:
    assert cases.decode(through_a_file(cases.encode(EVERYTHING)).args) == EVERYTHING


def test_a_scheduler_that_is_right_has_nothing_to_say() -> None:
    assert cases.encode(Case()).args == {}
    assert words(Operation(VERB)) == "scheduler: nothing out of the way"


def test_a_case_in_words() -> None:
    one = cases.encode(Case(timeout_ms=30_001, enqueue=Insert(8, times=2)))
    assert words(one) == "scheduler: timeout_ms 30001; enqueue 0x8, 2 times"


# --- what is drawn ------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(cases.cases())
def test_what_is_drawn_is_what_the_rules_know(one: Operation) -> None:
    case = cases.decode(one.args)
    assert through_a_file(one) == one
    assert known(case) == case
    assert OpsRules(PLATFORM).ends(case)
    assert case.flags & SWITCH_PARTIAL, "else tasks of the whole system would come"
    assert not 0 < case.timeout_ms < CALM_MS, "the watchdog has no say in it"
    assert case.sleeping <= set(SLEEPING) and len(case.creates) <= MOST_CREATED
    if case.select or case.select_cpu is not None:
        assert case.pinned is None and case.enqueue == Insert()
    if case.sleeping & MAY_SLEEP & {"init_task"}:
        assert not (case.init_task or case.fork or case.disallow)


def test_every_field_is_drawn() -> None:
    seen: set[str] = set()

    @settings(max_examples=600, deadline=None, database=None, derandomize=True)
    @given(cases.cases())
    def draw(one: Operation) -> None:
        seen.update(one.args)

    draw()
    assert seen == {one.name for one in fields(Case)}


def test_changes_of_flags_and_sets_add_up() -> None:
    case = merged(
        [
            {"flags": SWITCH_PARTIAL | 2},
            {"without": frozenset(["enable"])},
            {"flags": SWITCH_PARTIAL | 4},
            {"timeout_ms": 5},
            {"without": frozenset(["dispatch"])},
            {"timeout_ms": 6},
        ]
    )
    assert case == Case(flags=SWITCH_PARTIAL | 6, timeout_ms=6, without=frozenset(["enable", "dispatch"]))
    assert merged([]) == Case() and len(CHANGES) > 20


@pytest.mark.parametrize(
    ("case", "left"),
    [
        (Case(fork=-1, move=8, enqueue=Insert(8)), Case(fork=-1)),
        (Case(select=Insert(8)), Case()),
        (Case(pinned=None, select=Insert(8), enqueue=Insert(9)), Case(pinned=None, select=Insert(8))),
        (Case(pinned=None, select_cpu=-1, enqueue=None), Case(pinned=None, enqueue=None)),
        (Case(init_task=-1, sleeping=frozenset(["init_task"])), Case(init_task=-1)),
        (Case(sleeping=frozenset(["init_task"])), Case(sleeping=frozenset(["init_task"]))),
    ],
)
def test_what_the_rules_do_not_know_together_is_taken_back(case: Case, left: Case) -> None:
    assert known(case) == left


# --- when they are played -----------------------------------------------------------------


class FakeFields:
    """Fields whose every case stays, or ends by `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.cpu = 5
        self.rules = OpsRules(PLATFORM)
        self.error = error
        self.ran: list[Case] = []

    def run(self, case: Case) -> Seen:
        self.ran.append(case)
        if self.error:
            raise self.error
        return Seen()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> FakeFields:
    fake = FakeFields()
    monkeypatch.setattr(cases, "Fields", lambda context: fake)
    return fake


def test_a_case_is_played_where_nothing_else_is(ran: FakeFields) -> None:
    world = World()
    lines = world.play(move(VERB, timeout_ms=30_001), move("create", id=1, node=-1), move(VERB, pinned=None), ATTACH)
    assert ran.ran == [Case(timeout_ms=30_001, pinned=5), Case(pinned=None)]
    assert lines[0] == "scheduler: timeout_ms 30001 -> the scheduler stayed"
    assert world.player.spent.times["cases"] == 2


@pytest.mark.parametrize("before", [ATTACH, move("work", kind="spin", tasks=1)], ids=["scheduler", "workers"])
def test_a_case_is_left_out_where_something_is(ran: FakeFields, before: Operation) -> None:
    world = World()
    assert len(world.play(before, move(VERB))) == 1
    assert not ran.ran and "cases" not in world.player.spent.times


def test_a_case_is_left_out_while_tasks_are_held(ran: FakeFields) -> None:
    world = World()
    held: Any = object()
    world.player._held = held
    assert world.player._do(move(VERB)) is None and not ran.ran


def test_a_case_is_left_out_where_dsqs_need_no_scheduler(ran: FakeFields) -> None:
    world = World()
    world.player._dsq.model.features = Features(global_hash=True)
    assert world.player._do(move(VERB)) is None and not ran.ran


def test_a_case_that_waits_for_the_watchdog_is_left_out(ran: FakeFields) -> None:
    world = World()
    assert world.play(cases.encode(Case(enqueue=Insert(ids.INVALID)))) == []
    assert not ran.ran and "cases" not in world.player.spent.times


@pytest.mark.parametrize(("says", "raised"), [(f"... {NO_PRIVATE_STACK}", False), ("no memory", True)])
def test_a_scheduler_that_the_machine_cannot_have(ran: FakeFields, says: str, raised: bool) -> None:
    ran.error = AgentError("load", {"errno": 22, "error": says})
    if raised:
        with pytest.raises(AgentError):
            World().play(move(VERB))
    else:
        assert World().play(move(VERB)) == []


def test_a_case_that_disagrees_is_the_last_line(ran: FakeFields) -> None:
    ran.error = Disagreed(
        "timeout_ms 30001: attach answered -E2BIG; the model allows only that the scheduler stays (f: x)"
    )
    world = World()
    with pytest.raises(Disagreed):
        world.play(move(VERB, timeout_ms=30_001))
    assert world.player.lines == [
        "scheduler: timeout_ms 30001 -> -E2BIG; the model allows only that the scheduler stays (f: x)"
    ]


# --- that a wrong one is found ------------------------------------------------------------


class AnyTimeout(OpsRules):
    """Takes a timeout of any length."""

    def ends(self, case: Case) -> tuple[End, ...]:
        return super().ends(replace(case, timeout_ms=min(case.timeout_ms, 30_000)))


class AnyAnswer(OpsRules):
    """Takes any answer of ops.init."""

    def ends(self, case: Case) -> tuple[End, ...]:
        return super().ends(replace(case, init=0))


class AnyFlags(OpsRules):
    """Takes any flags of an insertion in ops.enqueue."""

    def ends(self, case: Case) -> tuple[End, ...]:
        return super().ends(replace(case, enqueue=case.enqueue and replace(case.enqueue, flags=0)))


def end_of(rules: OpsRules, case: Case) -> Seen:
    """How a kernel with these rules ends a case; of a message there is only what names it."""
    end = rules.ends(case)[0]
    message = {r".{1,15}\[\d+\]": "sleep[12]", r"\d+": "3", "0x[0-9a-f]+": "0x9"}
    said = end.message
    for pattern, text in message.items():
        said = said.replace(pattern, text)
    return Seen(end.load, end.attach, end.fork, end.kind, end.code, re.sub(r"\\(.)", r"\1", said))


class RulesGuest(FakeGuest):
    """Schedulers end by the rules of `kernel`, and are compared with those of `model`."""

    def __init__(self, world: SearchWorld, kernel: OpsRules, model: OpsRules) -> None:
        super().__init__(world)
        self.kernels, self.models = kernel, model

    def _do(self, one: Operation) -> object:
        if one.verb != VERB:
            return super()._do(one)
        case = cases.decode(one.args)
        legal = self.models.ends(case)
        if "s" in self.model.links or any(end.kind is ExitKind.STALL for end in legal):
            return None
        return problem(case, legal, end_of(self.kernels, case)) or None


RIGHT = OpsRules(PLATFORM)


@pytest.mark.parametrize(
    ("kernel", "model", "field"),
    [
        (RIGHT, AnyTimeout(PLATFORM), "timeout_ms"),
        (AnyTimeout(PLATFORM), RIGHT, "timeout_ms"),
        (RIGHT, AnyAnswer(PLATFORM), "init"),
        (AnyAnswer(PLATFORM), RIGHT, "init"),
        (RIGHT, AnyFlags(PLATFORM), "enqueue"),
        (AnyFlags(PLATFORM), RIGHT, "enqueue"),
    ],
)
def test_a_wrong_rule_is_found_in_one_scheduler_with_one_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: OpsRules, model: OpsRules, field: str
) -> None:
    world = SearchWorld()
    monkeypatch.setattr(world, "guest", lambda: RulesGuest(world, kernel, model))
    found = search_of(world, tmp_path, monkeypatch).run(30.0)
    assert found is not None
    assert [(one.verb, list(one.args)) for one in found.moves] == [(VERB, [field])], found.lines


def test_right_rules_find_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = SearchWorld()
    monkeypatch.setattr(world, "guest", lambda: RulesGuest(world, RIGHT, RIGHT))
    assert search_of(world, tmp_path, monkeypatch).run(1.0) is None


# --- what is the same ---------------------------------------------------------------------


def shown(seen: Seen, case: Case) -> Finding:
    """As Fields.run() words it."""
    text = problem(case, OpsRules(PLATFORM).ends(case), seen)
    assert text
    return Finding("model", "disagreement", text, signature("model", "disagreement", (), neutral(text)))


E2BIG, NO_DSQ = Seen(attach=-7), Seen(kind="SCX_EXIT_ERROR", message="non-existent DSQ 0x8")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # What comes later is up to the other fields, be it the model's end or the kernel's.
        (shown(E2BIG, Case(enqueue=Insert(8), exit_dump_len=1)), shown(E2BIG, Case()), True),
        (shown(NO_DSQ, Case(timeout_ms=30_001, enqueue=Insert(8))), shown(Seen(), Case(timeout_ms=ids.U32)), True),
        (shown(Seen(), Case(enqueue=Insert(8))), shown(Seen(), Case(enqueue=Insert(9), timeout_ms=0)), True),
        (shown(E2BIG, Case(exit_dump_len=ids.U32)), shown(E2BIG, Case()), True),
        (shown(E2BIG, Case()), shown(Seen(attach=-22), Case()), False),
        (shown(Seen(), Case(timeout_ms=30_001)), shown(Seen(), Case(flags=1 << 60)), False),
        (shown(Seen(), Case(enqueue=Insert(8))), shown(Seen(), Case(enqueue=Insert(flags=1 << 56))), False),
        (shown(E2BIG, Case()), shown(Seen(), Case(timeout_ms=30_001)), False),
        (shown(NO_DSQ, Case(enqueue=Insert(flags=1 << 56))), shown(NO_DSQ, Case()), False),
    ],
)
def test_a_case_of_fewer_fields_shows_the_same_or_not(one: Finding, other: Finding, same: bool) -> None:
    assert (kin(one) == kin(other)) is same


@pytest.mark.parametrize("what", ["every task to do 5 turns", "the scheduler to exit"])
def test_cases_that_come_to_no_end_are_the_same(what: str) -> None:
    def waited(case: Mapping[str, Any], turns: str) -> Finding:
        text = f"waited 10 s for {Case(**case)}: {what}: [{turns}] turns were done; task 12 is R, on CPU 1, ran 0 ticks"
        return Finding("model", "disagreement", text, "s")

    assert kin(waited({"timeout_ms": 0}, "9, 1")) == kin(waited({}, "0"))
