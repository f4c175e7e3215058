# SPDX-License-Identifier: GPL-2.0-only
"""Tests of sweeps as tests see them: what is asked of the guest, how often, and what watches."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import CREATE, Dsqs

from harness.core.errors import GuestError
from harness.core.records import Fault, Operation
from harness.faults import types
from harness.faults.actions import Action
from harness.faults.cause import Cause
from harness.faults.endings import ENOMEM, Allowed
from harness.faults.knobs import FUNCTION
from harness.faults.sweep import BUDGET_MS, LEDGER_DEEP, LEDGER_PROGRAMS, PAGE_ROUNDS, PAGE_RUNS, ROUNDS, Faults
from harness.guest.guest import Guest
from tests.unit.fakes.context import SCALE, FakeAgent, FakeContext, FakeGuest, FakeObject, FakeSymbols, site

FAILSLAB, PAGE = types.SLAB.folder, types.PAGE.folder

SLAB, OTHER, PAGES = 0xA, 0xB, 0xC
SEEN = {SLAB: (0x10, 0x20, 0x30, 0x40, 0x50), OTHER: (0x10, 0x20, 0x40, 0x50), PAGES: (0x10, 0x30, 0x40, 0x50)} | {
    number: (0x10, *[0x20] * number, 0x50) for number in range(1, 9)
}
SPANS = {"scx_bpf_create_dsq": ((0x4000, 0x5000),), "scx_fork": ((0x6000, 0x6100),), "split": ((1, 2), (3, 4))}
DONE = {"done": 1, "stuck": 0, "unready": 0, "next": 9, "sweep_us": 500_000, "disputed": 0, "lost": 0, "loud": []}


GONE = {"ok": False, "errno": errno.ESRCH, "error": "no thread 'scx_enable_helper'"}
Round = dict[int, bool] | None


class SweptGuest(FakeGuest):
    """A guest whose sweeps meet, round for round, these sites; with False one is reached and not made to fail. In a round
    that is None the thread is not there."""

    sweep = Guest.sweep

    def __init__(self, *rounds: Round, **answer: Any) -> None:
        self.observer = FakeObject("fault_sites1", lost=0, last_site=0)
        self.ledger = FakeObject("ledger1", lost=0)
        self.rounds = list(rounds)
        self.shown: dict[int, int] = {}
        self.more = answer
        answers = {"sweep-ops": self._sweep, "left": {"left": [], "count": 0}, "sweep": self._sweep}
        super().__init__(FakeAgent(**answers), fault_sites=self.observer, ledger=self.ledger)

    def _sweep(self, **args: Any) -> dict[str, Any]:
        met = self.rounds.pop(0)
        if met is None:
            return GONE
        self.observer.maps["sites"] = [
            site(key, *SEEN[key], injected=int(failed), reached=2, kind=2 if key == PAGES else 1)
            for key, failed in met.items()
        ]
        outcomes = [[key, self.shown.get(key, ENOMEM), 0, 1, 1] for key, failed in met.items() if failed]
        runs = len(outcomes) + 3
        return DONE | {"runs": runs, "injected": len(outcomes), "outcomes": outcomes} | self.more

    @property
    def sweeps(self) -> list[dict[str, Any]]:
        return self.agent.asked("sweep-ops")


def rig(*rounds: Round, **answer: Any) -> tuple[Faults, SweptGuest, FakeContext]:
    guest = SweptGuest(*rounds, **answer)
    context = FakeContext(guest, FakeSymbols(SPANS))
    return Faults(context.as_context), guest, context


BEFORE, DURING, AFTER = Operation("clear", {"name": "x"}), Operation("run", {"prog": "a\tb"}), Operation("detach", {})
ACTION = Action("create", (DURING, AFTER), before=(BEFORE,), after=(AFTER,), under=CREATE)
ATTACH = Action("attach", (DURING,), under=CREATE, threads=("scx_enable_helper", ""))


# --- every allocation once --------------------------------------------------------------------


def test_a_thread_is_swept_until_a_round_brings_nothing_new() -> None:
    faults, guest, context = rig({SLAB: True}, {SLAB: True, OTHER: True}, {OTHER: True})
    summary = faults.sweep(ACTION)
    assert len(guest.sweeps) == 3 and not guest.rounds
    assert summary is not None
    assert [(one.injected, one.outcomes) for one in summary.sites] == [(2, {"handled": 2}), (2, {"handled": 2})]
    assert (summary.reached, summary.injected, summary.handled) == (8, 4, 4), "all rounds in one"
    assert sum(part.injected for part in context.summaries) == 4, "each round is booked once"
    assert guest.settled == 3, "what is left is asked for when all is quiet"


def test_a_site_that_is_only_reached_is_not_new() -> None:
    faults, guest, _ = rig({SLAB: True}, {SLAB: True, OTHER: False})
    faults.sweep(ACTION)
    assert len(guest.sweeps) == 2


def test_a_site_that_was_only_reached_is_new_once_it_failed() -> None:
    faults, guest, _ = rig({OTHER: False}, {})
    faults.sweep(ACTION)
    assert len(guest.sweeps) == 1, "nothing was made to fail"
    faults, guest, _ = rig({SLAB: True, OTHER: False}, {OTHER: True}, {})
    faults.sweep(ACTION)
    assert len(guest.sweeps) == 3


def test_rounds_that_never_cease_to_bring_something_new_come_to_an_end() -> None:
    faults, guest, _ = rig(*[{number: True} for number in range(1, 9)])
    faults.sweep(ACTION)
    assert len(guest.sweeps) == ROUNDS < 8


def test_what_is_asked_of_the_agent() -> None:
    faults, guest, context = rig({}, {})
    faults.sweep(ACTION, thread="scx_enable_helper")
    (asked,) = guest.sweeps
    assert asked["before"] == "clear\tname=x"
    assert asked["during"] == "run\tprog=a%09b\ndetach"
    assert asked["after"] == "detach"
    assert (asked["thread"], asked["label"]) == ("scx_enable_helper", "create [scx_enable_helper]")
    assert (asked["observer"], asked["ledger"]) == ("fault_sites1", "ledger1")
    assert (asked["misses"], asked["timeout_ms"], asked["fine"], asked["all"]) == (3, SCALE * BUDGET_MS, 0, 1)
    assert not {"every", "budget_ms"} & set(asked)
    assert guest.observer.attached == ["slab_site", "page_site", "record_printed"]
    assert guest.ledger.attached == list(LEDGER_DEEP)
    assert context.expected == [], "what a fault provokes is not expected for the rest of the test"
    (asked_at,) = [number for number, (verb, _) in enumerate(guest.agent.calls) if verb == "sweep-ops"]
    assert context.arming_began == [(asked_at, False)], "the sweep itself tells in which runs something failed"


def test_the_thread_that_asks_is_told_by_the_operation_alone() -> None:
    faults, guest, _ = rig({}, {})
    faults.sweep(ACTION)
    assert (guest.sweeps[0]["thread"], guest.sweeps[0]["label"]) == ("", "create")


def test_fail_nth_may_fail_everything_below_the_function_alone() -> None:
    faults, guest, _ = rig({}, {})
    faults.sweep(Action("fork", (DURING,), under=("scx_fork",), within="scx_fork"))
    written = dict(guest.writes)
    for folder in (FAILSLAB, PAGE):
        assert (written[f"{folder}/require-start"], written[f"{folder}/require-end"]) == ("0x6000", "0x6100")
        assert written[f"{folder}/ignore-gfp-wait"] == "N"
    assert not any(path.startswith("/proc") for path, _ in guest.writes), "fail-nth itself is the agent's to arm"


def test_each_thread_has_rounds_of_its_own() -> None:
    faults, guest, _ = rig({SLAB: True}, {}, {SLAB: True, OTHER: True}, {})
    summary = faults.sweep(ATTACH)
    assert [asked["thread"] for asked in guest.sweeps] == ["scx_enable_helper"] * 2 + [""] * 2
    assert summary is not None
    assert [one.injected for one in summary.sites] == [1, 2], "the threads' sites in one"


def test_a_kernel_without_the_thread() -> None:
    faults, guest, context = rig(None)
    assert faults.sweep(ACTION, thread="scx_enable_helper") is None
    assert not context.summaries and not guest.settled
    faults, guest, _ = rig(None, {SLAB: True}, {})
    summary = faults.sweep(ATTACH)
    assert summary is not None and summary.injected == 1, "the other one was there"


def test_a_thread_that_is_gone_in_a_later_round_does_not_make_the_first_one_undone() -> None:
    faults, guest, context = rig({SLAB: True}, None)
    summary = faults.sweep(ACTION, thread="scx_enable_helper")
    assert summary is not None and summary.sites == context.summaries[0].sites
    assert len(guest.sweeps) == 2


def test_an_operation_that_cannot_be_swept_says_so() -> None:
    faults, guest, _ = rig()
    guest.agent.answers["sweep-ops"] = {"ok": False, "errno": 13, "error": "fail-nth of thread 77: Permission denied"}
    with pytest.raises(GuestError, match="fail-nth of thread 77"):
        faults.sweep(ACTION)


# --- pages ------------------------------------------------------------------------------------


def test_pages_that_were_reached_and_never_had_their_turn_get_runs_in_which_each_fails() -> None:
    faults, guest, _ = rig({PAGES: False}, {PAGES: True})
    summary = faults.sweep(ACTION)
    first, second = guest.sweeps
    assert "every" not in first
    assert (second["every"], second["to"], second["misses"]) == (1, PAGE_RUNS, PAGE_RUNS + 1)
    assert summary is not None and [one.injected for one in summary.sites] == [1]
    written = [value for path, value in guest.writes if path == f"{PAGE}/probability"]
    assert written[-1] == "100"
    disarmed = {args["path"]: args["data"] for args in guest.agent.asked("write")}
    assert disarmed[f"{PAGE}/probability"] == "0" and disarmed[f"{PAGE}/task-filter"] == "N"


def test_what_is_wrong_when_each_page_fails_is_told_with_a_plan_that_fails_each_page() -> None:
    faults, guest, context = rig({SLAB: True, PAGES: False}, {}, {PAGES: True})
    guest.shown = {SLAB: -errno.EINVAL, PAGES: -errno.EINVAL}
    faults.sweep(ACTION, thread="scx_enable_helper")
    assert [(found.kind, found.fault) for found in context.findings] == [
        ("wrong errno", "{operation: create, task: scx_enable_helper, nth: 1}"),
        ("wrong errno", "{operation: create, what: page, task: scx_enable_helper, probability: 100}"),
    ]


def test_pages_that_never_come_are_given_up() -> None:
    faults, guest, _ = rig({PAGES: False}, *[{PAGES: False}] * PAGE_ROUNDS)
    faults.sweep(ACTION)
    assert len(guest.sweeps) == 1 + PAGE_ROUNDS


def test_pages_that_had_their_turn_in_any_round_need_no_more() -> None:
    faults, guest, _ = rig({SLAB: True, PAGES: True}, {SLAB: True, PAGES: False})
    faults.sweep(ACTION)
    assert len(guest.sweeps) == 2


def test_without_the_thread_pages_have_no_rounds_and_what_was_swept_stays() -> None:
    faults, guest, _ = rig({SLAB: True, PAGES: False}, {}, *[None] * PAGE_ROUNDS)
    summary = faults.sweep(ACTION, thread="scx_enable_helper")
    assert summary is not None and [one.injected for one in summary.sites] == [1, 0]
    assert not guest.rounds


def test_pages_are_disarmed_when_the_guest_dies_of_it() -> None:
    faults, guest, _ = rig({PAGES: False})
    with pytest.raises(IndexError):  # the guest has no second round
        faults.sweep(ACTION)
    assert {args["path"] for args in guest.agent.asked("write")} >= {f"{PAGE}/probability"}


# --- between two rounds ---------------------------------------------------------------------


def test_the_next_round_starts_with_empty_maps_and_the_rate_is_the_guest_s() -> None:
    faults, guest, _ = rig({SLAB: True}, {})
    guest.ledger.maps["objects"] = [(b"12345678", b"")]
    faults.sweep(ACTION)
    assert guest.observer.maps["sites"] == [] and guest.ledger.maps["objects"] == []
    assert [(rate.injected, rate.seconds) for rate in faults.rates] == [(1, 0.5), (0, 0.5)]


# --- creates ----------------------------------------------------------------------------------


def creates(percpu: bool = True, ids: int = 5, **answer: Any) -> tuple[dict[str, Any], Faults, FakeContext]:
    faults, guest, context = rig({SLAB: True}, ids=ids, left=[], count=0, **answer)
    asked: dict[str, Any] = {}

    def sweep(*args: Any, **settings: Any) -> Any:
        asked.update({"programs": args[:3], "tracers": args[4].arguments(), **settings})
        return guest.agent.call("sweep", **settings)

    api = SimpleNamespace(sweep=sweep)
    model = SimpleNamespace(features=SimpleNamespace(percpu_data=percpu))
    Dsqs.sweep_create(cast(Dsqs, SimpleNamespace(api=api, model=model)), faults, 7, ids=5)
    return asked, faults, context


@pytest.mark.parametrize("percpu", [True, False])
def test_creates_are_looked_at_for_objects_and_their_answer(percpu: bool) -> None:
    asked, faults, context = creates(percpu)
    assert asked["programs"] == ("create", "destroy", "nr_queued")
    assert asked["tracers"] == {"observer": "fault_sites1", "ledger": "ledger1", "label": "create"}
    assert (asked["want_percpu"], asked["want_slab"], asked["repeat"], asked["keep"]) == (int(percpu), 1, 5, 1)
    assert asked["budget_ms"] >= 4 * 12_000, "what 3000 of them took on a busy host whose scale was 1, and room"
    assert [part.injected for part in context.summaries] == [1]
    assert [rate.injected for rate in faults.rates] == [1]
    assert [whole for _, whole in context.arming_began] == [False]


def test_creates_that_were_not_all_done_prove_nothing() -> None:
    with pytest.raises(GuestError, match="did 3 of 5 runs of create"):
        creates(ids=3)


# --- once, one fault, what watches ------------------------------------------------------------


def test_once_does_all_and_stops_at_the_first_error_as_the_agent_does() -> None:
    faults, guest, _ = rig()
    guest.agent.answers |= {"clear": {}, "run": {"ret": -17}, "detach": {"ok": False, "errno": 2}, "get": {}}
    assert faults.once(ACTION) == -17
    assert [verb for verb, _ in guest.agent.calls] == ["clear", "run", "detach"], "what follows is not done, after is"
    guest.agent.answers["run"] = {"ret": 0}
    assert faults.once(ACTION) == -2
    assert [verb for verb, _ in guest.agent.calls][3:] == ["clear", "run", "detach", "detach"]


def test_a_fault_is_disarmed_whatever_comes_of_the_block() -> None:
    faults, guest, context = rig()
    with pytest.raises(ZeroDivisionError), faults.armed(Fault(what="function", nth=1), "attach"):
        assert (f"{FUNCTION}/probability", "100") in guest.writes
        raise ZeroDivisionError
    assert {(args["path"], args["data"]) for args in guest.agent.asked("write")} >= {(f"{FUNCTION}/probability", "0")}
    assert context.causes == [Cause("attach")], "what was raised came under it"
    assert (context.arming_began, context.expected) == ([(0, True)], [])


def test_a_function_with_several_ranges_has_no_one_span() -> None:
    faults, _, _ = rig()
    assert faults.ranges(["scx_fork", "split", "missing"]) == {"scx_fork": (0x6000, 0x6100)}


def test_the_span_of_an_inlined_function_is_that_of_its_calls() -> None:
    faults, guest, _ = rig()
    guest.observer.maps["sites"] = [site(SLAB, *SEEN[SLAB])]
    assert faults.span("init_dsq") == (0x40, 0x41)
    guest.observer.maps["sites"] = []
    assert faults.span("init_dsq") == (0x40, 0x41), "its text stays where it is"
    assert faults.span("nobody") is None
    assert faults.span("scx_fork") == (0x6000, 0x6100)


@pytest.mark.parametrize(
    ("everybody", "tid", "only", "watched"), [(False, 0, 0, 77), (False, 5, 0, 5), (True, 0, 1, -1)]
)
def test_who_is_watched(everybody: bool, tid: int, only: int, watched: int) -> None:
    faults, guest, _ = rig()
    faults.watch(everybody=everybody, tid=tid)
    assert (guest.observer.variables["only_injected"], guest.observer.variables["watch_tid"]) == (only, watched)
    faults.stop_watching()
    assert guest.observer.variables["watch_tid"] == 0


def test_what_was_seen_is_booked_on_the_site_that_fired_last() -> None:
    faults, guest, context = rig()
    guest.observer.maps["sites"] = [site(SLAB, *SEEN[SLAB], injected=3, reached=3), site(OTHER, *SEEN[OTHER])]
    guest.observer.variables["last_site"] = OTHER
    summary = faults.seen("create", CREATE, handled=1)
    assert {one.stack[2]: one.outcome for one in summary.sites} == {"pcpu_create_chunk": "none", "init_dsq": "handled"}
    assert (summary.injected, summary.handled, context.summaries) == (4, 1, [summary])
    assert guest.observer.maps["sites"] == []
    guest.observer.variables["lost"] = 2
    with pytest.raises(GuestError, match="2 fault observations did not fit"):
        faults.seen("create", CREATE, handled=1)


def test_the_ledger_s_functions_are_set_anew() -> None:
    faults, guest, _ = rig()
    assert faults.ledger(CREATE, deep=False).name == "ledger1"
    faults.ledger(("split", "missing"), deep=True)
    held = guest.ledger.variables
    assert (held["starts"], held["ends"], held["starts[1]"], held["ends[1]"]) == (1, 2, 3, 4)
    assert (held["nr_ranges"], held["deep"]) == (2, 1)
    assert guest.ledger.attached == list(LEDGER_DEEP), "attached once"


def test_only_what_looks_deep_has_the_programs_that_a_fast_sweep_does_without() -> None:
    faults, guest, _ = rig()
    faults.ledger(CREATE, deep=False)
    assert guest.ledger.attached == list(LEDGER_PROGRAMS)
    assert set(LEDGER_PROGRAMS) < set(LEDGER_DEEP)


def test_an_operation_s_answers_are_its_own() -> None:
    faults, _, context = rig({SLAB: True}, {}, outcomes=[[SLAB, -17, 0, 1, 1]])
    faults.sweep(Action("create", (DURING,), under=CREATE, allowed=Allowed(-17)))
    assert not context.findings
    assert context.summaries[0].sites[0].outcome == "absorbed"
