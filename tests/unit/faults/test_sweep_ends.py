# SPDX-License-Identifier: GPL-2.0-only
"""Tests of sweeps that come to another end than theirs: what is the kernel's failure, and what proves nothing."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from harness.core.errors import Disagreed, GuestError
from harness.core.records import Outcome
from harness.faults.endings import ENOMEM, HANG
from harness.session.outcome import ending_of
from tests.unit.faults.test_sweep import ACTION, OTHER, SLAB, rig


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"disputed": 1}, "disagree on 1 fault "),
        ({"lost": 3}, r"\(3 lost\)"),
        ({"done": 0}, "came to allocation 9 of create"),
    ],
)
def test_a_sweep_that_proves_nothing(answer: dict[str, Any], says: str) -> None:
    faults, _, _ = rig({SLAB: True}, **answer)
    with pytest.raises(GuestError, match=says):
        faults.sweep(ACTION)


def test_a_sweep_that_broke_off_has_booked_what_it_found() -> None:
    faults, _, context = rig({SLAB: True}, done=0)
    with pytest.raises(GuestError):
        faults.sweep(ACTION)
    assert [part.injected for part in context.summaries] == [1]


def outcome_of(error: BaseException) -> Outcome:
    """How a test ends that raises this."""
    return ending_of(error, lambda frame: (frame,)).outcome


def test_a_hang_ends_a_sweep_at_once_and_is_the_kernel_s_failure() -> None:
    faults, guest, context = rig({SLAB: True}, {SLAB: True}, done=0, stuck=1, outcomes=[[SLAB, HANG, 0, 9, 1]])
    with pytest.raises(
        Disagreed, match="^create came to no end, its allocation 9 being the last that was to fail$"
    ) as raised:
        faults.sweep(ACTION)
    assert outcome_of(raised.value) is Outcome.FAIL
    assert [(found.kind, found.fault) for found in context.findings] == [("hang", "{operation: create, nth: 9}")]
    assert [part.sites[0].outcome for part in context.summaries] == ["hang"]
    assert len(guest.sweeps) == 1
    assert not guest.settled and not guest.agent.asked("left"), "what hangs holds what is its own"


@pytest.mark.parametrize(
    ("unready", "says"), [(-errno.EBUSY, "-EBUSY"), (-errno.ESRCH, "-ESRCH"), (HANG, "no end"), (7, "7")]
)
def test_a_state_that_does_not_come_back_after_a_fault_is_the_kernel_s_failure(unready: int, says: str) -> None:
    """What comes before the operation fails, or the thread has vanished: run 9 could not be made."""
    faults, guest, context = rig({SLAB: True}, {}, done=0, unready=unready)
    with pytest.raises(Disagreed) as raised:
        faults.sweep(ACTION, thread="scx_enable_helper")
    assert str(raised.value) == f"after create with a fault at allocation 8 the steps before it answer {says}"
    assert outcome_of(raised.value) is Outcome.FAIL
    assert [part.injected for part in context.summaries] == [1], "what was found until then is booked"
    assert len(guest.sweeps) == 1 and not guest.settled


def test_a_state_that_is_not_there_before_any_fault_is_not_the_kernel_s_failure() -> None:
    faults, guest, context = rig({}, done=0, runs=0, next=1, unready=-errno.EEXIST)
    with pytest.raises(GuestError, match="^create cannot be swept: the steps before it answered -EEXIST$") as raised:
        faults.sweep(ACTION)
    assert outcome_of(raised.value) is Outcome.INCONCLUSIVE
    assert not context.findings and len(guest.sweeps) == 1


def test_what_a_sweep_found_is_booked_although_the_state_does_not_come_back() -> None:
    faults, guest, context = rig({SLAB: True, OTHER: True}, done=0, unready=-errno.EBUSY, loud=[[SLAB, 1, 5, 6]])
    guest.shown = {OTHER: -errno.EINVAL}
    guest.ledger.maps["objects"] = [(b"12345678", b"")]
    with pytest.raises(Disagreed):
        faults.sweep(ACTION)
    assert [found.kind for found in context.findings] == ["wrong errno"]
    assert [(window.first, window.last) for window in context.windows] == [(5, 6)]
    assert guest.ledger.maps["objects"] == [], "nothing of it is left for the next"


def objects_left(shown: int, count: int) -> dict[str, Any]:
    return {"left": [[SLAB, 1, ENOMEM, 2, 64, [0x40]]] * shown, "count": count}


def test_objects_that_are_left_and_not_told_are_noticed_and_those_that_are_told_are_findings() -> None:
    faults, guest, context = rig({SLAB: True})
    guest.agent.answers["left"] = objects_left(2, 3)
    with pytest.raises(GuestError, match="3 objects are left, 2 were reported"):
        faults.sweep(ACTION)
    assert [(found.kind, found.count) for found in context.findings] == [("slab leak", 2)]


def test_objects_that_are_all_told_are_findings_of_their_round() -> None:
    faults, guest, context = rig({SLAB: True}, {})
    guest.agent.answers["left"] = lambda **args: objects_left(2, 2) if len(guest.sweeps) == 1 else objects_left(0, 0)
    summary = faults.sweep(ACTION)
    assert summary is not None and [one.outcomes for one in summary.sites] == [{"leaked": 1}]
    assert (summary.handled, [(found.kind, found.count) for found in context.findings]) == (0, [("slab leak", 2)])


@pytest.mark.parametrize(
    ("tracer", "says"), [("observer", "7 fault observations and 0"), ("ledger", "0 fault observations and 7")]
)
def test_what_found_no_room_is_evidence_that_is_lost(tracer: str, says: str) -> None:
    faults, guest, context = rig({SLAB: True})
    getattr(guest, tracer).variables["lost"] = 7
    with pytest.raises(GuestError, match=says):
        faults.sweep(ACTION)
    assert not context.summaries
