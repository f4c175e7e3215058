# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the search: what is drawn, that a kernel that is wrong is found and its sequence shrunk, what is said of it."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.database import InMemoryExampleDatabase, choices_to_bytes
from hypothesis.errors import NoSuchExample
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.search import drive, subs
from sched_ext.search.draw import often
from sched_ext.search.drive import Search, joined
from sched_ext.search.guest import Deed, Guest, Shown
from sched_ext.search.moves import MOST, Choices, Drawn, Moves, move, possible, sequences
from sched_ext.search.player import TIDY, Player, Spent
from sched_ext.search.same import kin
from sched_ext.search.subs import SubMoves
from sched_ext.search.words import words

from harness.core.errors import Ended, How, Inconclusive, MachineEnded, MachineLost
from harness.core.records import Finding, ModelSummary, Operation, Retry, Scenario, SearchSummary, decode, encode
from harness.oracles.splat.frames import neutral, signature
from harness.session.context import TestContext
from tests.unit.session.test_context import made
from tests.unit.suites.sched_ext.model.kernels import CountsTheDead, DestroyLeavesTheId, DuplicateAllowed, NaiveKernel

NODES, CPUS = 1, 2


def disagreement(text: str) -> Finding:
    return Finding("model", "disagreement", text, signature("model", "disagreement", (), neutral(text)))


class World:
    """Guests that all have this kernel. `leak`: what a guest's end shows if these moves were played in it."""

    def __init__(self, kernel: type[NaiveKernel] = NaiveKernel, **how: Any) -> None:
        self.kernel = kernel
        self.how = how
        self.guests: list[FakeGuest] = []

    def guest(self) -> FakeGuest:
        self.guests.append(FakeGuest(self))
        return self.guests[-1]


class FakeGuest:
    """A guest as the search drives it: moves of DSQs go to a naive kernel and to the model."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel(NODES, CPUS)
        self.model = DsqModel(Features(), frozenset(range(NODES)), CPUS)
        self.context = SimpleNamespace(model=ModelSummary(), summaries=[])
        self.spent = Spent()
        self.done: list[Deed] = []
        self.played: list[Moves] = []
        self.lines: list[str] = []
        self.found: list[Finding] = []

    def __enter__(self) -> FakeGuest:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def play(self, moves: Moves) -> bool:
        self.played.append(moves)
        for one in (*moves, TIDY):
            problem = self._do(one)
            self.lines.append(words(one))
            if problem:
                self.found.append(disagreement(str(problem)))
                return False
        return True

    def _do(self, one: Operation) -> object:
        model, kernel = self.model, self.kernel
        now = self.context.model
        self.context.model = ModelSummary(now.operations + 1, now.compared + 1)
        match one.verb:
            case "create" if not one.fault:
                return model.observe(
                    model.create(one.args["id"], one.args["node"]), kernel.create(one.args["id"], one.args["node"])
                )
            case "destroy":
                return model.observe(model.destroy(one.args["id"]), kernel.destroy(one.args["id"]))
            case "nr_queued" if one.args["id"] >> 63 == 0:
                return model.observe(model.nr_queued(one.args["id"]), kernel.nr_queued(one.args["id"]))
            case "attach" if not one.fault and "s" not in model.links:
                creates = [(dsq_id, node) for dsq_id, node in one.args["creates"]]
                return model.observe(model.attach("s", creates), *kernel.attach(creates))
            case "detach" | "tidy" if "s" in model.links:
                problem = model.compare_live(kernel.dsqs if kernel.enabled else ())
                return problem or model.observe(model.detach("s"), kernel.detach())
        return None

    def raised(self) -> Shown:
        return Shown(tuple(self.found), tuple(self.lines))

    def finish(self) -> Shown:
        leak = self.world.how.get("leak")
        leaks = [leak] if leak and self.world.how["when"](self.played) else []
        return Shown((*self.found, *leaks), tuple(self.lines), self.world.how.get("why", ""))


def search_of(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """A search of a world, its examples in a folder of the test's."""
    context = SimpleNamespace(
        test_id="t::search",
        seed=7,
        allow=(),
        model=ModelSummary(),
        summaries=[],
        target=SimpleNamespace(pristine=SimpleNamespace(scale=1.0)),
        count_model=lambda *numbers: None,
    )
    found = Search(cast(TestContext, context), folder / "examples", lambda site: "", lambda done, seconds: None)
    monkeypatch.setattr(found, "_guest", world.guest)
    return found


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[World], Search]:
    return lambda world: search_of(world, tmp_path, monkeypatch)


