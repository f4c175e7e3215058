# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a block under the quarantine: what is armed, what is shown of it, and what does not pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from sched_ext.dsq import Dsqs

from harness.core.errors import Ended, GuestError, How, Inconclusive, MachineEnded
from harness.faults.percpu import Callers, PercpuFaults
from harness.guest.freed import POISON
from harness.session.poison import ORACLE, PercpuPoison
from tests.unit.fakes.context import FakeAgent, FakeContext, FakeGuest, FakeSymbols


class Learned:
    """The calls that DSQs get their percpu data by, as PercpuFaults learns them."""

    def __init__(self) -> None:
        self.unloaded = False

    def callers(self, dsq: Dsqs) -> Callers:
        assert not self.unloaded
        return Callers("init_dsq", (0x40, 0x44))

    def unload(self) -> None:
        self.unloaded = True


class Rig:
    """The quarantine on a guest of fakes, which holds these counts."""

    def __init__(self, **counts: int) -> None:
        zero = dict.fromkeys(("tracked", "poisoned", "checked", "bad", "twice", "lost", "missed", "live", "kept"), 0)
        text = "".join(f"{name} {number}\n" for name, number in (zero | counts).items())
        self.agent = FakeAgent(read={"data": text})
        self.guest = FakeGuest(self.agent)
        self.context = FakeContext(self.guest, FakeSymbols())
        self.learned = Learned()
        self.poison = PercpuPoison(self.context.as_context, cast(PercpuFaults, self.learned))

    def run(self, error: Exception | None = None) -> None:
        with self.poison.armed(lambda faults: faults.callers(lambda: None)):
            if error is not None:
                raise error

    @property
    def written(self) -> Sequence[Any]:
        assert all(args["path"] == POISON for args in self.agent.asked("write"))
        return [args["data"] for args in self.agent.asked("write")]


def test_objects_of_the_learned_callers_are_poisoned_and_looked_at() -> None:
    rig = Rig(tracked=5, poisoned=3, checked=3, live=2)
    rig.run()
    assert rig.learned.unloaded, "its kprobe must be gone before ours is there"
    assert rig.written == ["arm 40-41 44-45", "disarm"]
    assert rig.guest.settled == 1, "what RCU still has is freed before it is looked at"
    (evidence,) = rig.context.evidence
    assert evidence.oracle == ORACLE and evidence.watched and not evidence.lost
    assert evidence.payload["poisoned"] == 3 and evidence.payload["live"] == 2


@pytest.mark.parametrize("counts", [{"tracked": 3, "live": 3}, {"poisoned": 3, "checked": 2, "kept": 1}])
def test_a_block_in_which_nothing_was_poisoned_or_not_all_checked_is_inconclusive(counts: dict[str, int]) -> None:
    with pytest.raises(Inconclusive, match="were poisoned"):
        Rig(**counts).run()


def test_a_full_table_is_lost_evidence() -> None:
    rig = Rig(poisoned=3, checked=3, lost=7)
    rig.run()
    assert rig.context.evidence[0].lost == 7 and "7 objects" in rig.context.evidence[0].why


def test_a_block_that_fails_is_looked_at_all_the_same() -> None:
    rig = Rig()
    with pytest.raises(GuestError, match="no such thing"):
        rig.run(GuestError("no such thing"))
    assert rig.written[-1] == "disarm"
    assert [one.oracle for one in rig.context.evidence] == [ORACLE]


def test_a_dead_guest_is_asked_nothing() -> None:
    rig = Rig()
    with pytest.raises(MachineEnded):
        rig.run(MachineEnded("it died", Ended(How.GUEST_PANIC), [], False))
    assert rig.written == ["arm 40-41 44-45"]


def test_looking_in_between() -> None:
    rig = Rig(poisoned=3, checked=3)
    with rig.poison.armed(lambda faults: faults.callers(lambda: None)) as poison:
        assert poison.look().checked == 3
    assert rig.written == ["arm 40-41 44-45", "drain", "disarm"]
