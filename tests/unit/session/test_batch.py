# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the leak batch: leaks that are planted beside prove kmemleak, and one that went blind is no clean batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Inconclusive
from harness.core.records import EventKind, Finding, Operation
from harness.leaks.hunt import Hunt
from harness.leaks.repeat import Clock, Deed
from harness.oracles.objects import LEAKS, SEEN_BESIDE
from harness.oracles.registry import CANARY
from harness.session.batch import LeakBatch
from harness.session.context import TestContext
from tests.unit.session.test_context import OFF, made
from tests.unit.session.test_context_shortage import shortage

PLANTED = """unreferenced object {type}0xffff88800{at:07x} (size {size}):
  comm "agent", pid 62, jiffies 4294894678
  backtrace (crc 81256527):
    kharness_leak_{name}+0x1b/0x40 [kharness]
    canary_write+0x1b/0x40 [kharness]
"""
OTHER = PLANTED.format(type="", at=1, size=64, name="slab").replace("kharness_leak_slab", "scx_alloc_and_add_sched")


def planted(slab: int, percpu: int) -> str:
    """What kmemleak prints of so many of the leaks that were planted."""
    return "".join(
        PLANTED.format(type=kind, at=number, size=64, name=name)
        for name, kind, count in (("slab", "", slab), ("percpu", "(percpu) ", percpu))
        for number in range(count)
    )


class Batch:
    """A leak batch of nothing, over a guest whose evidence the test sets."""

    def __init__(self, *, first: bool = True) -> None:
        self.context, self.guest = made()
        self.guest.kmemleak = planted(SEEN_BESIDE, SEEN_BESIDE)
        self.guest.percpu += LEAKS
        self.shown: list[Any] = []
        target = self.context.target
        target.pristine.scale, target.first = 1.0, first  # type: ignore[misc]
        event_log = SimpleNamespace(emit=lambda kind, payload, **place: self.shown.append((kind, payload)))
        item = SimpleNamespace(target=target, _session=SimpleNamespace(event_log=event_log))
        self._item = cast(LeakBatch, item)

    def run(self, *deeds: Deed) -> str:
        """How the batch ends, in a word, and why."""
        error: Exception | None = None
        try:
            LeakBatch._again(self._item, self.context, deeds, Clock())
        except Inconclusive as raised:
            error = raised
        result = self.context.conclude(error)
        return f"{result.outcome}: {result.why}" if result.why else str(result.outcome)


@pytest.mark.parametrize("first", [True, False])
def test_leaks_that_were_planted_are_none_of_the_tests(first: bool) -> None:
    batch = Batch(first=first)
    assert batch.run() == "pass"
    assert [found.allowed_by for found in batch.context.findings] == ["planted as a canary"] * 2
    canaries = {(canary.oracle, canary.caught) for kind, canary in batch.shown if kind is EventKind.CANARY}
    assert canaries == (set() if first else {("kmemleak slab", True), ("kmemleak percpu", True)})
    asked = [f"write {name}" for name in batch.guest.asked if "canary" in name]
    assert len(asked) == 2 * LEAKS
    scans = [number for number, line in enumerate(batch.guest.asked) if line.endswith("kmemleak scan")]
    assert len(scans) == 2 and batch.guest.asked.index(f"write {CANARY} percpu-leak") < scans[0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("slab", "percpu", "missed"),
    [(1, 2, "kmemleak slab"), (2, 1, "kmemleak percpu"), (0, 0, "kmemleak slab, kmemleak percpu")],
)
def test_kmemleak_that_misses_them_proves_nothing(first: bool, slab: int, percpu: int, missed: str) -> None:
    batch = Batch(first=first)
    batch.guest.kmemleak = planted(slab, percpu)
    assert batch.run() == f"inconclusive: {missed} did not see leaks that were planted beside"


@pytest.mark.parametrize("scans", [0, 1, 2])
def test_kmemleak_that_has_disabled_itself_is_no_clean_batch(scans: int) -> None:
    batch = Batch()
    batch.guest.scans, batch.guest.kmsg = scans, (f"4,500,1,-;{OFF}",)
    assert batch.run() == f"inconclusive: kmemleak did not watch: kmemleak stopped watching: {OFF}"


def test_a_leak_beside_the_planted_ones_counts() -> None:
    batch = Batch()
    batch.guest.kmemleak += OTHER
    assert batch.run() == "fail: slab leak of 64 bytes allocated in scx_alloc_and_add_sched"


def test_a_look_of_the_hunt_in_which_kmemleak_went_blind_acquits_nobody() -> None:
    context, guest = made()
    guest.scans, guest.kmsg = 1, (f"4,500,1,-;{OFF}",)
    context.target.pristine.scale = 1.0  # type: ignore[misc]
    leak = Finding("kmemleak", "slab leak", "slab leak", "kmemleak:slab leak:f", function="f")
    said: list[str] = []
    deeds = [Deed(f"x.py::test_{name}", (Operation("ping"),)) for name in ("one", "two")]
    hunt = Hunt(context.target, deeds, lambda: TestContext("hunt", context.target, 7), Clock(), said.append)
    hunt.find([leak])
    assert all(f"not known, kmemleak did not watch: kmemleak stopped watching: {OFF}" in step for step in hunt.steps)
    assert hunt.steps and not any("no leak seen" in line for line in said)


def test_a_test_that_does_nothing_can_be_blamed_all_the_same() -> None:
    context, guest = made()
    guest.kmemleak = OTHER
    context.target.pristine.scale = 1.0  # type: ignore[misc]
    (leak,) = context.unreferenced()
    (found,) = Hunt(
        context.target, [Deed("x.py::test_one", ())], lambda: TestContext("hunt", context.target, 7), Clock(), print
    ).find([leak])
    assert found.title.endswith("; test_one: which does nothing")


@pytest.mark.parametrize(("arms", "outcome"), [(True, "pass"), (False, "fail")])
def test_what_a_test_that_arms_faults_provokes_is_expected_until_it_is_done(arms: bool, outcome: str) -> None:
    batch = Batch()
    answers = batch.guest.call

    def call(verb: str, /, **args: Any) -> dict[str, Any]:
        if verb == "ping":
            batch.guest.kmsg = shortage(500)
        return answers(verb, **args)

    batch.guest.call = call  # type: ignore[method-assign]
    other = Deed("x.py::test_other", (), arms=not arms)
    assert batch.run(other, Deed("x.py::test_x", (Operation("ping"),), arms=arms), other).startswith(outcome)
