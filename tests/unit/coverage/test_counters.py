# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the counters in the guest: when they are zeroed and read, byte for byte, and a guest that is dead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Ended, How, MachineEnded
from harness.coverage.counters import Counters
from harness.guest.agent import AgentError
from harness.guest.guest import Guest
from harness.session.session import Target
from tests.unit.core.test_plan import SESSION

READY = cast(
    Target,
    SimpleNamespace(
        name="tree-x86_64-default", kernel=replace(SESSION.targets[0].kernel, profiles=("kernel/sched/build_policy.o",))
    ),
)
REFUSED = AgentError("read", {"errno": 2, "error": "No such file or directory"})


class Agent:
    """Answers every read with the same bytes, or fails."""

    def __init__(self, data: bytes = b"", error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._data, self._error = data, error

    def call(self, verb: str, **args: Any) -> dict[str, Any]:
        self.calls.append((verb, args))
        if self._error:
            raise self._error
        return {"ok": True, "data": self._data.decode("latin-1")}


def guest(agent: Agent) -> Guest:
    return cast(Guest, SimpleNamespace(agent=agent))


def counters(out: Path) -> Counters:
    return Counters(replace(SESSION, out=str(out)))


def test_boots_counters_go_and_the_scenario_does_not_know(tmp_path: Path) -> None:
    agent = Agent()
    counters(tmp_path).begin(guest(agent))
    assert agent.calls == [("write", {"record": False, "path": "/sys/kernel/debug/gcov/reset", "data": "1"})]


def test_a_kernel_without_counters_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(AgentError):
        counters(tmp_path).begin(guest(Agent(error=REFUSED)))


def test_the_counters_come_home_byte_for_byte(tmp_path: Path) -> None:
    data = bytes(range(256))
    agent = Agent(data)
    counters(tmp_path).end(guest(agent), READY, "tests/kernel/sched_ext/test_x.py::test_y[1]")
    assert agent.calls == [
        ("read", {"record": False, "path": "/sys/kernel/debug/gcov/build/kernel/sched/build_policy.gcda"})
    ]
    folder = tmp_path / "coverage" / READY.kernel.id
    (file,) = (folder / "kernel_sched_build_policy").iterdir()
    assert [path.read_text() for path in folder.glob("*.id")] == ["tests/kernel/sched_ext/test_x.py::test_y[1]"]
    assert file.read_bytes() == data
    assert file.name == "tests_kernel_sched_ext_test_x.py__test_y_1_-tree-x86_64-default.gcda"


@pytest.mark.parametrize("error", [MachineEnded("no answer", Ended(How.EXITED, status=0), [], False), REFUSED])
def test_a_guest_that_does_not_answer_leaves_no_file(tmp_path: Path, error: Exception) -> None:
    counters(tmp_path).end(guest(Agent(error=error)), READY, "t::x")
    assert not (tmp_path / "coverage").exists()
