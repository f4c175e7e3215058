# SPDX-License-Identifier: GPL-2.0-only
"""Owns which injected fault a finding came under: what is known of it, and how a finding is told so.

Pure. What our module prints when the kernel dies (tell() in vm/module/told.c) is read back here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.faults import plans
from harness.faults.sites import normalise
from harness.plan import FaultPlan
from harness.records import Fault, FaultSite, FaultSummary, Finding, LogRecord

TYPES = {1: "failslab", 2: "page"}
"""As in bpf_progs/fault_sites.bpf.c."""


@dataclass(frozen=True)
class Cause:
    """An injected fault: during which operation, at which site (type, and chain of functions, innermost first; empty
    where it is not known), and the plan of one line that injects it again."""

    operation: str
    type: str = ""
    stack: tuple[str, ...] = ()
    fault: str = ""

    @property
    def site(self) -> str:
        """The chain as a finding tells it."""
        return " < ".join(self.stack)

    def of(self, finding: Finding) -> Finding:
        """The finding, told what it came under, unless it knows."""
        return replace(
            finding, operation=finding.operation or self.operation, site=finding.site or self.site or None,
            fault=finding.fault or self.fault or None,
        )  # fmt: skip

    def summary(self, outcome: str, findings: Iterable[Finding]) -> FaultSummary:
        """The one fault as a test's account of it, where the guest did not live to give one."""
        if not self.stack:
            return FaultSummary()
        signatures = tuple(dict.fromkeys(finding.signature for finding in findings))
        site = FaultSite(
            self.operation, self.type, self.stack, reached=1, injected=1, outcome=outcome, outcomes={outcome: 1},
            findings=signatures,
        )  # fmt: skip
        return FaultSummary(1, 1, 0, (site,))


@dataclass(frozen=True)
class Window:
    """The records of the kernel log, from sequence number `first` to `last`, that came during a run under `cause`."""

    first: int
    last: int
    cause: Cause

    def within(self, records: Sequence[LogRecord]) -> list[LogRecord]:
        """Those of the records that came then."""
        return [record for record in records if record.seq is not None and self.first <= record.seq <= self.last]


TOLD = struct.Struct("<64sQQII16Q")
"""struct told of vm/agent/agent.h: operation, number of the allocation, site, type, depth, stack."""


def read_told(memory: bytes, function: Callable[[int], str]) -> tuple[Cause, int] | None:
    """As :func:`told`, from the memory itself; `function` names what an address of the text lies in."""
    what, nth, site, kind, depth, *stack = TOLD.unpack_from(memory)
    operation = what.partition(b"\0")[0].decode("latin-1")
    if not operation:
        return None
    names = normalise(function(address) for address in stack[: min(depth, len(stack))]) if site else ()
    return Cause(operation, TYPES.get(kind, "") if site else "", names), nth


_DIED = re.compile(r"kharness: died during: (?P<what>[^\n]*), allocation (?P<nth>\d+)\s*$")
_TYPE = re.compile(r"kharness: fault type (?P<type>\d+)\s*$")
_AT = re.compile(r"kharness: fault at (?P<name>[\w.$]+)(?:\+0x\S*)?(?: \[\w+[^\]]*\])?\s*$")


def told(lines: Sequence[str]) -> tuple[Cause, int] | None:
    """The cause that our module told when the kernel died, and the number of the allocation; None if it told nothing.

    The first telling counts: an oops is followed by a panic that tells it again.
    """
    started: tuple[str, int] | None = None
    kind, stack = "", []
    for line in lines:
        if found := _DIED.search(line):
            if started:
                break
            started = found["what"].strip(), int(found["nth"])
        elif started and (found := _TYPE.search(line)):
            kind = TYPES.get(int(found["type"]), "")
        elif started and (found := _AT.search(line)):
            stack.append(found["name"])
    return (Cause(started[0], kind, normalise(stack)), started[1]) if started else None


def swept_cause(cause: Cause, nth: int) -> Cause:
    """The cause as a sweep knows it: what is told is ``attach [scx_enable_helper]``, the thread in brackets."""
    operation, _, thread = cause.operation.removesuffix("]").partition(" [")
    return replace(cause, operation=operation, fault=plan_of(operation, thread, nth))


def plan_of(operation: str, thread: str, nth: int) -> str:
    """The plan of one line that makes the nth allocation of a thread fail again."""
    return plans.line(FaultPlan(operation, Fault(task=thread or "self", nth=nth)))
