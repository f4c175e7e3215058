# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what lives in a guest: calls decoded, objects of a function counted, and held against the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import Dsqs
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features

from harness.core.errors import Disagreed, Inconclusive
from harness.core.records import Frame
from harness.guest.agent import Agent
from harness.oracles import objects
from harness.session.context import TestContext
from harness.session.outcome import ending_of
from harness.session.session import Target
from tests.unit.fakes.suite import default

INIT, INIT_BYPASS, CREATE, OTHER, WRAPPER, PLANTED = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000
FUNCTIONS = {
    PLANTED - 1: (Frame("kharness_leak_percpu", module="kharness"),),
    WRAPPER - 1: (Frame("_kmalloc_noprof"),),
    INIT - 1: (Frame("scx_init_dsq", inlined=True), Frame("scx_bpf_create_dsq")),
    INIT_BYPASS - 1: (Frame("init_dsq.constprop.0"), Frame("scx_alloc_and_add_sched")),
    CREATE - 1: (Frame("create_dsq", inlined=True), Frame("scx_bpf_create_dsq")),
    OTHER - 1: (Frame("scx_alloc_and_add_sched"),),
}


def stats(current: int) -> str:
    names = dict.fromkeys(("nr_alloc", "nr_dealloc", "nr_max_alloc", "nr_chunks", "unit_size"), 1)
    return "".join(f"  {name:<20}: {value}\n" for name, value in (names | {"nr_cur_alloc": current}).items())


class Ledger:
    """A guest whose ledger holds these places: kind, call site, size, objects."""

    def __init__(self, *places: Sequence[int], **changes: Any) -> None:
        self.percpu = sum(place[3] for place in places if place[0] == 1)
        self.answer = {
            "places": [[*place, 0][:5] for place in places],
            "omitted": 0,
            "replaced": [],
            "percpu_allocated": self.percpu,
            "percpu_freed": 0,
            "percpu_older": 0,
            "slab_allocated": 0,
            "lost": 0,
            "programs": 1,
            "attached": 1,
            "missed": {"percpu_object_made": 7},
        } | changes
        self.agent = self
        self.asked: list[str] = []

    def call(self, verb: str, /, **args: Any) -> dict[str, Any]:
        self.asked.append(verb)
        return self.answer

    def settle(self) -> str:
        return stats(50 + self.percpu)


def target(blind: str = "") -> Target:
    def addresses(asked: Sequence[int]) -> tuple[tuple[Frame, ...], ...]:
        return tuple(FUNCTIONS.get(address, ()) for address in asked)

    pristine = SimpleNamespace(percpu=stats(50), missed={"percpu_object_made": 7}, blind=blind, age_ms=300)
    return cast(
        Target,
        SimpleNamespace(
            pristine=pristine, addresses=addresses, code=default().code, allocates_once=default().allocates_once
        ),
    )


def look(guest: Ledger, blind: str = "") -> objects.LiveObjects:
    return objects.look(cast(Agent, guest), target(blind), guest.settle())


def test_a_call_is_looked_up_at_the_call_and_not_behind_it() -> None:
    held = look(Ledger([1, INIT, 8, 3], [2, 0x99, 64, 1]))
    assert held.exact
    assert [place.frames for place in held.places] == [FUNCTIONS[INIT - 1], (Frame("0x99", reliable=False),)]


def test_objects_of_a_function_are_counted_wherever_it_was_inlined() -> None:
    held = look(Ledger([1, INIT, 8, 3], [1, INIT_BYPASS, 8, 2], [1, OTHER, 8, 9], [2, CREATE, 320, 4]))
    assert held.count("percpu leak", ("scx_init_dsq", "init_dsq")) == 5
    assert held.count("slab leak", ("create_dsq", "scx_bpf_create_dsq")) == 4, "once, though both names are there"
    assert held.count("slab leak", ("init_dsq",)) == 0


def test_a_kernel_without_a_ledger_is_not_asked_for_it() -> None:
    guest = Ledger()
    held = look(guest, "no such tracepoint")
    assert (held.exact, held.evidence.why, held.places, guest.asked) == (False, "no such tracepoint", (), [])


@pytest.mark.parametrize("changes", [{"omitted": 2}, {"lost": 1}, {"attached": 0}, {"percpu_older": 1}])
def test_what_lost_something_is_not_exact(changes: dict[str, int]) -> None:
    assert not look(Ledger([1, INIT, 8, 3], **changes)).exact


