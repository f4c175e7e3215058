# SPDX-License-Identifier: GPL-2.0-only
"""Owns the protocol with the guest's agent (vm/agent): one operation out, one JSON line back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import GuestError
from harness.machine.deadline import Deadline
from harness.machine.vm import Vm
from harness.records import Operation, OpResult

CALL_SECONDS = 15.0
"""Nominal deadline of one operation; the machine's scale multiplies it."""

OOPS = re.compile(r"\] (?:Oops: |Internal error: |Oops \[#|BUG: unable to handle )")
GRACE_SECONDS = 5.0
"""A kernel that oopsed may have taken with it what an operation waits for: so long (nominal) it has to answer."""

_PROGRAM = re.compile(r"libbpf: prog '([^']+)': -- BEGIN PROG LOAD LOG --\n")
_VERDICT_END = re.compile(r"\n(?:processed \d+ insns|-- END PROG LOAD LOG --)")


def refusal(log: str) -> str:
    """The program that the verifier refused, and its reason, from libbpf's log; empty where it refused none.

    The reason is the last line before the statistics (print_verification_stats() in kernel/bpf/verifier.c).
    """
    begin = _PROGRAM.search(log)
    if not begin:
        return ""
    said = _VERDICT_END.split(log[begin.end() - 1 :], maxsplit=1)[0].strip().splitlines()
    return f"the verifier refused program {begin[1]}: {said[-1].strip() if said else 'it gave no reason'}"


class AgentError(GuestError):
    """The agent answered that an operation failed; `errno` is positive, `answer` the whole reply."""

    def __init__(self, verb: str, answer: Mapping[str, Any]) -> None:
        log = str(answer.get("log", ""))
        reason = refusal(log) or answer.get("error", "no reason given")
        super().__init__(f"guest: {verb}: {reason}", detail=log)
        self.errno = int(answer.get("errno", 0))
        self.answer = answer


def encode_value(value: object) -> str:
    """A value as the agent's percent-encoding wants it: tab, newline and percent escaped."""
    text = ("1" if value else "0") if isinstance(value, bool) else str(value)
    return text.replace("%", "%25").replace("\t", "%09").replace("\n", "%0A")


def encode_fields(verb: str, args: Mapping[str, object]) -> str:
    """A verb and its arguments as the agent reads them, tab between fields."""
    return "\t".join((verb, *(f"{key}={encode_value(value)}" for key, value in args.items())))


def encode_steps(operations: Iterable[Operation]) -> str:
    """Operations for the agent to do by itself: one a line, the value of one argument."""
    return "\n".join(encode_fields(operation.verb, operation.args) for operation in operations)


class Agent:
    """A connection to the agent of a running machine. `scale` stretches every deadline.

    `kmsg` holds every record of the kernel log that came over this connection, raw and in order, whoever asked
    for it: reading takes them from the guest, and the log is judged whole. `overruns` counts how often its buffer
    was written over before it was read. `patience` is the least nominal deadline of any operation, in seconds: a
    test raises it whose scheduler may keep the agent itself from running.
    """

    def __init__(self, vm: Vm, scale: float) -> None:
        self._vm = vm
        self.scale = scale
        self._next = 1
        self._pending = b""
        self.history: list[OpResult] = []
        self.kmsg: list[str] = []
        self.overruns = 0
        self.told = 0
        """Where in the guest's memory it stands what a sweep is at (struct told, vm/agent/agent.h); 0: nowhere."""
        self.patience = 0.0

    def call(
        self,
        verb: str,
        /,
        *,
        seconds: float = CALL_SECONDS,
        check: bool = True,
        record: bool = True,
        **args: object,
    ) -> dict[str, Any]:
        """One operation and its answer; `seconds` is the nominal deadline.

        Raises AgentError when the agent says that it failed (unless `check` is off), MachineEnded when no answer comes.
        `record` tells whether the operation belongs to the scenario, or only observes it.
        """
        number, self._next = self._next, self._next + 1
        self._vm.send(f"{number}\t{encode_fields(verb, args)}\n".encode("latin-1"))
        deadline = Deadline(max(seconds, self.patience) * self.scale, f"the guest to answer '{verb}'")
        answer = self._answer(number, deadline)
        if record:
            operation = Operation(verb, {key: str(value) for key, value in args.items()})
            self.history.append(OpResult(operation, answer, float(answer.get("us", 0)) / 1e6))
        if check and not answer["ok"]:
            raise AgentError(verb, answer)
        return answer

    def _answer(self, number: int, deadline: Deadline) -> dict[str, Any]:
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if not newline:
                self._pending += self._vm.receive(deadline, OOPS, GRACE_SECONDS * self.scale)
                continue
            self._pending = rest
            try:
                answer = json.loads(line.decode("latin-1"))
            except ValueError as error:
                raise GuestError(f"the guest's agent answered garbage: {line[:80]!r}") from error
            if "told" in answer:
                self.told = int(answer["told"])
            if "overruns" in answer:  # of kmsg, and of one that was given up on: its records come only once
                self.kmsg += answer["records"]
                self.overruns += int(answer["overruns"])
            if answer.get("id") == number:
                return dict(answer)
            # An answer to an operation that we gave up on: stale, and said so by its number.