# --- what is drawn ------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(sequences())
def test_a_sequence_is_data(drawn: Drawn) -> None:
    moves = drawn.moves
    scenario = Scenario("default", (), 7, moves)
    assert decode(json.loads(json.dumps(encode(scenario))), Scenario) == scenario
    assert len(moves) <= MOST
    for one in moves:
        player = SubMoves if one.verb in subs.VERBS else Player
        assert hasattr(player, f"_{one.verb}"), "the player knows each verb"
        assert words(one) and "\n" not in words(one)


@pytest.mark.parametrize("seed", range(20))
def test_some_moves_of_a_sequence_are_drawn_by_some_of_its_choices(seed: int) -> None:
    """So that Hypothesis goes on with what was left."""
    seen: list[tuple[Drawn, Choices]] = []

    def note(drawn: Drawn) -> bool:
        seen.append((drawn, tuple(current_build_context().data.choices)))
        return False

    rng = Random(seed)
    with contextlib.suppress(NoSuchExample):
        find(sequences(), note, settings=settings(max_examples=10, phases=(Phase.generate,), database=None), random=rng)
    drawn, choices = seen[-1]
    numbers = [number for number in range(len(drawn.moves)) if rng.random() < 0.5]
    moves, chosen = drawn.part(choices, numbers)
    examples = InMemoryExampleDatabase()
    examples.save(b"k", choices_to_bytes(chosen))
    seen.clear()
    with contextlib.suppress(NoSuchExample):
        find(sequences(), note, settings=settings(phases=(Phase.reuse,), database=examples), database_key=b"k")
    assert [again.moves for again, _ in seen] == [moves]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (move("create", id=7, node=-1), "create 0x7 node -1"),
        (move("nr_queued", id=(1 << 63) | (1 << 62) | 8), "nr queued SCX_DSQ_LOCAL_ON|8"),
        (move("attach", creates=[[1, -1], [1, 2]]), "attach [(0x1, -1), (0x1, 2)]"),
        (move("hold", vtimes=[]), "hold as a FIFO"),
        (
            move("sub_attach", at="/a", takes=True, first=1 << 63, count=2),
            "sub attach at /a takes True first SCX_DSQ_INVALID count 2",
        ),
        (move("sub_create", by=1, id=7), "sub create by 1 0x7"),
        (move("hold", vtimes=[3, (1 << 64) - 1]), "hold by vtime [0x3, 0xffffffffffffffff]"),
    ],
)
def test_a_move_in_words(one: Operation, said: str) -> None:
    assert words(one) == said


def test_a_fault_is_in_the_words() -> None:
    assert words(move("create", drive_fault(3), id=1, node=-1)) == "create 0x1 node -1 with allocation 3 failing"


def drive_fault(nth: int) -> Any:
    from sched_ext.search.moves import failing_create

    return failing_create(nth)


@pytest.mark.parametrize(
    ("verbs", "left"),
    [
        ("detach attach detach", "attach detach"),
        ("attach_many detach", "attach_many detach"),
        ("arrive hold release arrive release", "hold arrive release"),
        ("hold arrive intrude release look hold look", "hold arrive intrude hold look"),
        ("hold let_go reenqueue", "hold let_go"),
        ("turns rest work rest turns", "work rest"),
        ("create destroy check_live", "create destroy check_live"),
    ],
)
def test_what_a_sequence_itself_shows_to_be_left_out(verbs: str, left: str) -> None:
    assert [one.verb for one in possible(tuple(Operation(verb) for verb in verbs.split()))] == left.split()


