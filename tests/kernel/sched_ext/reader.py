# SPDX-License-Identifier: GPL-2.0-only
"""A held reader: a task on a CPU of its own that has looked a DSQ up and stays inside its RCU read-side section, and
the state of the DSQ meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.core.errors import GuestError, Inconclusive, MachineEnded
from harness.core.records import Evidence
from harness.core.wire import Binary
from harness.guest import freed
from harness.guest.guest import BpfObject
from harness.machine.deadline import Deadline
from harness.oracles import read_freed
from harness.session.context import TestContext
from sched_ext.dsq import Dsqs, dsq_context

PROGRAM = "dsq_reader"
CPU, OTHER = 0, 1
"""The CPU of the reader, and that of everything else."""

PATIENCE_SECONDS = 8.0
"""The reader ends by itself after so long (nominal): well below what RCU's and the scheduler's watchdogs grant."""

START_SECONDS = 5.0
"""Nominal seconds for the reader to look the DSQ up, and to leave when it is released."""

HOLDS = 1
"""Its stage while it uses the DSQ, as in bpf_progs/sched_ext/dsq_reader.bpf.c."""


class HeldReader:
    """A reader of one DSQ, on one guest with two CPUs or more."""

    def __init__(self, context: TestContext, dsq: Dsqs) -> None:
        self._context = context
        self._guest = context.guest
        self._dsq = dsq

    @contextlib.contextmanager
    def holding(self, dsq_id: int) -> Iterator[None]:
        """Keep a task on CPU 0, which has looked this DSQ up, in its RCU section while the block destroys the DSQ.

        When the block has ended and irq_work and workqueues have run, nothing of the DSQ may have been freed; each part
        that was is a finding that names the freeing function. Then the reader uses the DSQ, unless it is gone, and
        leaves; once the guest is quiescent all parts must have been freed. Raises Inconclusive where the reader did not
        stay for so long.
        """
        parts = self._parts(dsq_id)
        agent = self._guest.agent
        with self._reading(dsq_id) as reader:
            freed.watch(agent, list(parts))
            yield
            freed.flush(agent, CPU)
            during = freed.watched(agent)
            state = reader.get("stage", "gave_up", "cpu")
            early = [one for one in during.objects if one.freed]
            if early:  # its lock may have any content now: a reader that took it would hang, and hide the culprit
                reader.set("keep_off", 1)
        if state != {"stage": HOLDS, "gave_up": 0, "cpu": CPU} or during.grace:
            raise Inconclusive(f"the reader did not hold on: {state}, a grace period went by: {during.grace}")
        symbols = self._context.target.symbols
        self._context.findings += [
            read_freed.finding(parts[one.address], symbols.chain([0, *one.stack])[1:]) for one in early
        ]
        self._guest.settle()
        after = freed.watched(agent)
        freed.watch(agent, [])
        gone = [parts[one.address] for one in after.objects if one.freed]
        payload = {"held": list(parts.values()), "freed early": len(early), "freed": len(gone)}
        self._context.evidence.append(Evidence(read_freed.ORACLE, payload=payload))
        left = ", ".join(what for what in parts.values() if what not in gone)
        if left:
            raise AssertionError(f"not freed although its last reader has left: {left}")

    def _parts(self, dsq_id: int) -> dict[int, str]:
        """The parts of the DSQ by their addresses."""
        api = self._dsq.api
        api.set("sought", dsq_id)
        api.run("live", dsq_context(0), record=False)
        found = api.get("sought_at", "sought_pcpu")
        if not found["sought_at"]:
            raise GuestError(f"DSQ {dsq_id} is not in the kernel's table")
        parts = {found["sought_at"]: "the DSQ itself", found["sought_pcpu"]: "the percpu data of a DSQ"}
        return {address: what for address, what in parts.items() if address}

    @contextlib.contextmanager
    def _reading(self, dsq_id: int) -> Iterator[BpfObject]:
        """Let the reader use the DSQ within the block; everything else is done on another CPU."""
        scale = self._context.target.pristine.scale
        reader = self._guest.load(PROGRAM, patience_ns=int(PATIENCE_SECONDS * scale * 1e9))
        context = reader.hex(Binary("Q", dsq_id))
        with self._guest.pinned(OTHER):
            self._guest.agent.call("run-beside", name=reader.name, prog="hold", ctx=context, task="reader", cpu=CPU)
            try:
                self._started(reader)
                yield reader
            except MachineEnded:
                raise
            except BaseException:
                self._let_go(reader)
                raise
            self._let_go(reader)

    def _started(self, reader: BpfObject) -> None:
        deadline = Deadline(START_SECONDS * self._context.target.pristine.scale, "the reader to look the DSQ up")
        while (seen := reader.get("stage", "refused"))["stage"] != HOLDS:
            if seen["refused"] or deadline.expired:
                raise GuestError(f"{deadline}: it was answered {seen['refused']}")

    def _let_go(self, reader: BpfObject) -> None:
        reader.set("release", 1)
        agent, scale = self._guest.agent, self._context.target.pristine.scale
        agent.call("reap", record=False, name="reader", timeout_ms=int(1000 * START_SECONDS * scale))
