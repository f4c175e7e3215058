# SPDX-License-Identifier: GPL-2.0-only
"""Tests of which canaries a kernel gets: each detector that it was built with must be proved on it, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.build import kconfig
from harness.suite import extra
from harness.suite.session import Ready, Workshop

MODULE = Path(__file__).resolve().parents[3] / "vm" / "module" / "canary.c"
PLAIN = ["warn", "leaks", "panic", "hang", "freed"]


def named(config: str, monkeypatch: pytest.MonkeyPatch, *, first: bool = True, layout: object = None) -> list[str]:
    def made(parent: object, *, name: str, **rest: Any) -> str:
        return name.partition("[")[0]

    monkeypatch.setattr(extra.CanaryItem, "from_parent", made)
    parsed = kconfig.parse(config, "config")
    ready = SimpleNamespace(name="tree-x86_64-default", first=first, config=parsed, layout=layout)
    found: list[Any] = list(extra.canaries(cast(pytest.Session, None), cast(Ready, ready), cast(Workshop, None)))
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
    assert named(config, monkeypatch) == [*PLAIN, *more]


def test_a_further_machine_is_asked_what_its_shape_may_spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named("CONFIG_KASAN=y\n", monkeypatch, first=False) == ["shape"]


def test_local_dsqs_are_proved_where_it_is_known_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named("", monkeypatch, layout=object()) == [*PLAIN, "local"]
    assert named("", monkeypatch, first=False, layout=object()) == ["shape"]


def test_each_canary_has_what_runs_it_and_what_it_proves() -> None:
    assert extra.CANARIES.keys() == extra.PROVES.keys()
    every = {*extra.OF_A_KERNEL, *extra.OF_A_CONFIG.values(), *extra.OF_A_FURTHER_MACHINE}
    assert {*every, "local"} == extra.CANARIES.keys()


def test_what_the_log_must_say_is_what_the_module_does() -> None:
    source = MODULE.read_text()
    defects = dict(re.findall(r'\{ "([\w-]+)", (\w+) \}', source))
    for provoke, function in (
        ("warn", "kharness_warn"), ("use-after-free", "kharness_use_after_free"),
        ("lock-order", "kharness_lock_order"), ("sleep-atomic", "kharness_sleep_atomic"),
        ("cpu-not-held", "kharness_cpu_not_held"),
    ):  # fmt: skip
        assert defects[provoke] == function
