# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the k-th alloc_percpu(): whose call it is, that exactly that one is to fail, and what is booked of it."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import CREATE, Dsqs
from sched_ext.operations import ENABLER

from harness.core.errors import Disagreed, GuestError
from harness.faults.cause import Cause
from harness.faults.endings import ENOMEM, Allowed, ended_with
from harness.faults.percpu import ALLOC, PROGRAM, Callers, PercpuFaults, Trial
from harness.faults.sweep import LEDGER_DEEP, Faults
from harness.faults.trials import OBJECT
from tests.unit.fakes.context import FakeAgent, FakeContext, FakeGuest, FakeObject, FakeSymbols

CALLERS = Callers("init_dsq", (0x40, 0x44))
CHAIN = (ALLOC, "init_dsq", "create_dsq", "scx_bpf_create_dsq")
PLAN = "{operation: create, what: function, caller: init_dsq, task: all, nth: 2}"
CREATE_SPAN = {"scx_bpf_create_dsq": ((0x4000, 0x5000),), "scx_root_enable_workfn": ((0x9000, 0x9100),)}


def fired(caller: int = 0x40, *stack: int) -> dict[str, Any]:
    """What fail_percpu.bpf.c holds once a call was made to fail: its stack begins with the function itself."""
    whole = [0x30, *(stack or (caller, 0x50, 0x60))]
    return {
        "fired": 1,
        "fired_caller": caller,
        "fired_depth": len(whole),
        "fired_stack": whole + [0] * (16 - len(whole)),
    }


class Rig:
    """PercpuFaults on a guest of fakes."""

    def __init__(self, **ended: Any) -> None:
        self.shim = FakeObject(f"{PROGRAM}1", fired=0, fired_caller=0, fired_depth=0, fired_stack=[0] * 16)
        self.ledger = FakeObject("ledger1", {"objects": []})
        self.guest = FakeGuest(FakeAgent(), **{PROGRAM: self.shim, "ledger": self.ledger})
        self.context = FakeContext(self.guest, FakeSymbols(CREATE_SPAN))
        self.faults = PercpuFaults(self.context.as_context, Faults(self.context.as_context))
        self.ended = ended
        self.shim.on_set = self._armed
        self.armed: list[dict[str, Any]] = []

    def _armed(self, variable: str, value: int) -> None:
        """The kernel, as far as the program tells of it: the call comes once it is armed."""
        if variable == "nth" and value:
            self.armed.append(dict(self.shim.variables) | {"run": self.ledger.variables.get("run")})
            self.shim.variables |= self.ended

    def fail(self, nth: int = 2, callers: Callers = CALLERS, operation: str = "create", **more: Any) -> Trial:
        with self.faults.failing(operation, callers, nth, **{"under": CREATE, "helper": ENABLER, **more}) as trials:
            assert not trials, "what came of it is known only afterwards"
        return trials[0]


# --- a call fails -----------------------------------------------------------------------------


def test_the_call_that_failed_is_told_with_its_chain() -> None:
    trial = Rig(**fired()).fail()
    assert trial.fired
    assert trial.cause == Cause("create", "function", CHAIN, PLAN)
    assert trial.frames[0].function == ALLOC and trial.frames[1].inlined


def test_on_arm64_the_stack_lacks_the_caller() -> None:
    assert Rig(**fired(0x40, 0x50, 0x60)).fail().cause.stack == CHAIN


def test_a_call_that_never_came_fired_nothing() -> None:
    trial = Rig().fail()
    assert not trial.fired and trial.frames == ()
    assert trial.cause.stack == (ALLOC, "init_dsq"), "where it was to be is known all the same"


def test_exactly_one_call_is_armed_with_counters_at_zero() -> None:
    rig = Rig()
    rig.shim.variables |= {"calls": 9, "fired": 1, "fired_depth": 4, "only_tid": 5}
    rig.fail(3)
    (armed,) = rig.armed
    assert (armed["callers"], armed["callers[1]"], armed["nr_callers"]) == (0x40, 0x44, 2)
    assert (armed["nth"], armed["calls"], armed["fired"], armed["fired_depth"], armed["only_tid"]) == (3, 0, 0, 0, 0)
    assert rig.shim.variables["nth"] == 0, "nothing fails after the block"
    assert rig.shim.attached == ["alloc_percpu"]
    assert ([whole for _, whole in rig.context.arming_began], rig.context.expected) == ([True], [])


