# SPDX-License-Identifier: GPL-2.0-only
"""Which injected fault a finding came under: what is known of it, and how a finding names it.

Pure. What our module prints when the kernel dies (print_last_words() in vm/module/last_words.c) is read back here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.plan import FaultPlan
from harness.core.records import Fault, FaultSite, FaultSummary, Finding, LogRecord
from harness.core.wire import ByteOrder
from harness.faults import plans
from harness.faults.sites import normalise
from harness.faults.types import of_site


@dataclass(frozen=True)
class Cause:
    """An injected fault: the operation, the site (type, and chain of functions, innermost first; empty where it is not
    known), and the plan of one line that injects it again."""

    operation: str
    type: str = ""
    stack: tuple[str, ...] = ()
    fault: str = ""

    @property
    def site(self) -> str:
        """The chain in the form of a finding."""
        return " < ".join(self.stack)

    def of(self, finding: Finding) -> Finding:
        """Add to a finding the fault that it came under, unless it has one."""
        return replace(
            finding,
            operation=finding.operation or self.operation,
            site=finding.site or self.site or None,
            fault=finding.fault or self.fault or None,
        )

    def summary(self, outcome: str, findings: Iterable[Finding]) -> FaultSummary:
        """The one fault as a test's summary, for a guest that died before it could give one."""
        if not self.stack:
            return FaultSummary()
        signatures = tuple(dict.fromkeys(finding.signature for finding in findings))
        site = FaultSite(
            self.operation,
            self.type,
            self.stack,
            reached=1,
            injected=1,
            outcome=outcome,
            outcomes={outcome: 1},
            findings=signatures,
        )
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


LAST_WORDS, LAST_WORDS_BYTES = "64sQQII16Q", 216
"""struct last_words of vm/agent/agent.h: operation, number of the allocation, site, type, depth, stack."""


def read_last_words(memory: bytes, order: ByteOrder, function: Callable[[int], str]) -> tuple[Cause, int] | None:
    """As :func:`last_words`, from the memory itself; `function` names the function at an address."""
    what, nth, site, kind, depth, *stack = order.unpack(LAST_WORDS, memory)
    operation = what.partition(b"\0")[0].decode("latin-1")
    if not operation:
        return None
    names = normalise(function(address) for address in stack[: min(depth, len(stack))]) if site else ()
    return Cause(operation, of_site(kind) if site else "", names), nth


_LINE = 1000
"""The last characters of a line that are searched: our module's message is shorter, and ends the line."""

_DIED = re.compile(r"kharness: died during: (?P<what>[^\n]*), allocation (?P<nth>\d+)\s*$")
_TYPE = re.compile(r"kharness: fault type (?P<type>\d+)\s*$")
_AT = re.compile(r"kharness: fault at (?P<name>[\w.$]+)(?:\+0x\S*)?(?: \[\w+[^\]]*\])?\s*$")


def last_words(lines: Sequence[str]) -> tuple[Cause, int] | None:
    """The cause that our module printed when the kernel died, and the number of the allocation; None if it did not.

    The first message counts: a panic that follows an oops repeats it.
    """
    started: tuple[str, int] | None = None
    kind, stack = "", []
    for line in (line[-_LINE:] for line in lines):
        if found := _DIED.search(line):
            if started:
                break
            started = found["what"].strip(), int(found["nth"])
        elif started and (found := _TYPE.search(line)):
            kind = of_site(int(found["type"]))
        elif started and (found := _AT.search(line)):
            stack.append(found["name"])
    return (Cause(started[0], kind, normalise(stack)), started[1]) if started else None


def swept_cause(cause: Cause, nth: int) -> Cause:
    """The cause as a sweep names it: the printed one is ``attach [kthreadd]``, with the thread in brackets."""
    operation, _, thread = cause.operation.removesuffix("]").partition(" [")
    return replace(cause, operation=operation, fault=plan_of(operation, thread, nth))


def plan_of(operation: str, thread: str, nth: int) -> str:
    """The plan of one line that makes the nth allocation of a thread fail again."""
    return plans.line(FaultPlan(operation, Fault(task=thread or "self", nth=nth)))