# --- what is the same ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "create(0x7, node -1) answered 0, the model allows only -EEXIST: the id is live (f)",
            "create(0x0, node 0) answered 0, the model allows only -EEXIST: the id is live (f)",
            True,
        ),
        (
            "the DSQ table lacks 0x1, 0x2 and 3 more; the kernel has 1 live DSQs, the model 6 (f)",
            "the DSQ table lacks 0x1; the kernel has 0 live DSQs, the model 1 (f)",
            True,
        ),
        (
            "the DSQ holds the tasks [12, 13, 14], the model [14, 13, 12] (f)",
            "the DSQ holds the tasks [70, 71], the model [71, 70] (f)",
            True,
        ),
        (
            "create(0x7, node -1) answered 0, the model allows only -EEXIST: the id is live (f)",
            "create(0x7, node -1) answered 0, the model allows only -ENODEV: no scheduler is loaded (f)",
            False,
        ),
        (
            "nr_queued(SCX_DSQ_LOCAL_ON|2) answered -ENOENT, the model allows only 0 or more: x (f)",
            "nr_queued(0x2) answered -EINVAL, the model allows only 0 or more: x (f)",
            False,
        ),
        (
            "attach(dsq_listed16, 4 DSQs in ops.init) answered -EBUSY, the model allows only 0: x (f)",
            "attach(dsq_listed2) answered -EBUSY, the model allows only 0: x (f)",
            True,
        ),
        (
            "attach(dsq_sub12 at /a, 2 DSQs in ops.init) answered 0, the model allows only -EBUSY: scheduler dsq_leaf7 is below (f)",
            "attach(dsq_leaf3 at /a/below) answered 0, the model allows only -EBUSY: scheduler dsq_sub2 is below (f)",
            True,
        ),
        (
            "attach(dsq_sub12 at /a) answered 0, the model allows only -EBUSY: scheduler dsq_leaf7 is below (f)",
            "attach(dsq_sub12 at /a) answered 0, the model allows only -EBUSY: scheduler dsq_leaf7 is attached (f)",
            False,
        ),
        (
            "attach(dsq_sub12 at /a) answered -ENOMEM, the model allows only 0: x (kernel/sched/ext/ext.c: f)",
            "attach(dsq_sub12) answered -ENOMEM, the model allows only 0: x (kernel/sched/ext/ext.c: f)",
            False,
        ),
        (
            "the DSQ table of dsq_leaf7 lacks 0x1, 0x2; the kernel has 1 live DSQs, the model 3 (f)",
            "the DSQ table of dsq_sub2 lacks 0x0; the kernel has 0 live DSQs, the model 1 (f)",
            True,
        ),
        (
            "dsq_sub3 exited for 'oops', the model wants 'cgroup /b is going offline' (f)",
            "dsq_sub9 exited for 'oops', the model wants 'cgroup /a/below is going offline' (f)",
            True,
        ),
    ],
)
def test_a_smaller_sequence_shows_the_same_or_not(one: str, other: str, same: bool) -> None:
    assert (kin(disagreement(one)) == kin(disagreement(other))) is same


def test_what_is_no_disagreement_goes_by_its_signature() -> None:
    leak = Finding("ledger", "percpu leak", "3 objects", "ledger:percpu leak:init_dsq")
    assert kin(leak) == kin(Finding("ledger", "percpu leak", "1 object", "ledger:percpu leak:init_dsq"))
    assert kin(leak) != kin(Finding("ledger", "percpu leak", "3 objects", "ledger:percpu leak:alloc_pnode"))


# --- the search ---------------------------------------------------------------------------


def test_a_right_kernel_is_left_alone(search: Callable[[World], Search]) -> None:
    world = World()
    asked = search(world)
    assert asked.run(2.0) is None
    done = asked.summary()
    assert done.sequences > 1 and done.guests == len(world.guests)
    assert asked.sample and all(not one.fault for moves in asked.sample for one in moves)


@pytest.mark.parametrize(
    ("kernel", "verbs"),
    [
        (DuplicateAllowed, ["attach", "create", "create"]),
        (DestroyLeavesTheId, ["attach", "create", "destroy"]),
        (CountsTheDead, ["attach", "nr_queued"]),
    ],
)
def test_a_wrong_kernel_is_found_and_the_sequence_shrunk(
    search: Callable[[World], Search], kernel: type[NaiveKernel], verbs: list[str]
) -> None:
    world = World(kernel)
    found = search(world).run(20.0)
    assert found is not None
    assert len(found.moves) <= len(verbs), [words(one) for one in found.moves]
    assert "in a pristine guest, shrunk from" in found.lines[0]
    assert found.finding.kind == "disagreement"
    assert [len(guest.played) for guest in world.guests[-3:]] == [1, 1, 1], "each attempt has a guest of its own"


def test_what_failed_once_is_tried_first(search: Callable[[World], Search]) -> None:
    first = search(World(DuplicateAllowed)).run(20.0)
    assert first is not None
    clean = World()
    assert search(clean).run(0.2) is None, "it passes there, and is kept all the same"
    world = World(DuplicateAllowed)
    again = search(world).run(20.0)
    assert again is not None
    assert [len(guest.played) for guest in world.guests[:1]] == [1]


def test_a_leak_at_a_guests_end_is_narrowed_to_its_sequence(search: Callable[[World], Search]) -> None:
    leak = Finding("ledger", "percpu leak", "1 object", "ledger:percpu leak:init_dsq")

    def destroys_one(played: list[Moves]) -> bool:
        return any(one.verb == "destroy" and one.args["id"] == 1 for moves in played for one in moves)

    found = search(World(leak=leak, when=destroys_one)).run(20.0)
    assert found is not None
    assert found.finding == leak
    assert [one.verb for one in found.moves] == ["destroy"]


