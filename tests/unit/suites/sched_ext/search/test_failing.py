# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a search's moves under a fault: what the model is asked, and how the fault is booked."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import CREATE, Dsqs
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.model.trace import Answer
from sched_ext.search.failing import Failing
from sched_ext.search.moves import failing_attach, failing_create

from harness.core.errors import GuestError
from harness.core.wire import ByteOrder
from harness.faults.endings import ENOMEM, ended_with
from harness.guest.guest import BpfObject
from tests.unit.fakes.context import FakeAgent, FakeContext, FakeGuest, FakeObject, FakeSymbols, observer, site

KEY = 0xABC
SPANS = dict.fromkeys(CREATE, ((80, 96),))


class World:
    """A guest whose sweeps answer `row` (site, answer, flags, n, times), or nothing fired where there is none."""

    def __init__(self, row: list[int] | None, *, thread: bool = True, disputed: int = 0, lost: int = 0) -> None:
        seen = observer(site(KEY, 0x10, 0x20, 0x50, 0x60, 0x70)) if row and row[0] else observer()
        guest = FakeGuest(FakeAgent(), fault_sites=cast(FakeObject, seen))
        guest.threads = {"scx_enable_helper": 88} if thread else {}
        guest.sweep = self.sweep  # type: ignore[attr-defined]
        self.answer: Mapping[str, Any] = {"outcomes": [row] if row else [], "disputed": disputed, "lost": lost}
        self.settings: dict[str, Any] = {}
        self.context = FakeContext(guest, FakeSymbols(SPANS))
        self.model = DsqModel(Features(), frozenset({0}), 2)
        self.enabled: list[str] = []
        self.judged: list[int] = []
        dsq = SimpleNamespace(
            api=SimpleNamespace(name="dsq_api1", hex=lambda context: context.bytes(ByteOrder.LITTLE).hex()),
            model=self.model,
            scale=1.0,
            last=0,
            judge=self.judge,
            enable=lambda scheduler, creates: self.enabled.append(scheduler.name),
            enabled=lambda scheduler, answer, got, exit_error: self.judge(answer, got, exit_error),
        )
        self.failing = Failing(self.context.as_context, cast(Dsqs, dsq), lambda site: "")

    def judge(self, answer: Answer, got: int, exit_error: int | None = None) -> None:
        problem = self.model.observe(answer, got, exit_error)
        assert problem is None, problem
        self.judged.append(got if exit_error is None else ended_with(exit_error))

    def sweep(self, during: Any, before: Any, after: Any, tracers: Any, thread: str, **settings: Any) -> Any:
        self.settings = {"thread": thread, **settings}
        return self.answer

    def attach(self) -> None:
        self.model.observe(self.model.attach("s", [(5, -1)]), 0)

    def outcomes(self) -> list[str]:
        return [one.outcome for summary in self.context.summaries for one in summary.sites]


def test_a_create_whose_allocation_fails() -> None:
    world = World([KEY, ENOMEM, 0, 2, 1])
    world.attach()
    assert world.failing.create(1, -1, failing_create(2)) == ENOMEM
    assert (world.settings["from"], world.settings["to"], world.settings["thread"]) == (2, 2, "")
    assert world.outcomes() == ["handled"]
    assert world.model.live() == {5}


def test_a_fault_that_did_not_fire_is_none() -> None:
    """More than the operation allocates: the model is asked as without a fault, where -ENOMEM would be wrong."""
    world = World(None)
    world.attach()
    assert world.failing.create(5, -1, failing_create(9)) == -errno.EEXIST
    assert world.settings["fine"] == -errno.EEXIST
    assert world.outcomes() == []


def test_an_answer_that_is_right_without_the_fault_is_no_wrong_errno() -> None:
    world = World([KEY, -errno.EEXIST, 0, 2, 1])
    world.attach()
    assert world.failing.create(5, -1, failing_create(2)) == -errno.EEXIST
    assert world.outcomes() == ["absorbed"]


@pytest.mark.parametrize(("disputed", "lost"), [(1, 0), (0, 1)])
def test_what_the_tracer_did_not_see_is_not_judged(disputed: int, lost: int) -> None:
    world = World([KEY, ENOMEM, 0, 2, 1], disputed=disputed, lost=lost)
    with pytest.raises(GuestError, match="disagree"):
        world.failing.create(1, -1, failing_create(2))
    assert world.judged == []


def test_an_operation_without_an_end_fails() -> None:
    with pytest.raises(AssertionError, match="create came to no end with allocation 2 failing"):
        World([KEY, -errno.ETIMEDOUT, 0, 2, 1]).failing.create(1, -1, failing_create(2))


@pytest.mark.parametrize("answer", [ENOMEM, ended_with(ENOMEM)])
def test_an_attach_whose_allocation_fails(answer: int) -> None:
    world = World([KEY, answer, 0, 7, 1])
    scheduler = cast(BpfObject, FakeObject("dsq_listed1"))
    assert world.failing.attach(scheduler, [(1, -1)], failing_attach(7)) == answer
    assert world.settings["thread"] == "scx_enable_helper"
    assert world.judged == [answer]
    assert bool(world.model.links) == (answer != ENOMEM), "one that exited is still bound"


def test_the_first_scheduler_has_no_thread_to_fail_in() -> None:
    world = World(None, thread=False)
    world.failing.attach(cast(BpfObject, FakeObject("dsq_listed1")), [], failing_attach(7))
    assert world.enabled == ["dsq_listed1"]
