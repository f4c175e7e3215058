# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the operations that faults are injected into: lines that the agent understands, and what each may answer."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import cast

import pytest
from sched_ext.dsq import Dsqs, dsq_context
from sched_ext.model import ids
from sched_ext.model.state import Features
from sched_ext.operations import ACTIONS, ENABLER, FIRST, HELPER, action

from harness.core.errors import UsageError
from harness.core.records import Operation
from harness.core.wire import ByteOrder
from harness.faults.actions import Action, steps
from harness.faults.endings import ENOMEM, allowed_words, ended_with
from harness.guest.agent import encode_fields, encode_steps
from harness.guest.guest import BpfObject
from tests.unit.guest.lines import MAX_STEPS, parse_op, parse_steps, plain, verbs


class FakeDsqs:
    """DSQs that note what was done to bring the guest into the state an operation starts from."""

    def __init__(self, features: Features | None = None, *, stays: bool = True) -> None:
        self.done: list[str] = []
        self.made: list[tuple[object, dict[str, int]]] = []
        self.scale = 2.5
        self.api = SimpleNamespace(name="dsq_api1", hex=lambda context: context.bytes(ByteOrder.LITTLE).hex())
        self.model = SimpleNamespace(features=features or Features())
        self.guest = SimpleNamespace(write=lambda path, data: self.done.append(f"write {data}"))
        self._stays = stays

    def attach(self, program: str, creates: object = (), **variables: int) -> object:
        self.done.append(f"attach {program}")
        self.made.append((creates, variables))
        return SimpleNamespace(name=f"{program}9")

    def load(self, program: str, **variables: int) -> object:
        self.done.append(f"load {program}")
        return SimpleNamespace(name=f"{program}10")

    def attached(self, scheduler: BpfObject) -> bool:
        return self._stays

    def detach(self, scheduler: BpfObject) -> None:
        self.done.append(f"detach {scheduler.name}")


class FakeSubs:
    """Sub-schedulers that note the same."""

    def __init__(self, dsq: FakeDsqs) -> None:
        self._done = dsq.done

    def cgroup(self, path: str) -> None:
        self._done.append(f"mkdir {path}")

    def add(self) -> None:
        self._done.append("add root")

    def load(self, cgroup: str, *, first: int) -> object:
        self._done.append(f"load for {cgroup}")
        return SimpleNamespace(name="dsq_sub2")

    def attach(self, scheduler: BpfObject, cgroup: str, *, creates: object) -> None:
        self._done.append(f"attach {scheduler.name}")

    def detach(self, scheduler: BpfObject) -> None:
        self._done.append(f"detach {scheduler.name}")


@pytest.fixture(autouse=True)
def _fake_subs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sched_ext.operations.Subs", FakeSubs)


def build(name: str, features: Features | None = None) -> tuple[Action, FakeDsqs]:
    dsqs = FakeDsqs(features)
    return action(name, cast(Dsqs, dsqs)), dsqs


def parts(what: Action) -> dict[str, tuple[Operation, ...]]:
    return {"before": what.before, "during": what.during, "after": what.after}


@pytest.mark.parametrize("name", ACTIONS)
def test_the_agent_reads_of_each_operation_what_was_meant(name: str) -> None:
    what, _ = build(name)
    for key, operations in parts(what).items():
        line = encode_fields("sweep-ops", {key: encode_steps(operations)})
        assert "\n" not in line, "an operation is one line"
        read = parse_steps(parse_op(line).args[key])
        assert read == tuple(map(plain, operations))


@pytest.mark.parametrize("name", ACTIONS)
def test_the_agent_can_do_each_of_its_steps(name: str) -> None:
    what, _ = build(name)
    used = {operation.verb for operations in parts(what).values() for operation in operations}
    assert used <= verbs()
    assert what.during, "there is something to do"
    assert all(len(operations) <= MAX_STEPS for operations in parts(what).values())


@pytest.mark.parametrize("name", ACTIONS)
def test_an_operation_says_what_is_under_test_and_goes_by_its_name(name: str) -> None:
    what, _ = build(name)
    assert what.name == name
    assert what.under and what.threads
    assert len(set(what.threads)) == len(what.threads)
    assert not what.within or what.within in what.under, "where faults are injected, sites are counted"


@pytest.mark.parametrize("name", ACTIONS)
def test_without_a_fault_one_answer_is_right(name: str) -> None:
    what, _ = build(name)
    assert what.allowed.fine not in what.allowed.errors
    assert allowed_words(what.allowed, fault=False)


@pytest.mark.parametrize("name", ["attach", "detach", "second-attach", "failing-init", "sub-attach"])
def test_deadlines_in_the_guest_are_stretched_by_its_speed(name: str) -> None:
    what, _ = build(name)
    waits = [one.args["timeout_ms"] for ones in parts(what).values() for one in ones if "timeout_ms" in one.args]
    assert waits and all(wait == 50_000 for wait in waits), "20 s nominal, 2.5 times slower"


