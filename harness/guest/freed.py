# SPDX-License-Identifier: GPL-2.0-only
"""Our module's view of freed memory: its quarantine for percpu objects, and whether what is read was freed.

The files are those of vm/module/poison.c and vm/module/watched.c, in debugfs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from harness.core.errors import GuestError
from harness.guest.agent import Agent

POISON = "/sys/kernel/debug/kharness/poison"
WATCHED = "/sys/kernel/debug/kharness/watched"
FLUSH = "/sys/kernel/debug/kharness/flush"

DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Counts:
    """Objects since the quarantine was armed: `tracked` were allocated by its callers, `poisoned` of them freed,
    `checked` examined after that; of these `bad` had been written to, and `twice` were freed again. `lost` did not fit
    into its table, `missed` were freed without it. `live` are not freed yet, `kept` not examined yet.
    """

    tracked: int = 0
    poisoned: int = 0
    checked: int = 0
    bad: int = 0
    twice: int = 0
    lost: int = 0
    missed: int = 0
    live: int = 0
    kept: int = 0

    @property
    def gone(self) -> int:
        """How many were freed, whether they were examined or not."""
        return self.checked + self.missed


def parse_counts(text: str) -> Counts:
    """Parse the file: a name and a number a line. Raises GuestError when one is missing."""
    rows = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    try:
        return Counts(**{field.name: int(rows[field.name]) for field in fields(Counts)})
    except (KeyError, ValueError) as error:
        raise GuestError(f"{POISON} does not say {error}", step="run again: the module is built again") from error


class Quarantine:
    """Percpu objects of chosen callers: poisoned when they are freed, and kept until they have been examined.

    Findings are printed to the kernel log. None of these operations is part of a test's scenario.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def arm(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Start, for objects whose allocation returns into one of these text ranges [start, end)."""
        self._write("arm " + " ".join(f"{start:x}-{end:x}" for start, end in ranges))

    def drain(self) -> Counts:
        """Examine everything that was freed so far, and release it."""
        return self._end("drain")

    def disarm(self) -> Counts:
        """Examine everything that was freed, and stop; objects that are still alive are no longer tracked."""
        return self._end("disarm")

    def counts(self) -> Counts:
        """Read the counts."""
        return parse_counts(str(self._agent.call("read", record=False, path=POISON)["data"]))

    def _end(self, how: str) -> Counts:
        self._write(how)
        return self.counts()

    def _write(self, text: str) -> None:
        self._agent.call("write", seconds=DRAIN_SECONDS, record=False, path=POISON, data=text)


@dataclass(frozen=True)
class Freed:
    """One watched object: its address, and, if it was freed, the stack that freed it, innermost first."""

    address: int
    freed: bool
    stack: tuple[int, ...] = ()


@dataclass(frozen=True)
class Watched:
    """The watched objects, and whether a whole grace period has passed since the watch began."""

    grace: bool
    objects: tuple[Freed, ...]

    def of(self, address: int) -> Freed:
        """The object at an address. Raises GuestError where it is not watched."""
        for one in self.objects:
            if one.address == address:
                return one
        raise GuestError(f"nothing is watched at {address:#x}")


def parse_watched(text: str) -> Watched:
    """Parse the file. Raises GuestError when it is malformed."""
    lines = [line.split() for line in text.splitlines()]
    try:
        (name, grace), *rows = lines
        if name != "grace":
            raise ValueError(name)
        found = tuple(
            Freed(int(at, 16), state == "freed", tuple(int(word, 16) for word in stack)) for at, state, *stack in rows
        )
    except ValueError as error:
        raise GuestError(f"{WATCHED} cannot be read: {error}") from error
    return Watched(grace == "1", found)


def watch(agent: Agent, addresses: Sequence[int]) -> None:
    """Watch for the freeing of slab objects and of percpu objects, at most 16; an empty list ends the watch."""
    text = " ".join(f"{address:x}" for address in addresses)
    agent.call("write", record=False, path=WATCHED, data=text + "\n")


def watched(agent: Agent) -> Watched:
    """The watched objects so far."""
    return parse_watched(str(agent.call("read", record=False, path=WATCHED)["data"]))


def flush(agent: Agent, busy: int) -> None:
    """Let irq_work run on every CPU and the system workqueue on every CPU but `busy`; does not wait for RCU."""
    agent.call("write", record=False, path=FLUSH, data=str(busy))