@pytest.mark.parametrize(
    ("thread", "tid", "plan"),
    [("", 0, "task: all"), ("self", 77, "caller: init_dsq"), ("scx_enable_helper", 88, "task: scx_enable_helper")],
)
def test_whose_calls_count(thread: str, tid: int, plan: str) -> None:
    rig = Rig()
    trial = rig.fail(thread=thread)
    assert rig.armed[0]["only_tid"] == tid
    assert f", {plan}, nth: 2}}" in trial.cause.fault


def test_everybody_s_calls() -> None:
    rig = Rig(**fired(0x90, 0x90))
    trial = rig.fail(1, Callers(), "attach", thread="scx_enable_helper")
    assert rig.armed[0]["nr_callers"] == 0
    assert trial.cause.fault == "{operation: attach, what: function, task: scx_enable_helper, nth: 1}"


def test_a_thread_that_is_not_there_is_said_and_nothing_armed() -> None:
    rig = Rig()
    with pytest.raises(GuestError, match="no thread nobody"):
        rig.fail(thread="nobody")
    assert not rig.armed


def test_what_fails_within_the_block_comes_under_the_fault() -> None:
    rig = Rig()
    cause = Cause("create", "function", (ALLOC, "init_dsq"), PLAN)
    with pytest.raises(AssertionError), rig.faults.failing("create", CALLERS, 2, under=CREATE):
        raise AssertionError("the kernel answered nonsense")
    assert rig.context.causes == [cause], "and still does after the exception"
    assert rig.context.learned == [(cause, cause)]
    rig = Rig(**fired())
    with pytest.raises(Disagreed), rig.faults.failing("create", CALLERS, 2, under=CREATE):
        raise Disagreed("create answered 0, -ENOMEM was due")
    assert rig.context.learned == [(cause, Cause("create", "function", CHAIN, PLAN))], "with the chain of the call"
    rig = Rig()
    rig.fail()
    assert rig.context.causes == [cause, None]


def test_the_ledger_writes_down_under_a_number_of_each_fault() -> None:
    rig = Rig()
    rig.fail(1)
    rig.fail(2)
    assert [armed["run"] for armed in rig.armed] == [1, 2]
    assert rig.ledger.variables["run"] == 0, "nothing is written down after the block"
    assert (rig.ledger.variables["tid"], rig.ledger.variables["other_tid"]) == (77, 88)
    assert rig.ledger.attached == list(LEDGER_DEEP), "each once"
    assert (rig.ledger.variables["starts"], rig.ledger.variables["ends"]) == (0x4000, 0x5000)
    assert (rig.ledger.variables["nr_ranges"], rig.ledger.variables["deep"]) == (1, 1)


def test_each_fault_has_the_ledger_look_below_functions_of_its_own() -> None:
    rig = Rig()
    rig.fail(1)
    rig.fail(2, under=("scx_root_enable_workfn",))
    assert (rig.ledger.variables["starts"], rig.ledger.variables["ends"]) == (0x9000, 0x9100)
    rig.fail(3)
    assert (rig.ledger.variables["starts"], rig.ledger.variables["ends"]) == (0x4000, 0x5000), "and not the last one's"


def test_unloaded_it_is_loaded_anew() -> None:
    rig = Rig()
    rig.faults.unload()
    assert not rig.shim.unloaded, "what was never loaded"
    rig.fail()
    rig.faults.unload()
    assert rig.shim.unloaded
    rig.fail()
    assert rig.shim.attached == ["alloc_percpu"] * 2


# --- what is booked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "how", "problems"),
    [(ENOMEM, "handled", 0), (0, "absorbed", 0), (-22, "wrong errno", 1), (ended_with(ENOMEM), "wrong errno", 1)],
)
def test_what_the_operation_answered_is_booked_on_the_site(shown: int, how: str, problems: int) -> None:
    rig = Rig(**fired())
    rig.faults.book(rig.fail(), shown, Allowed(), CREATE)
    (summary,) = rig.context.summaries
    (site,) = summary.sites
    assert (site.operation, site.type, site.stack, site.outcomes) == ("create", "function", CHAIN, {how: 1})
    assert (summary.reached, summary.injected, summary.handled) == (1, 1, int(how == "handled"))
    assert [(found.site, found.fault) for found in rig.context.findings] == [(" < ".join(CHAIN), PLAN)] * problems
    assert rig.context.model == [(1, 1)]


