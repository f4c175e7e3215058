# SPDX-License-Identifier: GPL-2.0-only
"""Owns operations done one at a time under a fault: what each leaves behind is told with the fault it came under."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence

from harness.faults.cause import Cause
from harness.guest.guest import BpfObject
from harness.oracles import ledger
from harness.suite.bench import Bench
from harness.suite.operations import ENABLER
from harness.suite.sweep import Faults

OBJECT = struct.Struct("<QIIII")
"""What precedes the stack in struct object of bpf_progs/ledger.bpf.c: run, kind, size, depth, nothing."""


class Trials:
    """The faults of a test, each with a number under which the ledger writes down what is allocated meanwhile."""

    def __init__(self, bench: Bench, faults: Faults) -> None:
        self._bench = bench
        self._faults = faults
        self._causes: list[Cause] = []
        self._ledger: BpfObject | None = None

    @contextlib.contextmanager
    def of(self, cause: Cause, under: Sequence[str]) -> Iterator[int]:
        """The block is done under this fault. Yields the trial's number, for :meth:`learn`.

        Objects that are allocated within it under these functions, by the thread that asks and the one that enables
        schedulers, are written down.
        """
        guest = self._bench.guest
        self._ledger = self._faults.ledger(under, deep=True)
        self._ledger.set("tid", guest.tid())
        self._ledger.set("other_tid", guest.thread(ENABLER))
        self._causes.append(cause)
        number = len(self._causes)
        self._ledger.set("run", number)
        with self._bench.under(cause):
            yield number
            self._ledger.set("run", 0)

    def learn(self, number: int, cause: Cause) -> None:
        """More is known now of the fault of a trial."""
        self._bench.learn(self._causes[number - 1], cause)
        self._causes[number - 1] = cause

    def settle(self) -> None:
        """Waits for quiescence; what the trials have left then are findings, each with its fault."""
        if self._ledger is None:
            return
        self._bench.guest.settle()
        found = ledger.findings([self._left(value) for _, value in self._ledger.dump("objects")])
        self._ledger.clear("objects")
        self._bench.findings += found
        self._bench.blame_sites("leaked", found, self._causes)

    def _left(self, value: bytes) -> ledger.Left:
        run, kind, size, depth, _ = OBJECT.unpack_from(value)
        stack = struct.unpack_from(f"<{depth}Q", value, OBJECT.size)
        frames = ledger.untraced(self._bench.ready.symbols.chain([0, *stack])[1:])
        cause = self._causes[run - 1]
        return ledger.Left(ledger.KINDS[kind], size, frames, cause.operation, cause.site, cause.fault)