def test_what_does_not_come_back_is_told_with_all_that_was_done(search: Callable[[World], Search]) -> None:
    leak = Finding("ledger", "percpu leak", "1 object", "ledger:percpu leak:init_dsq")
    world = World(leak=leak, when=lambda played: len(played) > 1)
    found = search(world).run(5.0)
    assert found is not None
    assert "not shrunk" in found.lines[0]
    done = [one for moves in world.guests[0].played for one in moves]
    assert [one for one in found.moves if one != TIDY] == done
    assert found.moves.count(TIDY) > 20


def test_a_guest_that_cannot_be_judged_is_told(search: Callable[[World], Search]) -> None:
    with pytest.raises(Inconclusive, match="5 guests of the search could not be judged: tasks were held"):
        search(World(why="tasks were held for too long")).run(60.0)


def test_a_crash_in_the_last_sequence_needs_no_oracle(search: Callable[[World], Search]) -> None:
    """What is raised is looked at first: the end of a dead guest shows nothing."""
    world = World(DuplicateAllowed)
    moves = (move("attach", creates=[]), move("create", id=1, node=-1), move("create", id=1, node=-1))
    shown = search(world).attempt(moves, disagreement("x"))
    assert len(shown.findings) == 1 and len(shown.lines) == 3


def test_sequences_are_joined_by_tidying() -> None:
    one, two = move("check_live"), move("rest")
    assert joined([(one,), (two, one)]) == (one, TIDY, two, one)
    assert joined([]) == ()


def test_spent_adds_up() -> None:
    total, other = Spent(), Spent()
    with other.on("operations", 5):
        pass
    total.add(other)
    total.add(other)
    assert total.times["operations"] == 10
    assert total.seconds["operations"] == 2 * other.seconds["operations"]


def test_the_summary_survives_the_event_log() -> None:
    done = SearchSummary(3, 40, 1, 2.5, {"operations": (40, 0.5)})
    assert decode(json.loads(json.dumps(encode(done))), SearchSummary) == done


def test_the_player_takes_each_move_alike() -> None:
    verbs = [
        name
        for name, _ in inspect.getmembers(Player, inspect.isfunction)
        if name in ("_create", "_attach", "_hold", "_tidy")
    ]
    assert all(list(inspect.signature(getattr(Player, name)).parameters) == ["self", "one"] for name in verbs)


def test_budgets_are_there_for_all() -> None:
    assert drive.SHRINK_SECONDS > 0 and drive.LOOKS > 6


def test_what_is_there_more_than_once_is_drawn_more_often() -> None:
    seen: list[str] = []

    def note(one: str) -> bool:
        seen.append(one)
        return False

    with contextlib.suppress(NoSuchExample):
        find(
            often(st.just("a"), *[st.just("b")] * 9),
            note,
            settings=settings(max_examples=200, phases=(Phase.generate,), database=None),
            random=Random(1),
        )
    assert seen.count("b") > 3 * seen.count("a") > 0


def test_a_lost_guest_of_a_search_is_booked_on_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no second chance for a kernel."""
    context, first = made()
    heard: list[Retry] = []
    context.hears = heard.append
    lost = MachineEnded("QEMU ended", Ended(How.KILLED, signal=9), (), False)
    panic = MachineEnded("QEMU ended", Ended(How.EXITED, 0), ("[    3.1] Kernel panic - not syncing: x",), False)
    ends: list[MachineEnded | None] = [lost, None, panic]

    def enter(guest: object) -> object:
        if error := ends.pop(0):
            raise error
        return guest

    monkeypatch.setattr(type(first), "__enter__", enter)
    with Guest(context, lambda site: "") as guest:
        assert (context.attempts, guest.context.attempts, len(heard)) == (2, 2, 1)
    with pytest.raises(MachineEnded), Guest(context, lambda site: ""):
        pass
    assert (context.attempts, ends) == (2, [])


def test_what_was_found_stays_where_it_cannot_be_looked_into(
    search: Callable[[World], Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search(world := World(CountsTheDead))
    first = world.guest

    def guest() -> FakeGuest:
        if world.guests:
            raise MachineLost("QEMU did not start")
        return first()

    monkeypatch.setattr(found, "_guest", guest)
    said = found.run(60.0)
    assert said is not None and said.finding.oracle == "model"
    assert "not looked into further, QEMU did not start" in said.lines[0]
