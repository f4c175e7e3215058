# SPDX-License-Identifier: GPL-2.0-only
"""Tests of cases on a guest: what is set before the load, and that each way to end is seen as what it is."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext import fields
from sched_ext.dsq import STATE
from sched_ext.fields import Fields, answers, members, probe
from sched_ext.model import ids
from sched_ext.model.case import CALLBACKS, Case, Insert, Seen
from sched_ext.model.state import Features

from harness.core.errors import Disagreed
from harness.guest.agent import AgentError
from harness.session.context import TestContext
from tests.unit.fakes.context import FakeObject

PROGRAM = (Path(__file__).resolve().parents[4] / "bpf_progs" / "sched_ext" / "dsq_fields.bpf.c").read_text()


class Btf:
    def enumerators(self, prefix: str) -> dict[str, int]:
        known = {
            "SCX_OPS_ALL_FLAGS": 0x1FF,
            "SCX_OPS_ENQ_LAST": 2,
            "SCX_ENQ_HEAD": 16,
            "__SCX_ENQ_INTERNAL_MASK": -1 << 56,
            "SCX_EXIT_ERROR": 1024,
            "SCX_EXIT_UNREG_KERN": 66,
        }
        return {name: value for name, value in known.items() if name.startswith(prefix)}

    def members(self, name: str) -> frozenset[str]:
        return frozenset(CALLBACKS) if name == "sched_ext_ops" else frozenset()


class World:
    """A guest whose scheduler ends by `exits` (variables of its exit record) or by an errno of load, attach or work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **refused: int) -> None:
        self.refused = refused
        self.exits: dict[str, Any] = {}
        self.turns = [9, 9]
        self.asked: dict[str, Any] = {}
        self.shown: list[str | None] = []
        self.expected: list[str] = []
        self.scheduler = FakeObject(exited=0, exit_kind=0, exit_code=0, exit_msg="")
        monkeypatch.setattr(self.scheduler, "attach", lambda what="ops", check=True: -self.refused.get("attach", 0))
        monkeypatch.setattr(fields, "PATIENCE_SECONDS", 0.01)
        state = {STATE: "enabled\n", fields.HOTPLUG_SEQ: "3\n"}
        guest = SimpleNamespace(
            read=state.get,
            load=self.load,
            work=self.work,
            tid=lambda: 77,
            wait_for=lambda path, text: text,
            pristine=SimpleNamespace(scale=1.0),
            agent=SimpleNamespace(call=lambda *a, **k: {"ok": False}),
        )
        machine = SimpleNamespace(spec=SimpleNamespace(nodes=1, possible_cpus=2, online_cpus=2))
        target = SimpleNamespace(btf=Btf(), features=Features(), machine=machine)
        context = SimpleNamespace(
            guest=guest,
            target=target,
            expect=lambda *patterns: self.expected.extend(patterns),
            count_model=lambda done, compared, wrong: self.shown.append(wrong),
        )
        self.fields = Fields(cast(TestContext, context))

    def _refuse(self, verb: str) -> None:
        if verb in self.refused:
            raise AgentError(verb, {"errno": self.refused[verb], "error": "no"})

    def load(self, program: str, ops: Mapping[str, int | str], **variables: int) -> FakeObject:
        self.asked = {"program": program, **ops}
        self._refuse("load")
        return self.scheduler

    def work(self, kind: str, workers: int, **how: Any) -> Any:
        self._refuse("work")
        self.scheduler.variables |= self.exits
        return SimpleNamespace(progress=lambda: self.turns, kill=lambda: None, pids=(1, 2))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_what_is_probed() -> None:
    platform = probe(cast(Any, Btf()), Features(), 2, 4)
    assert platform.nodes == {0, 1}
    assert (platform.possible_cpus, platform.all_flags) == (4, 0x1FF)
    assert platform.internal_enq == 0xFF << 56
    assert (platform.flag("SCX_ENQ_HEAD"), platform.flag("SCX_ENQ_IMMED")) == (16, 0)


def test_members_are_set_where_they_differ(world: World) -> None:
    platform = world.fields.platform
    assert members(Case(), platform, 3) == {}
    case = Case(
        timeout_ms=1,
        name="",
        hotplug=1,
        without=frozenset(["enqueue"]),
        sleeping=frozenset(["init_task"]),
        extra=frozenset(["update_idle"]),
    )
    assert members(case, platform, 3) == {
        "timeout_ms": 1,
        "name": "",
        "hotplug_seq": 4,
        "enqueue": "",
        "init_task": "fields_init_task_may_sleep",
        "update_idle": "fields_update_idle",
    }


