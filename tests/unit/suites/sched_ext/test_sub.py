# SPDX-License-Identifier: GPL-2.0-only
"""Tests of sub-schedulers as tests see them, on a guest with given answers."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import Dsqs
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.sub import CALLS, NO_CGROUP, TAKES_NONE, Subs

from harness.core.errors import Disagreed
from harness.core.wire import Binary


class FakeScheduler:
    """A loaded scheduler; `ends` is what its exit info says after an attach that succeeds, `answers` what else fails."""

    def __init__(self, name: str, members: Mapping[str, int]) -> None:
        self.name, self.members = name, dict(members)
        self.values: dict[str, Any] = {"exited": 0, "exit_msg": "", "exit_reason": "", "first_id": 0}
        self.tied: tuple[str, ...] = ()
        self.answer, self.ends = 0, ""

    def associate(self, *programs: str) -> None:
        self.tied = programs

    def set(self, name: str, value: int) -> None:
        self.values[name] = value

    def get(self, *names: str) -> dict[str, Any]:
        return {name: self.values[name] for name in names}

    def exits(self, reason: str, message: str) -> None:
        self.values |= {"exited": 1, "exit_reason": reason, "exit_msg": message}

    def attach(self, *, check: bool) -> int:
        if self.answer == 0 and self.ends:
            self.exits("runtime error", self.ends)
        return self.answer

    def detach(self) -> None:
        self.exits("unregistered from user space", "")

    def run(self, program: str, context: Binary) -> list[int]:
        return [self.answer]


class FakeDsqs:
    """What Subs asks of Dsqs, with the real model."""

    def __init__(self, features: Features | None = None) -> None:
        self.model = DsqModel(features or Features(), frozenset({0}), 2)
        self.scale = 0.001
        self.inodes = iter(range(100, 200))
        self.loaded = 0
        self.guest = SimpleNamespace(
            agent=SimpleNamespace(call=lambda verb, **args: {"ino": next(self.inodes)} if verb == "mkdir" else {}),
            load=self._load,
            wait_for=lambda path, text: text,
        )

    def _load(self, program: str, members: Mapping[str, int], **variables: int) -> FakeScheduler:
        self.loaded += 1
        return FakeScheduler(f"{program}{self.loaded}", members)

    def exit_error(self, scheduler: FakeScheduler) -> int | None:
        return None

    def judge(self, answer: Any, got: int, error: int | None = None) -> None:
        self.count(self.model.observe(answer, got, error))

    def count(self, problem: object) -> None:
        if problem:
            raise Disagreed(str(problem))


@pytest.fixture
def subs() -> Subs:
    subs = Subs(cast(Dsqs, FakeDsqs()))
    subs.cgroup("/a")
    subs.cgroup("/b")
    return subs


def fake(scheduler: object) -> FakeScheduler:
    return cast(FakeScheduler, scheduler)


def test_a_scheduler_is_loaded_for_its_cgroup_and_its_programs_are_tied_to_it(subs: Subs) -> None:
    assert fake(subs.load()).members == {}, "a root"
    assert fake(subs.load("/b")).members == {"sub_cgroup_id": 101}
    assert fake(subs.load("/nowhere")).members == {"sub_cgroup_id": NO_CGROUP}
    assert fake(subs.load()).tied == CALLS


def test_an_attach_that_is_let_in_though_it_may_not_is_a_disagreement(subs: Subs) -> None:
    with pytest.raises(Disagreed, match="allows only -ENODEV"):
        subs.add("/a")
    subs.add(program=TAKES_NONE)
    with pytest.raises(Disagreed, match="takes no sub-schedulers"):
        subs.add("/a")


@pytest.mark.parametrize(
    ("message", "fits"), [("parent rejected (-13)", True), ("parent rejected", False), ("", False)]
)
def test_how_it_ended_is_read_from_its_exit_info(subs: Subs, message: str, fits: bool) -> None:
    subs.refuse(subs.add(), -errno.EACCES)
    scheduler = subs.load("/a")
    fake(scheduler).ends = message
    if fits:
        assert subs.attach(scheduler, "/a") == 0
        assert not subs.model.running(scheduler.name)
    else:
        with pytest.raises(Disagreed, match="exits with -EACCES"):
            subs.attach(scheduler, "/a")


def test_its_own_programs_ask_about_its_own_table(subs: Subs) -> None:
    root, sub = subs.add(), subs.add("/a")
    subs.create(sub, 5)
    assert subs.model.live(root.name) == {0}
    assert subs.model.live(sub.name) == {0, 5}
    fake(root).answer = -errno.EEXIST
    with pytest.raises(Disagreed, match="answered -EEXIST"):
        subs.create(root, 5)
    assert subs.model.associated == root.name


def test_one_that_runs_on_without_its_root_is_a_disagreement(subs: Subs) -> None:
    root, sub = subs.add(), subs.add("/a")
    with pytest.raises(Disagreed, match=f"{sub.name} to exit"):
        subs.detach(root)


def test_one_that_exits_for_nothing_is_a_disagreement(subs: Subs) -> None:
    subs.add()
    other, sub = subs.add("/a"), subs.add("/b")
    fake(other).exits("runtime error", "oops")
    with pytest.raises(Disagreed, match=r"exited, the model lets it run: runtime error: oops"):
        subs.detach(sub)


def test_one_that_had_gone_before_it_is_detached_is_a_disagreement(subs: Subs) -> None:
    root = subs.add()
    fake(root).detach = lambda: fake(root).exits("runtime error", "oops")  # type: ignore[method-assign]
    with pytest.raises(Disagreed, match="the model let it run until it was detached: runtime error: oops"):
        subs.detach(root)


def test_whose_a_cgroup_is(subs: Subs) -> None:
    assert subs.owner("/a/below") == ""
    root, sub = subs.add(), subs.add("/a")
    assert [subs.owner(path) for path in ("/a/below", "/a", "/b")] == [sub.name, sub.name, root.name]


def test_a_cgroup_that_goes_takes_its_scheduler_along(subs: Subs) -> None:
    subs.add()
    sub = subs.add("/b")
    subs.rmdir("/b")
    fake(sub).exits("unregistered from the main kernel", "cgroup 101 going offline")
    subs.ended(sub, "going offline")
    assert not subs.model.running(sub.name)


def test_a_reason_that_is_not_the_models_is_a_disagreement(subs: Subs) -> None:
    subs.add()
    sub = subs.add("/b")
    subs.rmdir("/b")
    fake(sub).exits("runnable task stall", "")
    with pytest.raises(Disagreed, match="exited for 'runnable task stall: '"):
        subs.ended(sub, "going offline")


def test_a_kernel_without_them_skips() -> None:
    for features in (Features(sub_scheds=False), Features(cid_form=False)):
        with pytest.raises(pytest.skip.Exception, match="sub-schedulers"):
            Subs(cast(Dsqs, FakeDsqs(features)))
