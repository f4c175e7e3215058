# SPDX-License-Identifier: GPL-2.0-only
"""Owns asking our module of freed memory: its quarantine for percpu objects, and whether what is read was freed.

The files are those of vm/module/poison.c and vm/module/held.c, in debugfs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from harness.errors import GuestError
from harness.guest.agent import Agent

POISON = "/sys/kernel/debug/kharness/poison"
HELD = "/sys/kernel/debug/kharness/held"
FLUSH = "/sys/kernel/debug/kharness/flush"

DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Counts:
    """Objects since the quarantine was armed: `tracked` were allocated by its callers, `poisoned` of them freed,
    `checked` looked at after that; of these `bad` had been written to, and `twice` were freed again. `lost` found no
    room in its table, `missed` were freed past it. `live` are not freed yet, `kept` not looked at yet.
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
        """How many were freed, whether they were looked at or not."""
        return self.checked + self.missed


def parse_counts(text: str) -> Counts:
    """What the file holds: a name and a number a line. Raises GuestError when one is missing."""
    rows = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    try:
        return Counts(**{field.name: int(rows[field.name]) for field in fields(Counts)})
    except (KeyError, ValueError) as error:
        raise GuestError(f"{POISON} does not tell {error}", step="run again: the module is built anew") from error


class Quarantine:
    """Percpu objects of chosen callers: poisoned when they are freed, and kept until they have been looked at.

    What is found is printed to the kernel log. Nothing of it is part of a test's scenario.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def arm(self, ranges: Sequence[tuple[int, int]]) -> None:
        """From now on, for objects whose allocation returns into one of these text ranges [start, end)."""
        self._write("arm " + " ".join(f"{start:x}-{end:x}" for start, end in ranges))

    def drain(self) -> Counts:
        """Looks at everything that was freed so far, and lets it go."""
        return self._end("drain")

    def disarm(self) -> Counts:
        """Looks at everything that was freed; what is still alive is free to go as it likes."""
        return self._end("disarm")

    def counts(self) -> Counts:
        """The counts now."""
        return parse_counts(str(self._agent.call("read", record=False, path=POISON)["data"]))

    def _end(self, how: str) -> Counts:
        self._write(how)
        return self.counts()

    def _write(self, text: str) -> None:
        self._agent.call("write", seconds=DRAIN_SECONDS, record=False, path=POISON, data=text)


@dataclass(frozen=True)
class Freed:
    """One object that is held: where it lies, and, if it was freed, the stack that freed it, innermost first."""

    address: int
    freed: bool
    stack: tuple[int, ...] = ()


@dataclass(frozen=True)
class Held:
    """The objects that are held, and whether a whole grace period has gone by since they were named."""

    grace: bool
    objects: tuple[Freed, ...]

    def of(self, address: int) -> Freed:
        """The one at an address. Raises GuestError where it is not held."""
        for one in self.objects:
            if one.address == address:
                return one
        raise GuestError(f"nothing is held at {address:#x}")


def parse_held(text: str) -> Held:
    """What the file holds. Raises GuestError when it is malformed."""
    lines = [line.split() for line in text.splitlines()]
    try:
        (name, grace), *rows = lines
        if name != "grace":
            raise ValueError(name)
        found = tuple(
            Freed(int(at, 16), state == "freed", tuple(int(word, 16) for word in stack)) for at, state, *stack in rows
        )
    except ValueError as error:
        raise GuestError(f"{HELD} cannot be read: {error}") from error
    return Held(grace == "1", found)


def hold(agent: Agent, addresses: Sequence[int]) -> None:
    """Watches for the freeing of slab objects and of percpu objects, at most 16; with none no longer."""
    text = " ".join(f"{address:x}" for address in addresses)
    agent.call("write", record=False, path=HELD, data=text + "\n")


def held(agent: Agent) -> Held:
    """What became of them so far."""
    return parse_held(str(agent.call("read", record=False, path=HELD)["data"]))


def flush(agent: Agent, busy: int) -> None:
    """Lets irq_work run on every CPU and the system workqueue on every other than `busy`; does not wait for RCU."""
    agent.call("write", record=False, path=FLUSH, data=str(busy))