def test_a_callback_that_the_kernel_has_not_is_left_out(world: World) -> None:
    lacking = probe(
        cast(Any, SimpleNamespace(enumerators=Btf().enumerators, members=lambda name: frozenset())), Features(), 1, 1
    )
    assert members(Case(), lacking, 0) == dict.fromkeys(CALLBACKS, "")


def test_every_variable_and_program_is_in_the_scheduler() -> None:
    everything = Case(select=Insert(), enqueue=Insert(vtime=1), dispatch=Insert())
    for name in answers(everything, 1):
        assert re.search(rf"\b{name}\b", PROGRAM), name
    for name in CALLBACKS:
        assert f".{name} = (void *)fields_{name}," in PROGRAM
    for name in ("enqueue", "dispatch", "init_task", "exit_task", "cpu_online"):
        assert f"fields_{name}_may_sleep" in PROGRAM


def test_answers() -> None:
    got = answers(Case(init_task=-1, nth=4, select_cpu=-1, move=7, enqueue=Insert(7, 1, 2, 3, 2)), 77)
    assert (got["init_task_nth"], got["fork_parent"], got["selects"], got["select_cpu"]) == (4, 0, 1, -1)
    assert (got["moves"], got["move_dsq"], got["select_times"], got["dispatch_times"]) == (1, 7, 0, 0)
    place = [got[f"enqueue_{name}"] for name in ("dsq", "slice", "vtime", "flags", "by_vtime", "times")]
    assert place == [7, 1, 2, 3, 1, 2]
    assert answers(Case(fork=-1), 77)["fork_parent"] == 77
    assert answers(Case(enqueue=None), 77)["enqueue_times"] == 0


def test_a_scheduler_that_stays(world: World) -> None:
    assert world.fields.run(Case(creates=((7, 0),), enqueue=Insert(7), move=7)) == Seen()
    assert world.shown == [None]
    assert world.scheduler.unloaded
    assert ("create_ids", 7) in world.scheduler.history


def test_a_scheduler_that_is_ejected(world: World) -> None:
    world.exits = {"exited": 1, "exit_kind": 1024, "exit_msg": "non-existent DSQ 0x8"}
    seen = world.fields.run(Case(enqueue=Insert(8)))
    assert (seen.kind, seen.message) == ("SCX_EXIT_ERROR", "non-existent DSQ 0x8")
    assert world.expected == [r"non\-existent\ DSQ\ 0x8"]


@pytest.mark.parametrize(
    ("verb", "case"),
    [("load", Case(sleeping=frozenset(["enqueue"]))), ("attach", Case(name="")), ("work", Case(fork=-22))],
)
def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, verb: str, case: Case) -> None:
    world = World(monkeypatch, **{verb: errno.EINVAL})
    world.fields.run(case)
    assert world.shown == [None]


@pytest.mark.parametrize(
    ("refused", "case", "shown"),
    [
        ({"attach": errno.E2BIG}, Case(), "attach answered -E2BIG; the model allows only that the scheduler stays"),
        ({}, Case(timeout_ms=30_001), "the scheduler stayed; the model allows only that attach answers -E2BIG"),
        ({"work": errno.EPERM}, Case(fork=-2), "fork answered -EPERM, the scheduler stayed; the model"),
        ({}, Case(fork=-2), "the scheduler stayed; the model allows only that fork answers -ENOENT"),
    ],
)
def test_what_the_model_does_not_allow(
    monkeypatch: pytest.MonkeyPatch, refused: dict[str, int], case: Case, shown: str
) -> None:
    world = World(monkeypatch, **refused)
    with pytest.raises(Disagreed, match=re.escape(shown)):
        world.fields.run(case)
    assert world.shown[-1]


def test_a_scheduler_that_should_have_been_ejected(world: World) -> None:
    with pytest.raises(Disagreed, match="the scheduler to exit"):
        world.fields.run(Case(enqueue=Insert(8)))


def test_tasks_that_do_not_get_on(world: World) -> None:
    world.turns = [9, 1]
    with pytest.raises(Disagreed, match=r"every task to do 5 turns.*\[9, 1\] turns were done"):
        world.fields.run(Case(enqueue=Insert(ids.LOCAL)))


def test_a_load_that_fails_though_nothing_is_wrong_is_no_answer_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AgentError):
        World(monkeypatch, load=errno.ENOENT).fields.run(Case())
