# SPDX-License-Identifier: GPL-2.0-only
"""The protocol with the guest's agent (vm/agent): one operation out, one JSON line back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness.core.errors import GuestError
from harness.core.records import Operation, OpResult
from harness.core.wire import ByteOrder
from harness.guest import answers
from harness.guest.answers import Answer
from harness.machine.deadline import Deadline
from harness.machine.vm import Vm

CALL_SECONDS = 15.0
"""Nominal deadline of one operation; the machine's scale multiplies it."""

OOPS = re.compile(r"\] (?:Oops: |Internal error: |Oops \[#|BUG: unable to handle )")
GRACE_SECONDS = 5.0
"""Nominal seconds for an answer after an oops, which may have killed what an operation waits for."""

MAX_ANSWER = 64 << 20
"""Bytes that may come until an operation is answered: those of a file of 16 MiB, the most that the agent reads, if half
of its bytes are escaped."""

MAX_KMSG = 64 << 20
"""Bytes of memory for the kernel log of one guest: characters, and the overhead of its records."""

RECORD = 100
"""Overhead of a record in bytes."""

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
    """A value in the agent's percent-encoding: tab, newline and percent escaped."""
    text = ("1" if value else "0") if isinstance(value, bool) else str(value)
    return text.replace("%", "%25").replace("\t", "%09").replace("\n", "%0A")


def encode_fields(verb: str, args: Mapping[str, object]) -> str:
    """A verb and its arguments in the agent's form: tabs between fields."""
    return "\t".join((verb, *(f"{key}={encode_value(value)}" for key, value in args.items())))


def encode_steps(operations: Iterable[Operation]) -> str:
    """Operations for the agent to do by itself, one a line, as the value of one argument."""
    return "\n".join(encode_fields(operation.verb, operation.args) for operation in operations)


class Agent:
    """A connection to the agent of a running machine. `scale` stretches every deadline.

    `kmsg` has every record of the kernel log that came over this connection, raw and in order, whichever code
    requested it: reading removes them from the guest, and the log is judged whole. `overruns` counts how often its
    buffer was overwritten before it was read, and the records that did not fit into `kmsg`. `patience` is the least
    nominal deadline of any operation, in seconds: a test raises it if its scheduler may keep the agent itself from
    running.
    """

    def __init__(self, vm: Vm, scale: float) -> None:
        self._vm = vm
        self.scale = scale
        self._next = 1
        self._pending = bytearray()
        self._searched = 0
        self._logged = 0
        self._broken = ""
        self.history: list[OpResult] = []
        self.kmsg: list[str] = []
        self.overruns = 0
        self.last_words = 0
        """The guest's physical address of what a sweep is doing (struct last_words, vm/agent/agent.h); 0: nowhere."""
        self.patience = 0.0

    @property
    def order(self) -> ByteOrder:
        """How numbers lie in what the guest takes and gives as bytes."""
        return self._vm.launch.definition.byte_order

    def call(
        self, verb: str, /, *, seconds: float = CALL_SECONDS, check: bool = True, record: bool = True, **args: object
    ) -> dict[str, Any]:
        """One operation and its answer; `seconds` is the nominal deadline.

        Raises AgentError when the agent says that it failed (unless `check` is off), MachineEnded when no answer comes,
        GuestError for an invalid answer. `record`: the operation belongs to the scenario, and does not only observe it.
        """
        if self._broken:
            raise GuestError(self._broken)
        number, self._next = self._next, self._next + 1
        self._vm.send(f"{number}\t{encode_fields(verb, args)}\n".encode("latin-1"))
        deadline = Deadline(max(seconds, self.patience) * self.scale, f"the guest to answer '{verb}'")
        answer = self._answer(number, verb, deadline)
        if record:
            operation = Operation(verb, {key: str(value) for key, value in args.items()})
            self.history.append(OpResult(operation, answer, answer.get("us", 0) / 1e6))
        if check and not answer["ok"]:
            raise AgentError(verb, answer)
        return answer

    def _answer(self, number: int, verb: str, deadline: Deadline) -> Answer:
        came = 0
        while True:
            end = self._pending.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._pending)
                self._within_bounds(came, deadline)
                data = self._vm.receive(deadline, OOPS, GRACE_SECONDS * self.scale)
                self._pending += data
                came += len(data)
                continue
            line = bytes(self._pending[:end])
            del self._pending[: end + 1]
            self._searched = 0
            answer = answers.read(line)
            ours = answer["id"] == number
            answer.check(verb if ours else "")
            self._keep(answer)
            if ours:
                return answer
            # The answer to an earlier operation, whose deadline was over: its number shows that.

    def _within_bounds(self, came: int, deadline: Deadline) -> None:
        """Raise GuestError for an agent that sends data, but no answer: at the deadline, and beyond MAX_ANSWER."""
        if came > MAX_ANSWER:
            self._broken = f"the guest's agent sent {came >> 20} MiB without an answer, and is not used any more"
            self._pending.clear()
            raise GuestError(self._broken)
        if came and deadline.expired:
            raise GuestError(f"{deadline}: it still sends data, {came} bytes came without an answer")

    def _keep(self, answer: Answer) -> None:
        """Keep the fields that an answer has in addition to its verb's."""
        if "last_words" in answer:
            self.last_words = answer["last_words"]
        if "overruns" in answer:  # of kmsg, also of one whose deadline was over: its records come only once
            self.overruns += answer["overruns"]
            for record in answer["records"]:
                self._logged += RECORD + len(record)
                if self._logged <= MAX_KMSG:
                    self.kmsg.append(record)
                else:
                    self.overruns += 1
