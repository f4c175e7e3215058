# SPDX-License-Identifier: GPL-2.0-only
"""Moves under one fault: the n-th allocation of a create, or of enabling a scheduler, fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.core.errors import GuestError
from harness.core.records import Fault, FaultSite, Operation
from harness.faults.account import Account, Swept
from harness.faults.endings import ENDED_BASE, ENOMEM, Allowed, Ending, ended_with, outcome, words
from harness.faults.sites import Ended
from harness.faults.sweep import Faults
from harness.guest.guest import BpfObject, Tracers
from harness.session.context import TestContext
from sched_ext.dsq import CREATE, Dsqs, dsq_context
from sched_ext.model.trace import Answer, FaultAt
from sched_ext.operations import ENABLE, LINK, attaching

BUDGET_MS = 20_000
"""Nominal, of one operation."""


class Run(NamedTuple):
    """The answer of an operation, in the numbers of harness.faults.endings, and whether its fault fired."""

    answer: int
    fired: bool


def unharmed(answer: Answer) -> int:
    """The result of an operation without a fault, as a number of harness.faults.endings."""
    value = max(answer.values)
    ends = [end for end in answer.exits if end is not None] if value == 0 else []
    return ended_with(ends[0]) if ends else value


class Failing:
    """Operations on one guest, each under a fault of its own, judged as those of a sweep."""

    def __init__(self, context: TestContext, dsq: Dsqs, optional: Callable[[FaultSite], str]) -> None:
        self._context = context
        self._dsq = dsq
        self._optional = optional
        self._faults = Faults(context, optional)
        self._armed: tuple[str, ...] | None = None

    def create(self, dsq_id: int, node: int, fault: Fault) -> int:
        """scx_bpf_create_dsq() with the fault; returns its answer."""
        args = {"name": self._dsq.api.name, "prog": "create", "ctx": self._dsq.api.hex(dsq_context(dsq_id, node))}
        fine = unharmed(self._dsq.model.create(dsq_id, node))
        done = self._once("create", fault, (Operation("run", args),), CREATE, fine)
        self._dsq.judge(self._dsq.model.create(dsq_id, node, FaultAt.ANY if done.fired else None), done.answer)
        return done.answer

    def attach(self, scheduler: BpfObject, creates: Sequence[tuple[int, int]], fault: Fault) -> int:
        """Attach a loaded scheduler with the fault in the enabling thread; returns how it ended.

        Without such a thread, which the first scheduler makes, there is no fault.
        """
        if not self._context.guest.thread(fault.task):
            self._dsq.enable(scheduler, creates)
            return self._dsq.last
        self._context.expect(r"failed \(-12\)", r"error -12")
        fine = unharmed(self._dsq.model.attach(scheduler.name, creates))
        done = self._once("attach", fault, attaching(self._dsq, scheduler), (*ENABLE, *LINK), fine)
        answer = self._dsq.model.attach(scheduler.name, creates, FaultAt.ANY if done.fired else None)
        ended = done.answer <= ENDED_BASE // 2
        got, exit_error = (0, done.answer - ENDED_BASE) if ended else (done.answer, None)
        self._dsq.enabled(scheduler, answer, got, exit_error)
        return done.answer

    def _once(self, name: str, fault: Fault, during: tuple[Operation, ...], under: tuple[str, ...], fine: int) -> Run:
        """Do the operation, which without the fault would answer `fine`."""
        if self._armed != fault.within:
            self._faults.arm_nth("".join(fault.within))
            self._armed = fault.within
        observer = self._faults.observer
        thread = "" if fault.task == "self" else fault.task
        with self._context.arming():
            got = self._context.guest.sweep(
                during,
                (),
                (),
                Tracers(observer, None, name),
                thread,
                misses=1,
                budget_ms=BUDGET_MS,
                fine=fine,
                all=0,
                **{"from": fault.nth, "to": fault.nth},
            )
        if got is None:
            raise GuestError(f"there is no thread {thread} any more")
        if got["disputed"] or got["lost"]:
            raise GuestError(f"fail-nth and the tracer disagree on {name}")
        if not got["outcomes"]:
            return Run(fine, False)
        (row,) = got["outcomes"]
        ending = Ending(*row)
        if ending.answer == -errno.ETIMEDOUT:
            raise AssertionError(f"{name} came to no end with allocation {fault.nth} failing")
        if ending.site:
            self._book(Swept(name, thread, Allowed(fine, frozenset({ENOMEM, ended_with(ENOMEM)})), under), ending)
        return Run(ending.answer, bool(ending.site))

    def _book(self, swept: Swept, ending: Ending) -> None:
        ended = Ended(outcome(ending, swept.allowed), words(ending.answer), 1)
        account = Account(self._context, self._faults.observer, swept, self._optional)
        self._context.count_faults(account.observed({ending.site: [ended]}))
        self._faults.observer.clear("sites")
