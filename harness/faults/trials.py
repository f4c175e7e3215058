# SPDX-License-Identifier: GPL-2.0-only
"""Operations done one at a time under a fault: the objects that each leaves are reported with its fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from harness.faults.cause import Cause
from harness.faults.context import FaultContext
from harness.faults.sweep import Faults
from harness.guest.guest import BpfObject
from harness.oracles import ledger

OBJECT = "QIIII"
STACK = 24
"""struct object of bpf_progs/observers/ledger.bpf.c: run, kind, size, depth, nothing; and where its stack begins."""


class Trials:
    """The faults of a test, each with a number under which the ledger records the allocations meanwhile."""

    def __init__(self, context: FaultContext, faults: Faults) -> None:
        self._context = context
        self._faults = faults
        self._causes: list[Cause] = []
        self._ledger: BpfObject | None = None

    @contextlib.contextmanager
    def of(self, cause: Cause, under: Sequence[str], helper: str = "") -> Iterator[int]:
        """Do the block under this fault. Yields the trial's number, for :meth:`learn`.

        Objects that are allocated within it under these functions, by the agent's thread and the kernel thread named
        `helper`, are recorded.
        """
        guest = self._context.guest
        self._ledger = self._faults.ledger(under, deep=True)
        self._ledger.set("tid", guest.tid())
        self._ledger.set("other_tid", guest.thread(helper) if helper else 0)
        self._causes.append(cause)
        number = len(self._causes)
        self._ledger.set("run", number)
        with self._context.under(cause):
            yield number
            self._ledger.set("run", 0)

    def learn(self, number: int, cause: Cause) -> None:
        """Replace what was known of the fault of a trial."""
        self._context.learn(self._causes[number - 1], cause)
        self._causes[number - 1] = cause

    def settle(self) -> None:
        """Wait for quiescence; objects that the trials left become findings, each with its fault."""
        if self._ledger is None:
            return
        self._context.guest.settle()
        found = ledger.findings([self._left(value) for _, value in self._ledger.dump("objects")])
        self._ledger.clear("objects")
        self._context.findings += found
        self._context.blame_sites("leaked", found, self._causes)

    def _left(self, value: bytes) -> ledger.Left:
        unpack = self._context.guest.agent.order.unpack
        run, kind, size, depth, _ = unpack(OBJECT, value)
        stack = unpack(f"{depth}Q", value, STACK)
        frames = ledger.untraced(self._context.target.symbols.chain([0, *stack])[1:])
        cause = self._causes[run - 1]
        return ledger.Left(ledger.KINDS[kind], size, frames, cause.operation, cause.site, cause.fault)
