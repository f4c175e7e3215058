# SPDX-License-Identifier: GPL-2.0-only
"""Tests of CPUs that go offline: what is written, and what a CPU that does not is shown as."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import Disagreed
from harness.guest.agent import AgentError
from harness.guest.guest import BpfObject, Guest
from harness.session.hotplug import HOTPLUG_SECONDS, WAITS, Cpu


class World:
    """A guest whose writer ends with `status`, or with None does not end."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.detached = 0
        guest = SimpleNamespace(agent=self, pristine=SimpleNamespace(scale=2.0))
        self.cpu = Cpu(cast(Guest, guest), 1, cast(BpfObject, self))

    def call(self, verb: str, **args: Any) -> dict[str, Any]:
        self.calls.append((verb, args))
        if verb == "reap" and self.status is None:
            raise AgentError(verb, {"errno": 110, "error": "pid 70 still runs"})
        if verb == "read":
            return {"ok": "stat" in args["path"], "data": "70 (sh) D " + " ".join(["0"] * 50)}
        return {"pid": 70, "status": self.status}

    def detach(self) -> None:
        self.detached += 1


@pytest.mark.parametrize(("way", "written"), [("offline", "0"), ("online", "1")])
def test_the_knob_is_written_in_a_task_of_its_own(way: str, written: str) -> None:
    world = World(0)
    getattr(world.cpu, way)()
    (spawn, what), (reap, how) = world.calls
    assert (spawn, what["a2"]) == ("spawn", f"exec echo {written} > /sys/devices/system/cpu/cpu1/online")
    assert (reap, how["name"]) == ("reap", what["name"])
    assert how["timeout_ms"] == 2000 * HOTPLUG_SECONDS
    assert not world.detached


def test_a_cpu_that_stays_is_told_with_its_writer_and_the_scheduler_goes() -> None:
    world = World(None)
    with pytest.raises(Disagreed, match=r"^CPU 1 does not go offline within 15 s \(task 70 is D, on CPU 0") as caught:
        world.cpu.offline()
    assert caught.value.function == WAITS
    assert world.detached == 1


def test_a_knob_that_is_refused_is_told() -> None:
    with pytest.raises(Disagreed, match="writing 1 to /sys/devices/system/cpu/cpu1/online failed: exit status 1"):
        World(1).cpu.online()
