# SPDX-License-Identifier: GPL-2.0-only
"""Tests of an agent that answers anything at all, or nothing for ever: one clear error, in time, in bounded memory."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import GuestError, KharnessError, MachineEnded
from harness.guest import agent as module
from harness.guest import answers
from harness.guest.agent import RECORD, AgentError
from harness.guest.guest import BpfObject
from harness.machine.deadline import Deadline
from tests.unit.guest.test_agent import agent, answer
from tests.unit.machine.talkers import FLOOD, SOON, TRICKLE, begun, calls, endless, resident, wired

STALE = b'{"id":0,"ok":true,"us":1,"at":1}\n' * 2000
KMSG = json.dumps({"id": 0, "ok": True, "overruns": 0, "records": ["6,1,1,-;" + "A" * 1000] * 60}).encode() + b"\n"


# --- an agent that talks ------------------------------------------------------------------


@pytest.mark.parametrize("data", [STALE, b"x" * 65536, KMSG], ids=["stale answers", "no newline", "records"])
def test_an_agent_that_never_stops_is_given_up_in_time_and_in_memory(data: bytes) -> None:
    before, start = resident(), time.monotonic()
    with wired(agent=FLOOD.format(data=data)) as vm:
        begun(vm.ours)
        guest = calls(vm)
        with pytest.raises(GuestError, match=r"without an answer|still sends"):
            guest.call("ping", seconds=1.0)
        assert time.monotonic() - start < SOON
        again = time.monotonic()
        for _ in range(3):  # whatever a test's end asks for
            with pytest.raises(GuestError):
                guest.call("ping", seconds=1.0)
        assert time.monotonic() - again < 3 * SOON
        assert resident() - before < 400 << 20


@pytest.mark.parametrize("says", [FLOOD, TRICKLE])
@pytest.mark.parametrize("data", [b"x", STALE[:33], b"\n" * 3])
def test_an_agent_that_says_a_little_for_ever_is_given_up_in_time(says: str, data: bytes) -> None:
    start = time.monotonic()
    with wired(agent=says.format(data=data)) as vm, pytest.raises((GuestError, MachineEnded)):
        calls(vm).call("ping", seconds=1.0)
    assert time.monotonic() - start < SOON


@pytest.mark.parametrize("data", [STALE, b"x", b"\n", STALE[:33]])
def test_an_agent_that_is_always_faster_is_given_up_in_time(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 1 << 40)  # what the deadline alone does
    with endless(agent=data) as vm, pytest.raises(GuestError, match=r"still sends|garbage"):
        calls(vm).call("ping", seconds=1.0)


def test_a_flood_of_the_console_does_not_keep_the_answers() -> None:
    reply = (
        "text = b''\nwhile True:\n text += sock.recv(65536)\n while b'\\n' in text:\n"
        "  line, _, text = text.partition(b'\\n')\n  number = line.partition(b'\\t')[0]\n"
        '  sock.sendall(b\'{"id":\' + number + b\',"ok":true,"us":5}\\n\')\n'
    )
    with wired(FLOOD.format(data=b"[    1.000000] noise\n" * 3000), reply) as vm:
        guest = calls(vm)
        vm.expect(["noise"], Deadline(30.0, "the flood"))
        for _ in range(50):
            assert guest.call("ping", seconds=20.0)["ok"]


def test_what_has_no_room_in_the_log_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KMSG", 10 * (RECORD + 8))
    records = ["6,1,1,-;" for _ in range(7)]
    guest, _ = agent(lambda number, rest: [answer(number, records=records, overruns=0)])
    guest.call("kmsg")
    assert (len(guest.kmsg), guest.overruns) == (7, 0)
    guest.call("kmsg")
    assert (len(guest.kmsg), guest.overruns) == (10, 4)


def test_an_answer_that_is_whole_at_the_deadline_is_taken() -> None:
    def late(number: int, rest: str) -> list[bytes]:
        whole = answer(number, data="x")
        return [whole[:9], whole[9:]]

    guest, line = agent(late)
    receive = line.receive

    def slow(deadline: Any, fatal: object = None, grace: float = 0.0) -> bytes:
        data = receive(deadline)
        if not line.waiting:
            time.sleep(deadline.left + 0.01)
        return data

    line.receive = slow  # type: ignore[method-assign]
    assert guest.call("read", seconds=0.05)["data"] == "x"


# --- odd answers --------------------------------------------------------------------------

DEEP = b"[" * 200_000
ODD = [
    b"[1]",
    b"7",
    b"null",
    b'"text"',
    b"{}",
    b"",
    b'{"id":1',
    DEEP,
    DEEP + b"]" * 200_000,
    b'{"a":' * 100_000,
    b"NaN",
    b'{"id":1,"ok":true,"last_words":Infinity}',
    b'{"id":1,"ok":1,"us":2}',
    b'{"id":"1","ok":true}',
    b'{"id":null,"ok":true}',
    b'{"id":true,"ok":true}',
    b'{"id":1.5,"ok":true}',
    b'{"id":1,"ok":true,"us":' + b"9" * 5000 + b"}",
    b'{"id":1,"ok":true,"us":' + b"9" * 300 + b"}",
    b'{"id":1,"ok":true,"us":1e999}',
    b'{"id":1,"ok":true,"us":"x"}',
    b'{"id":1,"ok":true,"us":1e308}',
    b'{"id":1,"ok":true,"us":[]}',
    b'{"id":1,"ok":true,"last_words":"x"}',
    b'{"id":1,"ok":true,"overruns":0,"records":7}',
    b'{"id":1,"ok":true,"overruns":0,"records":"abc"}',
    b'{"id":1,"ok":true,"overruns":0,"records":[1]}',
    b'{"id":1,"ok":true,"overruns":0}',
    b'{"id":1,"ok":true,"overruns":"x","records":[]}',
    b'{"id":1,"ok":false,"errno":"x"}',
    b'{"id":1,"ok":false,"errno":1e99}',
    b'{"id":1,"ok":false,"errno":5,"error":[]}',
    b'{"id":1,"ok":false,"errno":5,"log":{}}',
    b'{"id":1}',
    b'{"id":1,"us":5}',
    b'{"id":1,"ok":true,"data":7}',
    b'{"id":1,"ok":true,"data":null}',
    b'{"id":1,"ok":true,"data":"\\ud800"}',
    b'{"id":1,"ok":true,"data":"\x00"}',
    b'{"id":1,"ok":true,"pids":{}}',
    b'{"id":1,"ok":true,"rets":[[1]]}',
    b'{"id":1,"ok":true,"missed":[]}',
    b'{"id":1,"ok":true,"missed":{"a":"b"}}',
    b'{"id":1,"ok":true,"places":[[1,2]]}',
    b'{"id":1,"ok":true,"outcomes":[["x",1,2,3,4]]}',
    b'{"id":1,"ok":true,"left":[[1,2,3]]}',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("line", ODD, ids=lambda line: repr(line[:40]))
@pytest.mark.parametrize("verb", ["read", "ping", "kmsg"])
def test_an_odd_answer_is_the_guests_fault_in_one_line(line: bytes, verb: str) -> None:
    guest, _ = agent(lambda number, rest: [line + b"\n"])
    with pytest.raises(GuestError, match="the guest's agent answered") as raised:
        guest.call(verb, check=False)["data"]
    assert not isinstance(raised.value, AgentError)
    said = raised.value.line()
    assert "\n" not in said and len(said) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
KEYS = sorted(answers.Fields.__annotations__)


@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "id", "ok", "us", "records", "overruns", "last_words"]), json_values, max_size=6
    ),
    st.sampled_from(["run", "get", "load"]),
)
def test_nothing_but_an_error_of_ours_comes_of_any_json(fields: dict[str, Any], verb: str) -> None:
    line = json.dumps({"id": 1, **fields}).encode()
    guest, _ = agent(lambda number, rest: [line + b"\n"])
    try:
        got = guest.call(verb, check=False)
        got["ok"], got["errno"], got["data"]
    except KharnessError as error:
        assert "\n" not in error.line()


@given(st.binary(max_size=200))
def test_nothing_but_an_error_of_ours_comes_of_any_bytes(data: bytes) -> None:
    guest, _ = agent(lambda number, rest: [data + b"\n"])
    with pytest.raises(KharnessError):
        guest.call("ping")


def test_a_field_that_is_missing_is_named() -> None:
    guest, _ = agent(lambda number, rest: [answer(number)])
    for ask in (
        lambda: guest.call("read")["data"],
        lambda: BpfObject(guest, "x").get("nr"),
        lambda: BpfObject(guest, "x").dump("map"),
        lambda: BpfObject(guest, "x").run("program"),
    ):
        with pytest.raises(GuestError, match="the guest's agent answered without '(data|nr|entries|rets)'"):
            ask()


def test_names_of_variables_are_no_fields() -> None:
    guest, _ = agent(lambda number, rest: [answer(number, lost=[1, 2], data=7)])
    assert BpfObject(guest, "x").get("lost", "data") == {"lost": [1, 2], "data": 7}


@pytest.mark.parametrize(
    "fields",
    [
        {"rets": [[0, 10**12]]},
        {"rets": [[0, -1]]},
        {"rets": [[0, 3], [1, 3]]},
        {"entries": [["zz", "00"]]},
        {"entries": [["0", "00"]]},
    ],
)
def test_numbers_that_cannot_be_are_not_believed(fields: dict[str, Any]) -> None:
    guest, _ = agent(lambda number, rest: [answer(number, **fields)])
    one = BpfObject(guest, "x")
    with pytest.raises(GuestError, match="answered garbage"):
        one.run("program", repeat=5) if "rets" in fields else one.dump("map")
