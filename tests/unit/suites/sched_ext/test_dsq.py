# SPDX-License-Identifier: GPL-2.0-only
"""Tests of DSQ operations: how long a guest has for many of them, and the walk over a table that is being resized."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext import dsq
from sched_ext.dsq import Dsqs
from sched_ext.model.state import Features

from harness.core.errors import GuestError, HarnessError
from harness.core.wire import Binary
from harness.guest.agent import CALL_SECONDS
from harness.session.context import TestContext
from tests.unit.fakes.context import FakeObject


class Api(FakeObject):
    """Walks of the kernel's table, one after the other: the answer, how many DSQs were met, how many there are."""

    def __init__(self) -> None:
        super().__init__("dsq_api1")
        self.walks: list[tuple[int, int, int]] = []

    def run(self, program: str, context: Binary, *, record: bool) -> list[int]:
        status, count, nelems = self.walks.pop(0) if len(self.walks) > 1 else self.walks[0]
        self.variables |= {"live_count": count, "live_nelems": nelems, "live_ids": [0]}
        return [status]


class World:
    """A guest whose schedulers are enabled at once, unless `state` says otherwise."""

    def __init__(self) -> None:
        self.agent = SimpleNamespace(patience=0.0)
        self.state = "enabled"
        self.api = Api()
        spec = SimpleNamespace(nodes=1, possible_cpus=2)
        machine = SimpleNamespace(spec=spec)
        self.context = SimpleNamespace(
            guest=self,
            target=SimpleNamespace(features=Features(), machine=machine, pristine=SimpleNamespace(scale=2.0)),
            count_model=lambda operations, compared, problem: None,
        )
        self.dsqs = Dsqs(cast(TestContext, self.context))

    def load(self, program: str, **variables: int) -> FakeObject:
        return self.api if program == "dsq_api" else FakeObject("root1", exited=0, exit_msg="", exit_reason="")

    def read(self, path: str) -> str:
        return f"{self.state}\n"


def test_a_scheduler_of_many_dsqs_has_time_to_make_and_to_free_them() -> None:
    world = World()
    world.dsqs.attach("dsq_many", [(0, -1)])
    assert world.agent.patience < CALL_SECONDS, "a guest that hangs is noticed soon"
    world = World()
    world.dsqs.attach("dsq_many", [(number, -1) for number in range(40_000)])
    assert world.agent.patience >= 4 * 15, "a test of 32,768 took 15 s on a busy host whose scale was 1"


def test_it_has_that_time_to_be_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Over:
        """A deadline that is over."""

        expired = True

        def __init__(self, seconds: float, what: str) -> None:
            waited.append(seconds)

    monkeypatch.setattr(dsq, "Deadline", Over)
    for count in (1, 40_000):
        world = World()
        world.state = "enabling"
        creates: list[Any] = [(number, -1) for number in range(count)]
        with pytest.raises(GuestError, match="its state is 'enabling'"):
            world.dsqs.attach("dsq_many", creates)
    assert waited == [2 * dsq.ENABLE_SECONDS, 2 * 40_000 * dsq.DSQ_SECONDS]


def test_a_table_that_is_being_resized_is_walked_again() -> None:
    world = World()
    world.dsqs.attach("dsq_many", [(0, -1)])
    world.api.walks = [(-errno.EAGAIN, 0, 1), (0, 2, 1), (0, 1, 1)]
    world.dsqs.check_live()
    assert len(world.api.walks) == 1, "the last is the one that counts"


@pytest.mark.parametrize(
    ("walk", "says"),
    [
        ((-errno.EAGAIN, 0, 1), "cannot be walked: the walk answered -11"),
        ((0, 2, 1), "the walk saw 2 DSQs, the table says 1"),
    ],
)
def test_not_for_ever(walk: tuple[int, int, int], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsq, "WALK_SECONDS", 0.01)
    world = World()
    world.dsqs.attach("dsq_many", [(0, -1)])
    world.api.walks = [walk]
    with pytest.raises(HarnessError, match=says):
        world.dsqs.check_live()


def test_a_walk_that_finds_no_table_is_not_done_again() -> None:
    world = World()
    world.dsqs.attach("dsq_many", [(0, -1)])
    world.api.walks = [(-errno.ENODEV, 0, 0), (0, 1, 1)]
    with pytest.raises(HarnessError, match="the walk answered -19"):
        world.dsqs.check_live()
