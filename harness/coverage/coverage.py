# SPDX-License-Identifier: GPL-2.0-only
"""What is kept of a kernel's counters: the functions under test, the callers of what may fail, the patch's lines."""

from __future__ import annotations

from dataclasses import dataclass

from harness.coverage.branches import Call, Covered
from harness.coverage.claims import Claim
from harness.coverage.lines import PatchLine, State


@dataclass(frozen=True)
class Coverage:
    """What all tests of a run covered on one kernel. `tests` is how many gave counters, `why` why none did.

    With `beside` they ran for it on another kernel of the same source, which counts; `failing` are those that failed
    there.
    """

    kernel: str
    arch: str
    tests: int = 0
    functions: tuple[Covered, ...] = ()
    calls: tuple[Call, ...] = ()
    why: str = ""
    patch: tuple[PatchLine, ...] = ()
    claims: tuple[Claim, ...] = ()
    beside: bool = False
    failing: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """How many error branches the functions under test have."""
        return sum(row.errors for row in self.functions)

    @property
    def errors_taken(self) -> int:
        return sum(row.errors_taken for row in self.functions)

    @property
    def executable(self) -> tuple[PatchLine, ...]:
        """The lines of the patch that could run: they were built, and gcov counts them."""
        return tuple(line for line in self.patch if line.state in (State.RAN, State.NEVER))

    @property
    def never(self) -> tuple[PatchLine, ...]:
        """Those of them that no test executed."""
        return tuple(line for line in self.patch if line.state is State.NEVER)