@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("create", ["attach dsq_many"]),
        ("create-unscheduled", []),
        ("destroy", ["attach dsq_many"]),
        ("attach", ["attach dsq_many", "detach dsq_many9"]),
        ("second-attach", ["attach dsq_many", "load dsq_many"]),
        ("sub-attach", ["mkdir /kharness", "add root", "load for /kharness", "attach dsq_sub2", "detach dsq_sub2"]),
        ("fork", ["attach dsq_per_task"]),
        ("cgroup-create", ["write +cpu", "attach dsq_per_cgroup"]),
    ],
)
def test_building_one_makes_the_guest_ready(name: str, done: list[str]) -> None:
    assert build(name)[1].done == done


def test_a_scheduler_whose_init_fails_is_not_detached() -> None:
    dsqs = FakeDsqs(stays=False)
    action("failing-init", cast(Dsqs, dsqs))
    assert dsqs.done == ["attach dsq_many"]


def test_a_create_under_a_fault_is_of_the_id_that_is_destroyed_after_it() -> None:
    what, _ = build("create")
    assert [(one.args["prog"], one.args["ctx"]) for one in (*what.during, *what.after)] == [
        ("create", dsq_context(FIRST).bytes(ByteOrder.LITTLE).hex()),
        ("destroy", dsq_context(FIRST).bytes(ByteOrder.LITTLE).hex()),
    ]
    destroy, _ = build("destroy")
    assert [one.args["prog"] for one in (*destroy.before, *destroy.during, *destroy.after)] == [
        "create",
        "destroy",
        "destroy",
    ]


@pytest.mark.parametrize(
    ("name", "features", "fine"),
    [
        ("create-duplicate", Features(), -errno.EEXIST),
        ("create-duplicate", Features(unique_ids=False), 0),
        ("create-unscheduled", Features(), -errno.ENODEV),
        ("create-unscheduled", Features(global_hash=True), 0),
        ("second-attach", Features(), -errno.EBUSY),
        ("failing-init", Features(), ended_with(-errno.EINVAL)),
    ],
)
def test_what_is_right_without_a_fault(name: str, features: Features, fine: int) -> None:
    assert build(name, features)[0].allowed.fine == fine


def test_what_errors_a_fault_may_bring() -> None:
    assert build("create")[0].allowed.errors == {ENOMEM}
    assert build("detach")[0].allowed.errors == frozenset(), "a detach cannot fail"
    assert ended_with(ENOMEM) in build("attach")[0].allowed.errors
    assert ended_with(ENOMEM) not in build("create")[0].allowed.errors


def test_the_threads_that_allocate() -> None:
    assert build("attach")[0].threads == (ENABLER, "", "kthreadd")
    assert build("detach")[0].threads == (HELPER, "")


def test_an_attach_waits_until_the_scheduler_runs_or_has_ended() -> None:
    what, _ = build("failing-init")
    clear, attach, settled = what.during
    assert (clear.verb, attach.verb, settled.verb) == ("clear", "attach", "settled")
    assert {one.args["name"] for one in what.during} == {"dsq_many9"}
    assert (settled.args["on"], settled.args["off"]) == ("enabled", "disabled")
    assert (clear.args["var"], settled.args["ended"], settled.args["why"]) == ("exited", "exited", "exit_msg")
    assert [one.verb for one in what.after] == ["detach", "wait-file"]


def test_a_second_scheduler_leaves_the_first_one_enabled() -> None:
    what, _ = build("second-attach")
    assert {one.args["name"] for one in what.during} == {"dsq_many10"}
    assert what.after[-1].args["contains"] == "enabled"


def test_an_init_that_fails_creates_an_id_that_no_user_may_have() -> None:
    dsqs = build("failing-init")[1]
    assert dsqs.made == [([(ids.GLOBAL, -1)], {"nr_dsqs": 1, "first_id": ids.GLOBAL})]


@pytest.mark.parametrize(
    ("name", "near"), [("atach", "attach"), ("create-duplicat", "create-duplicate"), ("cgroup", "cgroup-create")]
)
def test_an_unknown_name_gives_near_ones(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"no operation '{name}'") as raised:
        build(name)
    assert near in raised.value.step


def test_a_name_like_none_gives_all() -> None:
    with pytest.raises(UsageError) as raised:
        build("zzz")
    assert all(name in raised.value.step for name in ACTIONS)


def test_steps_flatten_operations_and_sequences_of_them() -> None:
    one, two, three = Operation("a"), Operation("b"), Operation("c")
    assert steps(one, (two, three), (), one) == (one, two, three, one)
    assert steps() == ()


def test_more_steps_than_the_agent_takes_would_be_seen() -> None:
    too_many = [Operation("fork")] * (MAX_STEPS + 1)
    with pytest.raises(AssertionError, match="the agent takes"):
        parse_steps(encode_steps(too_many))
