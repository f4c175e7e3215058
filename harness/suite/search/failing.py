# SPDX-License-Identifier: GPL-2.0-only
"""Owns moves under one fault: the n-th allocation of a create, or of enabling a scheduler, fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.errors import GuestError
from harness.faults.endings import ENDED_BASE, ENOMEM, Allowed, Ending, ended_with, outcome, words
from harness.faults.sites import Ended
from harness.guest.guest import BpfObject, Tracers, dsq_context
from harness.model.trace import Answer, FaultAt
from harness.records import Fault, FaultSite, Operation
from harness.suite.account import Account, Swept
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.operations import CREATE, ENABLE, LINK, attaching
from harness.suite.sweep import Faults

BUDGET_MS = 20_000
"""Nominal, of one operation."""


class Run(NamedTuple):
    """What an operation answered, in the numbers of harness.faults.endings, and whether its fault fired."""

    answer: int
    fired: bool


def unharmed(answer: Answer) -> int:
    """What an operation comes to without a fault, as a number of harness.faults.endings."""
    value = max(answer.values)
    ends = [end for end in answer.exits if end is not None] if value == 0 else []
    return ended_with(ends[0]) if ends else value


class Failing:
    """Operations on one guest, each under a fault of its own. What is booked is judged as that of a sweep."""

    def __init__(self, bench: Bench, dsq: Dsqs, optional: Callable[[FaultSite], str]) -> None:
        self._bench = bench
        self._dsq = dsq
        self._optional = optional
        self._faults = Faults(bench, optional)
        self._armed: tuple[str, ...] | None = None

    def create(self, dsq_id: int, node: int, fault: Fault) -> int:
        """scx_bpf_create_dsq() with the fault; what it answered."""
        args = {"name": self._dsq.api.name, "prog": "create", "ctx": dsq_context(dsq_id, node).hex()}
        fine = unharmed(self._dsq.model.create(dsq_id, node))
        done = self._once("create", fault, (Operation("run", args),), CREATE, fine)
        self._dsq.judge(self._dsq.model.create(dsq_id, node, FaultAt.ANY if done.fired else None), done.answer)
        return done.answer

    def attach(self, scheduler: BpfObject, creates: Sequence[tuple[int, int]], fault: Fault) -> int:
        """Attaches a loaded scheduler with the fault in the thread that enables; how it ended.

        Without such a thread, which the first scheduler makes, there is no fault.
        """
        if not self._bench.guest.thread(fault.task):
            self._dsq.enable(scheduler, creates)
            return self._dsq.last
        self._bench.expect(r"failed \(-12\)", r"error -12")
        fine = unharmed(self._dsq.model.attach(scheduler.name, creates))
        done = self._once("attach", fault, attaching(self._dsq, scheduler), (*ENABLE, *LINK), fine)
        answer = self._dsq.model.attach(scheduler.name, creates, FaultAt.ANY if done.fired else None)
        ended = done.answer <= ENDED_BASE // 2
        got, exit_error = (0, done.answer - ENDED_BASE) if ended else (done.answer, None)
        self._dsq.enabled(scheduler, answer, got, exit_error)
        return done.answer

    def _once(self, name: str, fault: Fault, during: tuple[Operation, ...], under: tuple[str, ...], fine: int) -> Run:
        """The operation, which without the fault would answer `fine`."""
        if self._armed != fault.within:
            self._faults.arm_nth("".join(fault.within))
            self._armed = fault.within
        observer = self._faults.observer
        thread = "" if fault.task == "self" else fault.task
        with self._bench.arming():
            got = self._bench.guest.sweep(
                during, (), (), Tracers(observer, None, name), thread, misses=1, budget_ms=BUDGET_MS, fine=fine, all=0,
                **{"from": fault.nth, "to": fault.nth},
            )  # fmt: skip
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
        account = Account(self._bench, self._faults.observer, swept, self._optional)
        self._bench.count_faults(account.observed({ending.site: [ended]}))
        self._faults.observer.clear("sites")
