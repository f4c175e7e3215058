# SPDX-License-Identifier: GPL-2.0-only
"""How one run under an injected fault ends: the agent's numbers become an outcome and an answer in words.

Pure. The numbers are those of vm/agent: an answer is 0 or a negative errno, or, of a scheduler that ended by itself
after its attach succeeded, ENDED_BASE and the errno in its exit info.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass

ENOMEM = -errno.ENOMEM
ENDED_BASE = -100_000
"""As in vm/agent/steps.c."""

HANG = -errno.ETIMEDOUT
"""The agent's answer for an operation that did not end in time."""

LEFT_PERCPU, LEFT_SLAB, NOT_DONE = 1, 2, 4
"""What was wrong with a run beyond its answer; as in vm/agent/run.c."""


@dataclass(frozen=True)
class Ending:
    """One line of a sweep's account: `times` runs in which `site` (a key of the observer's map; 0: nothing) failed, as
    the `nth` allocation in the first of them, and which all answered `answer` with the same `flags`."""

    site: int
    answer: int
    flags: int
    nth: int
    times: int


@dataclass(frozen=True)
class Allowed:
    """The allowed answers of an operation: `fine` without a fault, and under one also `errors`."""

    fine: int = 0
    errors: frozenset[int] = frozenset({ENOMEM})


def ended_with(number: int) -> int:
    """The answer of an attach that succeeded and whose scheduler then ended with this errno (negative)."""
    return ENDED_BASE + number


def words(answer: int) -> str:
    """An answer in words: ``0``, ``-ENOMEM``, ``exit -ENOMEM``, ``no end``."""
    if answer == HANG:
        return "no end"
    ended = answer <= ENDED_BASE // 2
    number = answer - ENDED_BASE if ended else answer
    name = f"-{errno.errorcode[-number]}" if -number in errno.errorcode else str(number)
    return f"exit {name}" if ended else name


def outcome(ending: Ending, allowed: Allowed) -> str:
    """How an injected fault ended, one of harness.faults.sites.WORST; splats and crashes are found elsewhere."""
    if ending.answer == HANG:
        return "hang"
    if ending.flags & (LEFT_PERCPU | LEFT_SLAB):
        return "leaked"
    if ending.answer == allowed.fine:
        return "wrong errno" if ending.flags & NOT_DONE else "absorbed"
    return "handled" if ending.answer in allowed.errors else "wrong errno"


def problem(operation: str, ending: Ending, allowed: Allowed) -> str:
    """What is wrong with how an operation ended, in one line, or empty. Leaks are findings of their own."""
    answered = words(ending.answer)
    under = "under a fault" if ending.site else "although no fault was injected"
    if ending.answer == HANG:
        return f"{operation} came to no end {under}"
    if ending.answer == allowed.fine and ending.flags & NOT_DONE:
        return f"{operation} answered {answered} {under}, but what it says it did is not there"
    fits = ending.answer == allowed.fine or (ending.site and ending.answer in allowed.errors)
    legal = allowed_words(allowed, bool(ending.site))
    return "" if fits else f"{operation} answered {answered} {under}, allowed is {legal}"


def allowed_words(allowed: Allowed, fault: bool) -> str:
    """The allowed answers in words."""
    errors: Collection[int] = sorted(allowed.errors, reverse=True) if fault else ()
    return " or ".join(dict.fromkeys(words(answer) for answer in (allowed.fine, *errors)))