def left(run: int, kind: int, size: int, *stack: int) -> tuple[bytes, bytes]:
    """An entry of the ledger: struct object of bpf_progs/observers/ledger.bpf.c, its stack 28 deep."""
    value = struct.pack("<" + OBJECT, run, kind, size, len(stack), 0) + struct.pack(
        "<28Q", *stack, *[0] * (28 - len(stack))
    )
    return struct.pack("<Q", 0xFFFF888000000000 + run), value


def test_what_is_left_when_all_is_quiet_is_a_leak_of_its_fault() -> None:
    rig = Rig(**fired())
    rig.fail(1)
    rig.fail(2)
    rig.ledger.maps["objects"] = [left(2, 2, 384, 0x80, 0x20, 0x40, 0x50)]
    rig.faults.settle()
    (found,) = rig.context.findings
    assert (found.kind, found.function, found.count) == ("slab leak", "init_dsq", 1)
    assert (found.operation, found.site, found.fault) == ("create", " < ".join(CHAIN), PLAN)
    assert rig.guest.settled == 1 and rig.ledger.maps["objects"] == []
    assert rig.context.blamed == [("leaked", [found])]


def test_the_kind_of_what_is_left() -> None:
    rig = Rig(**fired())
    rig.fail(1)
    rig.ledger.maps["objects"] = [left(1, 1, 8, 0x30, 0x40), left(1, 2, 16, 0x20, 0x40)]
    rig.faults.settle()
    assert [(found.kind, found.title.split(" allocated")[0]) for found in rig.context.findings] == [
        ("percpu leak", "percpu leak of 8 bytes"),
        ("slab leak", "slab leak of 16 bytes"),
    ]


def test_nothing_failed_and_nothing_is_left() -> None:
    rig = Rig()
    rig.faults.settle()
    assert not rig.context.findings and not rig.guest.settled


# --- who calls --------------------------------------------------------------------------------


class FakeDsqs:
    """DSQs whose attach and create make these calls of alloc_percpu()."""

    def __init__(self, shim: FakeObject, attach: list[int], create: list[int]) -> None:
        self.shim, self.calls = shim, {"attach": attach, "create": create}
        self.done: list[str] = []
        self.scheduler = SimpleNamespace(unload=lambda: self.done.append("unload"))

    def _call(self, what: str) -> None:
        self.done.append(what)
        assert self.shim.variables["learn"] == 1
        assert self.shim.variables.get("only_tid", 0) == (77 if what == "create" else 0)
        self.shim.maps["seen"] = [(struct.pack("<Q", at), struct.pack("<Q", 1)) for at in self.calls[what]]

    def attach(self, *args: object, **more: object) -> object:
        self._call("attach")
        return self.scheduler

    def create(self, dsq_id: int) -> None:
        self._call("create")

    def detach(self, scheduler: object) -> None:
        self.done.append("detach")


def learned(attach: list[int], create: list[int]) -> tuple[Callers, FakeDsqs]:
    rig = Rig()
    dsqs = FakeDsqs(rig.shim, attach, create)
    found = Dsqs.callers(cast(Dsqs, dsqs), rig.faults)
    assert rig.shim.variables["learn"] == 0
    return found, dsqs


def test_calls_of_the_function_that_a_create_s_own_call_is_made_in() -> None:
    callers, dsqs = learned([0x90, 0x40], [0x40])
    assert callers == Callers("init_dsq", (0x40,)), "wherever it was inlined; others' calls are not meant"
    assert dsqs.done == ["attach", "create", "detach", "unload"]


@pytest.mark.parametrize(
    ("create", "says"), [([], "none was seen"), ([0x40, 0x90], "init_dsq, scx_root_enable_workfn")]
)
def test_a_create_must_show_one_function(create: list[int], says: str) -> None:
    with pytest.raises(GuestError, match=says):
        learned([0x40], create)
