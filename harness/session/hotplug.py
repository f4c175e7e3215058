# SPDX-License-Identifier: GPL-2.0-only
"""CPUs that go offline and come back during a test: done in a separate task, so that the agent survives a hang."""

from __future__ import annotations

from harness.core.errors import Disagreed
from harness.guest.agent import AgentError
from harness.guest.guest import BpfObject, Guest
from harness.session.load import whereabouts

HOTPLUG_SECONDS = 15.0
"""Nominal seconds; it takes well below one if nothing blocks it, and several on a busy host. The kernel's watchdog must
not come first: it speaks of the task that is held after 30 s, and not of the CPU."""

WAITS = "sched_cpu_wait_empty"
"""The function in which CPU offlining waits until the CPU has no task left (kernel/sched/core.c)."""


class Cpu:
    """One CPU of a guest; `scheduler` is the one to blame if it does not go offline."""

    def __init__(self, guest: Guest, number: int, scheduler: BpfObject) -> None:
        self._guest = guest
        self.number = number
        self._scheduler = scheduler

    def offline(self) -> None:
        """Take it offline. Raises Disagreed if the kernel does not finish in time."""
        self._switch("0")

    def online(self) -> None:
        """Bring it online. Raises as :meth:`offline`."""
        self._switch("1")

    def _switch(self, to: str) -> None:
        """Write the knob (Documentation/core-api/cpu_hotplug.rst) in a separate task, and wait for that."""
        knob = f"/sys/devices/system/cpu/cpu{self.number}/online"
        agent, task = self._guest.agent, f"cpu{self.number}-{to}"
        writer = int(agent.call("spawn", name=task, a0="sh", a1="-c", a2=f"exec echo {to} > {knob}")["pid"])
        patience = int(1000 * HOTPLUG_SECONDS * self._guest.pristine.scale)
        try:
            status = int(agent.call("reap", seconds=HOTPLUG_SECONDS + 5, name=task, timeout_ms=patience)["status"])
        except AgentError:
            where = whereabouts(self._guest, writer)
            self._scheduler.detach()  # then its tasks continue, and the writer ends
            way = "online" if to == "1" else "offline"
            what = f"CPU {self.number} does not go {way} within {HOTPLUG_SECONDS:.0f} s ({where})"
            raise Disagreed(what, WAITS) from None
        if status:
            raise Disagreed(f"writing {to} to {knob} failed: exit status {status}", "cpu_subsys_online")
