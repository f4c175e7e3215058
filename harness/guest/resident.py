# SPDX-License-Identifier: GPL-2.0-only
"""Owns the resident ledger of a guest: attached before it is saved, it counts every object allocated since.

bpf_progs/alive.bpf.c writes down, vm/agent/alive.c counts by place. What it means is told in harness.oracles.alive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from harness.build.addresses import functions
from harness.errors import HarnessError
from harness.guest.agent import Agent, AgentError

PROGRAM = NAME = "alive"
"""The program, and what the agent calls the loaded object; it stays through a reset."""

PROGRAMS = (
    "percpu_object_made", "percpu_object_gone", "slab_object_made", "slab_object_made_again", "slab_object_gone",
    "slab_object_gone_again", "slab_object_handed_over", "slab_object_handed_over_again",
)  # fmt: skip
"""Of bpf_progs/alive.bpf.c."""

MAX_RANGES = 16
"""As in bpf_progs/objects.bpf.h."""

PLANTING = "kharness_leak_"
"""How the functions of our module begin that leak on purpose: what they allocate counts, too."""

TRIES = 5
SECONDS = 60.0
_COUNT = re.compile(r"^\s+(nr_(?:de)?alloc)\s*:\s*(\d+)", re.MULTILINE)


def planting(own: str) -> tuple[tuple[int, int], ...]:
    """The text of our module's functions that leak on purpose, from its file of symbols."""
    return tuple(sorted((f.start, f.start + f.size) for f in functions(own) if f.name.startswith(PLANTING)))


def attach(agent: Agent, folder: str, under_test: Sequence[tuple[int, int]]) -> str:
    """Has everybody's percpu objects written down, and slab objects that are allocated in these text ranges.

    Returns why this kernel cannot, empty if it can. Raises HarnessError for more ranges than there is room for.
    """
    if len(under_test) > MAX_RANGES:
        raise HarnessError(
            f"the code under test lies in {len(under_test)} places, the ledger has room for {MAX_RANGES}",
            step="raise MAX_RANGES in bpf_progs/objects.bpf.h and harness/guest/resident.py",
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


def begin(agent: Agent, quiet: Callable[[], str]) -> tuple[str, dict[str, int]]:
    """Everything that was written down is forgotten, at a moment when nobody allocates or frees a percpu object.

    Returns percpu_stats of that moment and how often each program had missed an event. `quiet` waits for quiescence and
    reads percpu_stats. Raises HarnessError where there is no such moment.
    """
    before = quiet()
    for _ in range(TRIES):
        answer = read(agent, forget=True)
        after = quiet()
        if _COUNT.findall(before) == _COUNT.findall(after):  # both only ever grow
            return after, {name: int(times) for name, times in answer["missed"].items()}
        before = after
    raise HarnessError("percpu objects come and go in a guest that should be quiescent", step="run again")


def read(agent: Agent, *, forget: bool = False) -> dict[str, Any]:
    """What the ledger holds: see do_alive() in vm/agent/alive.c for the answer's fields."""
    return agent.call("alive", seconds=SECONDS, record=False, name=NAME, forget=forget)
