# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the agent's protocol against a machine that answers from a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import definition
from harness.core.errors import Ended, GuestError, How, MachineEnded
from harness.core.records import Operation
from harness.core.wire import NOTHING
from harness.guest.agent import Agent, AgentError, encode_fields, encode_steps, encode_value
from harness.guest.guest import BpfObject, Guest, Tracers
from harness.machine.deadline import Deadline
from harness.machine.vm import Vm
from tests.unit.guest.lines import parse_op, parse_steps, plain

Reply = Callable[[int, str], list[bytes]]


class Line:
    """A machine whose agent answers each line with what `reply` makes of its number and the rest."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.sent: list[bytes] = []
        self.waiting: list[bytes] = []
        self.deadlines: list[Deadline] = []
        self.launch = SimpleNamespace(definition=definition.load("x86_64"))

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        number, _, rest = data.decode("latin-1").rstrip("\n").partition("\t")
        self.waiting += self.reply(int(number), rest)

    def receive(self, deadline: Deadline, fatal: object = None, grace: float = 0.0) -> bytes:
        self.deadlines.append(deadline)
        if not self.waiting:
            raise MachineEnded(str(deadline), Ended(How.RUNNING), [], True)
        return self.waiting.pop(0)


def answer(number: int, /, **more: object) -> bytes:
    return json.dumps({"id": number, "ok": True, "us": 1500, **more}).encode() + b"\n"


def agent(reply: Reply, scale: float = 1.0) -> tuple[Agent, Line]:
    line = Line(reply)
    return Agent(cast(Vm, line), scale), line


def fine(number: int, rest: str) -> list[bytes]:
    return [answer(number, data="x")]


def test_one_line_out_one_line_back() -> None:
    guest, line = agent(fine)
    assert guest.call("read", path="/proc/version", max=10)["data"] == "x"
    assert line.sent == [b"1\tread\tpath=/proc/version\tmax=10\n"]
    guest.call("ping")
    assert line.sent[1] == b"2\tping\n"


def test_values_are_percent_encoded() -> None:
    guest, line = agent(fine)
    guest.call("write", path="/x", data="50%\tof\nit", keep=True, not_now=False)
    assert line.sent == [b"1\twrite\tpath=/x\tdata=50%25%09of%0Ait\tkeep=1\tnot_now=0\n"]


@given(st.text(st.characters(max_codepoint=255)))
def test_any_byte_survives_the_encoding(text: str) -> None:
    coded = encode_value(text)
    assert not set(coded) & set("\t\n")
    assert unquote_to_bytes(coded.encode("latin-1")) == text.encode("latin-1")


def test_operations_for_the_agent_to_do_by_itself_are_one_a_line() -> None:
    operations = (
        Operation("clear", {"name": "x", "on": True}),
        Operation("fork"),
        Operation("write", {"data": "a\tb\n50%"}),
    )
    assert encode_steps(operations) == "clear\tname=x\ton=1\nfork\nwrite\tdata=a%09b%0A50%25"
    assert encode_steps(()) == ""


words = st.from_regex(r"[a-z][a-z._-]{0,8}", fullmatch=True)
values = st.one_of(
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=20), st.integers(), st.booleans()
)


@given(st.lists(st.builds(Operation, words, st.dictionaries(words, values, max_size=4)), max_size=12))
def test_steps_survive_being_an_argument_themselves(operations: list[Operation]) -> None:
    line = encode_fields("sweep-ops", {"before": encode_steps(operations), "max": 3})
    assert "\n" not in line and line.count("\t") == 2
    assert parse_op(line).args["max"] == "3"
    assert parse_steps(parse_op(line).args["before"]) == tuple(map(plain, operations))


def test_an_answer_in_pieces_and_two_in_one() -> None:
    whole = answer(1, data="a\u00ff")

    def reply(number: int, rest: str) -> list[bytes]:
        return [whole[:5], whole[5:20], whole[20:] + answer(2)] if number == 1 else []

    guest, _ = agent(reply)
    assert guest.call("read")["data"] == "a\u00ff"
    assert guest.call("ping")["id"] == 2


def test_a_stale_answer_is_passed_over() -> None:
    def reply(number: int, rest: str) -> list[bytes]:
        return [] if number == 1 else [answer(1, data="old") + answer(number, data="new")]

    guest, _ = agent(reply)
    with pytest.raises(MachineEnded):
        guest.call("read")
    assert guest.call("read")["data"] == "new"


def test_records_of_the_log_are_kept_whoever_asked_and_also_when_they_come_late() -> None:
    def reply(number: int, rest: str) -> list[bytes]:
        logged = answer(number, records=[f"6,{number},1,-;x"], overruns=number)
        return [b"", logged[:9], logged[9:]] if number != 2 else []

    guest, line = agent(reply)
    assert guest.call("kmsg")["records"] == ["6,1,1,-;x"]
    with pytest.raises(MachineEnded):
        guest.call("kmsg")
    line.waiting.append(answer(2, records=["6,2,1,-;late"], overruns=2))
    guest.call("kmsg")
    assert (guest.kmsg, guest.overruns) == (["6,1,1,-;x", "6,2,1,-;late", "6,3,1,-;x"], 6)


@pytest.mark.parametrize("junk", [b"not json\n", b'{"id": 1, "ok"\n', b"\xff\xfe\n"])
def test_garbage_is_the_guests_fault_and_shown(junk: bytes) -> None:
    guest, _ = agent(lambda number, rest: [junk])
    with pytest.raises(GuestError, match="answered garbage") as raised:
        guest.call("ping")
    assert repr(junk.rstrip(b"\n")) in str(raised.value)


def refused(number: int, rest: str) -> list[bytes]:
    return [answer(number, ok=False, errno=22, error="/bpf/x.bpf.o: Invalid argument", log="R1 bad\nR2 worse")]


def test_a_refusal_names_verb_reason_errno_and_keeps_the_log() -> None:
    guest, _ = agent(refused)
    with pytest.raises(AgentError) as raised:
        guest.call("load", name="x")
    assert raised.value.line() == "guest: load: /bpf/x.bpf.o: Invalid argument"
    assert raised.value.errno == 22
    assert raised.value.detail == "R1 bad\nR2 worse"


def test_a_refusal_may_be_wanted() -> None:
    guest, _ = agent(refused)
    assert guest.call("attach", check=False)["errno"] == 22


def test_history_holds_what_was_done_not_what_was_looked_at() -> None:
    guest, _ = agent(fine)
    guest.call("write", path="/x", data="1")
    guest.call("read", record=False, path="/x")
    guest.call("sweep", repeat=5)
    assert [(done.operation.verb, dict(done.operation.args)) for done in guest.history] == [
        ("write", {"path": "/x", "data": "1"}),
        ("sweep", {"repeat": "5"}),
    ]
    assert guest.history[0].seconds == pytest.approx(0.0015)


def test_what_was_refused_was_done_all_the_same() -> None:
    guest, _ = agent(refused)
    with pytest.raises(AgentError):
        guest.call("attach", name="x")
    assert [done.operation.verb for done in guest.history] == ["attach"]


def test_deadlines_scale_with_the_machine() -> None:
    guest, line = agent(fine, scale=3.0)
    guest.call("run", seconds=20)
    assert line.deadlines[0].seconds == 60
    assert "the guest to answer 'run'" in str(line.deadlines[0])


def test_many_runs_have_time_for_each() -> None:
    guest, line = agent(lambda number, rest: [answer(number, rets=[[0, 3000 if "repeat=3000" in rest else 1]])])
    one = BpfObject(guest, "api1")
    one.run("create")
    one.run("create", repeat=3000)
    once, often = (deadline.seconds for deadline in line.deadlines)
    assert once < 20, "a guest that hangs is noticed soon"
    assert often >= 4 * 11, "a test with 3000 took 11 s on a busy host whose scale was 1"


def test_a_program_that_is_killed_has_time_that_scales_with_the_machine() -> None:
    guest, line = agent(lambda number, rest: [answer(number, killed=1)], scale=3.0)
    assert BpfObject(guest, "api1").run_killed("create", NOTHING, 0xABC0, "pcpu_alloc_noprof")
    (sent,), (deadline,) = line.sent, line.deadlines
    limit = int(parse_op(sent.decode().rstrip("\n").partition("\t")[2]).args["timeout_ms"]) / 1000
    assert 3 * 5 <= limit < deadline.seconds


def test_a_sweep_s_budget_scales_with_the_machine_and_the_answer_is_awaited_longer() -> None:
    guest, line = agent(fine, scale=3.0)
    one = BpfObject(guest, "api1")
    tracers = Tracers(one, None, "create")
    one.sweep("create", "destroy", "", NOTHING, tracers, budget_ms=20_000, repeat=5)
    swept = SimpleNamespace(agent=guest, pristine=SimpleNamespace(scale=3.0))
    Guest.sweep(cast(Guest, swept), [Operation("fork")], (), (), tracers, "", budget_ms=20_000)
    for sent, deadline in zip(line.sent, line.deadlines, strict=True):
        args = parse_op(sent.decode().rstrip("\n").partition("\t")[2]).args
        assert args["timeout_ms"] == "60000" and "budget_ms" not in args
        assert deadline.seconds > 60, "the agent ends by itself before"
