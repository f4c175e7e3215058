# SPDX-License-Identifier: GPL-2.0-only
"""Tests of doing again what tests did: which operations, which runs of a sweep, and what was under way when."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from harness.core.records import Operation, OpResult
from harness.core.wire import ByteOrder
from harness.guest.agent import Agent
from harness.leaks.repeat import ALONE, APART, Clock, Deed, Run, again, deed
from harness.session.context import TestContext

SWEEP_OPS = Operation("sweep-ops", {"during": "attach", "thread": ""})
SWEEP = Operation("sweep", {"ctx": struct.pack("<Qii", 7, -1, 0).hex(), "repeat": "3000"})
LOAD = Operation("load", {"name": "x1"})


def context(
    *done: tuple[Operation, dict[str, Any]], must_inject: tuple[str, ...] = (), arms: bool = False
) -> TestContext:
    history = [OpResult(operation, answer) for operation, answer in done]
    guest = SimpleNamespace(agent=SimpleNamespace(history=history, order=ByteOrder.LITTLE))
    return cast(TestContext, SimpleNamespace(guest=guest, test_id="x.py::test_x", must_inject=must_inject, arms=arms))


def test_rounds_of_a_sweep_are_done_once_and_ids_are_fewer() -> None:
    every = Operation("sweep-ops", {**SWEEP_OPS.args, "every": "1"})
    many = Operation("run", {"repeat": "100000"})
    sweep = (SWEEP_OPS, {"highest_n": 5})
    made = deed(context((LOAD, {}), sweep, sweep, (every, {"highest_n": 20}), (SWEEP, {"highest_n": 3}), (many, {})))
    assert [operation.verb for operation in made.operations] == ["load", "sweep-ops", "sweep", "run"]
    assert [operation.args.get("repeat") for operation in made.operations] == [None, None, "300", "3000"]
    assert made.highest == {1: 5, 2: 3}
    assert len(made.runs()) == 8
    assert [operation for _, operation in made.steps()] == list(made.operations)


def test_a_sweep_in_which_nothing_failed_is_an_operation_like_others() -> None:
    assert deed(context((SWEEP_OPS, {"highest_n": 0}))).runs() == ()


def test_whether_faults_are_armed_is_known_of_a_deed() -> None:
    assert [deed(context((LOAD, {}), arms=arms)).arms for arms in (False, True)] == [False, True]


def test_each_deed_is_done_within_what_is_made_for_it() -> None:
    done: list[str] = []

    def call(verb: str, **args: Any) -> dict[str, Any]:
        done.append(verb)
        return {"ok": False}

    @contextmanager
    def within(one: Deed) -> Iterator[None]:
        done.append(f"begin {one.test}")
        yield
        done.append(f"end {one.test}")

    agent = cast(Agent, SimpleNamespace(call=call, scale=1.0))
    deeds = [Deed("a", (LOAD,)), Deed("b", (LOAD,), faulty=True)]
    again(agent, deeds, 2, 9.0, Clock(), within)
    once = ["load", "reset"]
    assert done == ["read", "begin a", *once, "end a", *["begin b", *once, "end b"] * 2, "read"]


PLACES = Deed("t", (LOAD, SWEEP_OPS, LOAD, SWEEP_OPS), highest={1: 30, 3: 30})


@given(st.sets(st.sampled_from(PLACES.runs())))
def test_runs_that_are_chosen_are_done_and_no_others(chosen: set[Run]) -> None:
    """In stretches; the other operations are done in any case."""
    done = set()
    plain = 0
    for run, operation in PLACES.steps(sorted(chosen)):
        if run.place in PLACES.highest:
            first, last = int(operation.args["from"]), int(operation.args["to"])
            assert run.nth == first
            done |= {Run(run.place, nth) for nth in range(first, last + 1)}
        else:
            plain += 1
    assert done == chosen
    assert plain == 2


def test_a_single_run_is_done_many_times() -> None:
    parts = [operation for run, operation in PLACES.steps([Run(3, 9)]) if run.nth]
    assert len(parts) == ALONE
    assert all(part.args["from"] == part.args["to"] == "9" for part in parts)


def test_parts_of_a_sweep_over_ids_do_not_meet() -> None:
    made = Deed("t", (SWEEP,), highest={0: 4})
    ids = [struct.unpack_from("<Qii", bytes.fromhex(part.args["ctx"])) for _, part in made.steps(made.runs())]
    assert ids == [(7 + number * APART, -1, 0) for number in range(4)]


def clock() -> Clock:
    """A jiffy of 4 ms, the first at 1 s; a test of two operations, the second a sweep of three runs."""
    made = Clock()
    made.compare(1_000_000, 5000)
    made.note("a", Run(0, 0), {"at": 1_000_000})
    made.note("a", Run(1, 0), {"at": 1_100_000, "begun": [1_110_000, 1_200_000, 1_300_000]})
    made.note("b", Run(0, 0), {"at": 1_400_000})
    made.compare(1_800_000, 5200)
    return made


def test_what_was_born_when() -> None:
    assert clock().during(5010) == [("a", Run(0, 0))]
    assert clock().during(5035) == [("a", Run(1, 1))]
    assert clock().during(5065) == [("a", Run(1, 2))]
    assert clock().during(5080) == [("a", Run(1, 3))]
    assert clock().during(5190) == [("b", Run(0, 0))]


def test_at_a_border_both_are_named() -> None:
    assert set(clock().during(5050)) == {("a", Run(1, 1)), ("a", Run(1, 2))}


def test_a_part_of_a_sweep_is_told_by_its_own_numbers() -> None:
    made = clock()
    made.note("c", Run(1, 17), {"at": 1_900_000, "begun": [1_900_000, 2_000_000]})
    assert made.during(5235) == [("c", Run(1, 17))]
    assert made.during(5275) == [("c", Run(1, 18))]


def test_a_clock_that_was_not_set_names_nothing() -> None:
    made = Clock()
    made.note("a", Run(0, 0), {"at": 5})
    assert made.during(7) == []
