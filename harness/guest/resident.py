# SPDX-License-Identifier: GPL-2.0-only
"""The resident ledger of a guest: attached before it is saved, it counts every object allocated since.

bpf_progs/observers/alive.bpf.c writes down, vm/agent/alive.c counts by place;
harness.oracles.live_objects interprets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from harness.core.errors import HarnessError
from harness.guest.agent import Agent, AgentError
from harness.kbuild.addresses import functions

PROGRAM = NAME = "alive"
"""The program, and the agent's name of the loaded object, which survives a reset."""

PROGRAMS = (
    "percpu_object_made",
    "percpu_object_gone",
    "slab_object_made",
    "slab_object_made_again",
    "slab_object_gone",
    "slab_object_gone_again",
    "slab_object_handed_over",
    "slab_object_handed_over_again",
)
"""Of bpf_progs/observers/alive.bpf.c."""

MAX_RANGES = 16
"""As in bpf_progs/observers/objects.bpf.h."""

PLANTING = "kharness_leak_"
"""Prefix of our module's functions that leak on purpose: their allocations count, too."""

TRIES = 5
SECONDS = 60.0
_COUNT = re.compile(r"^[ \t]+(nr_(?:de)?alloc)[ \t]*:[ \t]*(\d{1,20})", re.MULTILINE)


def planting(own: str) -> tuple[tuple[int, int], ...]:
    """The text of our module's functions that leak on purpose, from its file of symbols."""
    return tuple(sorted((f.start, f.start + f.size) for f in functions(own) if f.name.startswith(PLANTING)))


def attach(agent: Agent, folder: str, under_test: Sequence[tuple[int, int]]) -> str:
    """Record all percpu objects, and the slab objects that are allocated in these text ranges.

    Returns why this kernel cannot, empty if it can. Raises HarnessError for more than MAX_RANGES ranges.
    """
    if len(under_test) > MAX_RANGES:
        raise HarnessError(
            f"the code under test has {len(under_test)} text ranges, the ledger takes at most {MAX_RANGES}",
            step="raise MAX_RANGES in bpf_progs/observers/objects.bpf.h and harness/guest/resident.py",
        )
    try:
        agent.call("load", record=False, name=NAME, path=f"{folder}/{PROGRAM}.bpf.o", resident=True)
        for number, (start, end) in enumerate(under_test):
            agent.call("set", record=False, name=NAME, var="starts", value=start, index=number)
            agent.call("set", record=False, name=NAME, var="ends", value=end, index=number)
        agent.call("set", record=False, name=NAME, var="nr_ranges", value=len(under_test))
        for program in PROGRAMS:
            agent.call("attach", record=False, name=NAME, what=program)
    except AgentError as error:
        agent.call("unload", check=False, record=False, name=NAME)
        return error.line()
    return ""


def begin(agent: Agent, quiesce: Callable[[], str]) -> tuple[str, dict[str, int]]:
    """Empty the ledger, at a moment when no percpu object is allocated or freed.

    Returns percpu_stats of that moment and how often each program had missed an event. `quiesce` waits for quiescence
    and reads percpu_stats. Raises HarnessError where there is no such moment.
    """
    before = quiesce()
    for _ in range(TRIES):
        answer = read(agent, forget=True)
        after = quiesce()
        if counted(before) == counted(after):  # both only ever grow
            return after, {name: int(times) for name, times in answer["missed"].items()}
        before = after
    raise HarnessError("percpu objects come and go in a guest that should be quiescent", step="run again")


def counted(stats: str) -> list[tuple[str, str]]:
    """The counts of allocations and frees in percpu_stats."""
    return _COUNT.findall(stats)


def read(agent: Agent, *, forget: bool = False) -> dict[str, Any]:
    """The ledger's content: see do_alive() in vm/agent/alive.c for the answer's fields."""
    return agent.call("alive", seconds=SECONDS, record=False, name=NAME, forget=forget)
