# SPDX-License-Identifier: GPL-2.0-only
"""An operation as sweeps and fault plans do it: lines of the agent's protocol, so that the guest repeats it by
itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.core.records import Operation
from harness.faults.endings import Allowed


@dataclass(frozen=True)
class Action:
    """One operation as a sweep does it: `before` each run, `during` which an allocation fails, `after` it in any case.

    `under` are the functions under test: other sites fail too, but are not counted; those not below the function
    `within` do not fail, where their number differs from run to run. `threads` are those that allocate for it; the
    empty name is the agent's.
    """

    name: str
    during: tuple[Operation, ...]
    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()
    under: tuple[str, ...] = ()
    allowed: Allowed = field(default_factory=Allowed)
    threads: tuple[str, ...] = ("",)
    within: str = ""


def steps(*operations: tuple[Operation, ...] | Operation) -> tuple[Operation, ...]:
    """Operations and sequences of them as one sequence."""
    return tuple(o for part in operations for o in ((part,) if isinstance(part, Operation) else part))
