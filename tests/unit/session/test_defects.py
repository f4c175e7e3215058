# SPDX-License-Identifier: GPL-2.0-only
"""Tests of which canaries a kernel gets: each detector that it was built with must be proved on it, and no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.kbuild import kconfig
from harness.oracles import registry
from harness.oracles.registry import Defect
from harness.session import defects
from harness.session.session import Target, TestSession

MODULE = Path(__file__).resolve().parents[3] / "vm" / "module" / "canary.c"
PLAIN = ["warn", "leaks", "panic", "hang", "freed"]


def named(
    config: str, monkeypatch: pytest.MonkeyPatch, *, first: bool = True, suites: tuple[Defect, ...] = ()
) -> list[str]:
    def made(parent: object, *, name: str, **rest: Any) -> str:
        return name.partition("[")[0]

    monkeypatch.setattr(defects.CanaryItem, "from_parent", made)
    parsed = kconfig.parse(config, "config")
    target = SimpleNamespace(
        name="tree-x86_64-default", first=first, config=parsed, suite=SimpleNamespace(oracles=(), defects=suites)
    )
    found: list[Any] = list(defects.canaries(cast(pytest.Session, None), cast(Target, target), cast(TestSession, None)))
    return found


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("", []),
        ("CONFIG_DEBUG_ATOMIC_SLEEP=y\n# CONFIG_KASAN is not set\n", ["atomic"]),
        ("CONFIG_DEBUG_ATOMIC_SLEEP=y\nCONFIG_KASAN=y\n", ["atomic", "kasan"]),
        ("CONFIG_PROVE_LOCKING=y\n", ["lockdep"]),
        ("CONFIG_PREEMPT=y\nCONFIG_DEBUG_PREEMPT=y\n", ["preempt"]),
    ],
)
def test_a_detector_is_proved_where_it_is_built_in(
    config: str, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(named(config, monkeypatch)) == sorted([*PLAIN, *more])


def test_a_further_machine_is_asked_what_its_shape_may_spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named("CONFIG_KASAN=y\n", monkeypatch, first=False) == ["shape"]


def test_a_suites_defects_are_planted_where_they_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Defect("seen", ("o",), lambda guest, target: {"o": True}, cheap=True)
    unseen = Defect("unseen", ("p",), lambda guest, target: {"p": True}, applies=lambda target: False)
    config = Defect("config", ("q",), lambda guest, target: {"q": True}, config="KASAN")
    assert named("", monkeypatch, suites=(seen, unseen, config))[-1] == "seen"
    assert named("CONFIG_KASAN=y\n", monkeypatch, suites=(config,))[-1] == "config"
    assert named("", monkeypatch, first=False, suites=(seen, unseen)) == ["shape"]


def test_on_a_further_machine_what_is_cheap_comes_in_one_guest_and_the_panic_last() -> None:
    mine = Defect("mine", ("mine",), lambda guest, target: {"mine": True}, cheap=True)
    slow = Defect("slow", ("slow",), lambda guest, target: {"slow": True})
    suite = SimpleNamespace(oracles=(), defects=(mine, slow))
    target = SimpleNamespace(first=False, config=kconfig.parse("", "config"), suite=suite)
    (shape,) = defects.due(cast(Target, target))
    assert shape.proves == ("dmesg", "percpu", "ledger slab", "ledger percpu", "mine", "panic")


def test_each_oracle_that_judges_a_test_is_proved_by_a_defect() -> None:
    """But for the console's, which judges what the others were shown, and two whose defects are others'."""
    proved = {oracle for defect in registry.defects(()) for oracle in defect.proves}
    judging = {name for oracle in registry.engine() if oracle.judge for name in oracle.due}
    unproved = {name for name in judging if not any(oracle.startswith(name) for oracle in proved)}
    assert unproved == {"console"}
    assert registry.by_name(registry.defects(()))


def test_the_oracles_come_in_their_order() -> None:
    names = [oracle.name for oracle in registry.every(()) if oracle.judge]
    assert names == ["dmesg", "objects", "kmemleak", "lockdep", "console"]
