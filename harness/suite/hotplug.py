# SPDX-License-Identifier: GPL-2.0-only
"""Owns CPUs that go offline and come back during a test: done beside the agent, which a hang must not take along."""

from __future__ import annotations

from harness.guest.agent import AgentError
from harness.guest.guest import BpfObject, Guest
from harness.suite.load import whereabouts
from harness.suite.outcome import Disagreed

HOTPLUG_SECONDS = 10.0
"""Nominal; it takes well below one where nothing stands in the way."""

WAITS = "sched_cpu_wait_empty"
"""Where the way offline waits until the CPU has no task left (kernel/sched/core.c), whoever it waits for."""


class Cpu:
    """One CPU of a guest; `scheduler` is the one that stands in the way if it does not go offline."""

    def __init__(self, guest: Guest, number: int, scheduler: BpfObject) -> None:
        self._guest = guest
        self.number = number
        self._scheduler = scheduler

    def offline(self) -> None:
        """Takes it offline. Raises Disagreed if the kernel does not get there in time."""
        self._switch("0")

    def online(self) -> None:
        """Brings it back. Raises as :meth:`offline`."""
        self._switch("1")

    def _switch(self, to: str) -> None:
        """Writes the knob (Documentation/core-api/cpu_hotplug.rst) in a task of its own, and waits for that."""
        knob = f"/sys/devices/system/cpu/cpu{self.number}/online"
        agent, task = self._guest.agent, f"cpu{self.number}-{to}"
        writer = int(agent.call("spawn", name=task, a0="sh", a1="-c", a2=f"exec echo {to} > {knob}")["pid"])
        patience = int(1000 * HOTPLUG_SECONDS * self._guest.pristine.scale)
        try:
            status = int(agent.call("reap", seconds=HOTPLUG_SECONDS + 5, name=task, timeout_ms=patience)["status"])
        except AgentError:
            where = whereabouts(self._guest, writer)
            self._scheduler.detach()  # its tasks go on without it, and the writer ends
            way = "online" if to == "1" else "offline"
            told = f"CPU {self.number} does not go {way} within {HOTPLUG_SECONDS:.0f} s ({where})"
            raise Disagreed(told, WAITS) from None
        if status:
            raise Disagreed(f"writing {to} to {knob} failed: exit status {status}", "cpu_subsys_online")