def test_what_takes_the_place_of_boot_s_is_no_leak_but_of_the_code_under_test() -> None:
    """Two objects of boot's were freed: their calls are not known."""
    guest = Ledger([1, 0x99, 32, 3], [1, INIT, 8, 3], percpu_older=2)
    held = objects.look(cast(Agent, guest), target(), stats(50 + 4))
    assert held.exact
    assert {(found.function, found.count) for found in held.findings()} == {(None, 1), ("scx_init_dsq", 3)}
    guest.answer["replaced"] = [[0x98, 1]]
    held = objects.look(cast(Agent, guest), target(), stats(50 + 4))
    assert {found.count for found in held.findings()} == {2, 3}, "one of the two is of a call that is known"


def test_what_is_planted_takes_the_place_of_nothing() -> None:
    """Else what really does would be left over, a leak that is none: a CPU was off and on in a leak batch."""
    guest = Ledger([1, PLANTED, 24, 16], [1, 0x99, 32, 1], percpu_older=1)
    held = objects.look(cast(Agent, guest), target(), stats(50 + 16))
    assert [(found.function, found.count) for found in held.findings()] == [("kharness_leak_percpu", 16)]


def dsqs(guest: Ledger, users: int, features: Features) -> Dsqs:
    """An interpreter in a state where a scheduler on 2 CPUs and 1 node holds so many user DSQs."""
    counted: list[tuple[int, int, str | None]] = []
    context = SimpleNamespace(
        guest=guest, target=target(), count_model=lambda *row: counted.append(row), counted=counted
    )
    dsq = object.__new__(Dsqs)
    dsq._context = cast(TestContext, context)
    dsq.model = DsqModel(features, frozenset({0}), 2)
    answer = dsq.model.attach("one", [(number, -1) for number in range(users)])
    assert dsq.model.observe(answer, 0, None) is None
    return dsq


def books_of(dsq: Dsqs) -> list[tuple[int, int, str | None]]:
    return cast(list[tuple[int, int, str | None]], cast(Any, dsq._context).counted)


def places(init: int, bypass: int, create: int) -> tuple[Sequence[int], ...]:
    return ([1, INIT, 8, init], [1, INIT_BYPASS, 8, bypass], [2, CREATE, 320, create])


def test_as_many_objects_as_the_model_wants() -> None:
    """Five user DSQs, one global DSQ, two bypass DSQs."""
    dsq = dsqs(Ledger(*places(5, 3, 5)), 5, Features())
    dsq.check_objects()
    assert books_of(dsq) == [(0, 1, None), (0, 1, None)]


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (places(5, 4, 5), "9 percpu objects allocated in init_dsq() are alive, the model wants 8"),
        (places(4, 3, 5), "7 percpu objects allocated in init_dsq() are alive, the model wants 8"),
        (places(5, 3, 6), "6 slab objects allocated in scx_bpf_create_dsq() are alive, the model wants 5"),
        (places(5, 3, 4), "4 slab objects allocated in scx_bpf_create_dsq() are alive, the model wants 5"),
    ],
)
def test_one_too_many_or_too_few_is_a_disagreement(held: tuple[Sequence[int], ...], says: str) -> None:
    dsq = dsqs(Ledger(*held), 5, Features())
    with pytest.raises(Disagreed) as raised:
        dsq.check_objects()
    assert str(raised.value) == says and f" {raised.value.function}() " in says
    (found,) = ending_of(raised.value, lambda frame: (frame,)).findings
    assert (found.oracle, found.function, found.title) == ("model", raised.value.function, says)
    assert books_of(dsq)[-1] == (0, 1, says)


def test_a_kernel_without_percpu_data_has_no_percpu_objects() -> None:
    held = ([2, CREATE, 320, 5],)
    dsqs(Ledger(*held), 5, Features(percpu_data=False)).check_objects()
    with pytest.raises(Disagreed, match="the model wants 0"):
        dsqs(Ledger(*held, [1, INIT, 8, 1]), 5, Features(percpu_data=False)).check_objects()


@pytest.mark.parametrize(
    "change", [lambda guest: guest.answer.update(lost=1), lambda guest: guest.answer.update(attached=0)]
)
def test_nothing_is_compared_with_a_ledger_that_lost_something(change: Callable[[Ledger], object]) -> None:
    guest = Ledger(*places(5, 3, 5))
    change(guest)
    with pytest.raises(Inconclusive, match="ledger did not watch"):
        dsqs(guest, 5, Features()).check_objects()


def test_a_wrapper_of_kmalloc_that_is_not_inlined_is_not_who_allocated() -> None:
    """The function that called it is: it is named, and excused if its objects are made once."""
    held = look(Ledger([2, WRAPPER, 320, 2, CREATE], [2, CREATE, 64, 1, OTHER], [2, WRAPPER, 8, 1]))
    shown = {(found.function, found.count) for found in held.findings()}
    assert shown == {("create_dsq", 3), ("_kmalloc_noprof", 1)}, "what is not known is shown as far as it is"
    assert held.count("slab leak", ["create_dsq"]) == 3
