# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the interpreter of a search's moves, on a naive kernel: what is done, left out, compared and shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import STATE
from sched_ext.model import ids
from sched_ext.model.state import Features
from sched_ext.search.moves import move
from sched_ext.search.player import EXPEDITED, Player

from harness.core.errors import Disagreed, GuestError, HarnessError
from harness.core.records import MachineSpec, Operation
from harness.core.wire import Binary, ByteOrder
from harness.session.context import TestContext
from tests.unit.fakes.context import FakeObject
from tests.unit.suites.sched_ext.model.kernels import DestroyLeavesTheId, DuplicateAllowed, NaiveKernel

LOCAL_ON_8 = ids.LOCAL_ON | 8


class Object(FakeObject):
    """The API's programs, or a scheduler, on this world's kernel."""

    def __init__(self, world: World, program: str, **variables: int) -> None:
        defaults: dict[str, Any] = {"exited": 0, "exit_msg": "", "exit_reason": "", **variables}
        super().__init__(program, **defaults)
        self.world = world
        self.program = program

    def run(
        self, program: str, context: Binary, *, repeat: int = 1, fifo: bool = False, record: bool = True
    ) -> list[int]:
        first, node = ByteOrder.LITTLE.unpack("Qi", context.bytes(ByteOrder.LITTLE))
        if program == "live":
            found = sorted(self.world.kernel.dsqs)
            self.variables |= {"live_count": len(found), "live_nelems": len(found), "live_ids": found}
            return [0]
        how = {"create": lambda one: self.world.kernel.create(one, node)}
        answers = [how.get(program, getattr(self.world.kernel, program))(first + number) for number in range(repeat)]
        if self.world.kernel.dying:
            self.world.kernel.enabled = self.world.kernel.dying = False
            self.world.running.variables |= {"exited": 1, "exit_msg": self.world.says, "exit_reason": "runtime error"}
        return answers

    def attach(self, what: str = "ops", *, check: bool = True) -> int:
        one = self.variables
        if "nr_dsqs" in one:
            creates = [(one["first_id"] + number, one["node"]) for number in range(one["nr_dsqs"])]
        else:
            names = [f"[{number}]" if number else "" for number in range(one.get("nr_listed", 0))]
            creates = [(one[f"listed_ids{name}"], one[f"listed_nodes{name}"]) for name in names]
        got, ended = self.world.kernel.attach(creates)
        if got == 0:
            self.world.running = self
        if ended is not None:
            one |= {"exited": 1, "exit_msg": f"ops.init() failed ({ended})"}
        return got

    def detach(self, what: str | None = None) -> None:
        if self.world.running is self:
            self.world.kernel.detach()


class World:
    """A guest with this kernel, and a context that counts."""

    def __init__(self, kernel: type[NaiveKernel] = NaiveKernel, says: str = "invalid CPU 8") -> None:
        self.kernel = kernel(1, 2)
        self.says = says
        self.running: Any = None
        self.expected: list[str] = []
        self.compared = 0
        self.writes: list[tuple[str, str]] = []
        self.killed: list[str] = []
        self.names = 0
        pristine = SimpleNamespace(scale=0.01)
        target = SimpleNamespace(
            machine=SimpleNamespace(spec=MachineSpec("x86_64")), features=Features(), pristine=pristine
        )
        guest = SimpleNamespace(
            agent=SimpleNamespace(patience=0.0),
            load=self.load,
            read=self.read,
            write=lambda path, text: self.writes.append((path, text)),
            work=self.work,
            pristine=pristine,
        )
        context = SimpleNamespace(
            guest=guest, target=target, expect=lambda *titles: self.expected.extend(titles), count_model=self.count
        )
        self.player = Player(cast(TestContext, context))

    def load(self, program: str, **variables: int) -> Object:
        self.names += 1
        found = Object(self, program, **variables)
        found.name = f"{program}{self.names}"
        return found

    def read(self, path: str) -> str:
        assert path == STATE
        return "enabled\n" if self.kernel.enabled else "disabled\n"

    def work(self, kind: str, workers: int, **how: Any) -> Any:
        return SimpleNamespace(name=kind, kill=lambda: self.killed.append(kind), progress=lambda: [0])

    def count(self, operations: int, compared: int, problem: str | None = None) -> None:
        self.compared += compared

    def play(self, *moves: Operation) -> list[str]:
        self.player.play(moves)
        return self.player.lines


ATTACH = move("attach", creates=[[5, -1]])


def test_moves_are_done_one_after_the_other_and_told_with_their_answers() -> None:
    world = World()
    assert world.play(
        ATTACH,
        move("create", id=1, node=-1),
        move("create", id=1, node=-1),
        move("create", id=2, node=999),
        move("destroy", id=1),
        move("nr_queued", id=1),
        move("check_live"),
        move("detach", which=0),
        move("create", id=1, node=-1),
    ) == [
        "attach [(0x5, -1)] -> 0",
        "create 0x1 node -1 -> 0",
        "create 0x1 node -1 -> -EEXIST",
        "create 0x2 node 999 -> -EINVAL",
        "destroy 0x1",
        "nr queued 0x1 -> -ENOENT",
        "check live",
        "detach which 0",
        "create 0x1 node -1 -> -ENODEV",
    ]
    assert world.compared >= 9
    assert world.writes == [(EXPEDITED, "1")]


def test_what_cannot_be_done_is_left_out() -> None:
    world = World()
    assert (
        world.play(
            move("detach", which=1),
            move("release", tasks=2),
            move("arrive", tasks=1),
            move("reenqueue"),
            move("look"),
            move("regroup", tasks=1),
            move("destroy_held"),
            move("intrude"),
            move("let_go"),
            move("turns"),
            move("rest"),
        )
        == []
    )
    assert world.compared == 0, "nor is the table looked at where there is none"


def test_many_are_created_and_destroyed_at_once() -> None:
    world = World()
    assert world.play(
        move("attach_many", count=3, node=-1),
        move("create_range", start=2, count=4, node=-1),
        move("destroy_range", start=0, count=2),
    ) == [
        "attach many count 3 node -1 -> 0",
        "create range start 2 count 4 node -1 -> 1 refused",
        "destroy range start 0 count 2",
    ]
    assert world.player.spent.times["operations"] == 6
    assert not world.kernel.linked, "tidied"


def test_a_second_scheduler_is_refused_and_unloaded() -> None:
    world = World()
    assert world.play(ATTACH, move("attach", creates=[]))[1] == "attach [] -> -EBUSY"


def test_an_init_that_fails_is_expected_in_the_log() -> None:
    world = World()
    assert world.play(move("attach", creates=[[1, -1], [1, -1]])) == ["attach [(0x1, -1), (0x1, -1)] -> exit -EEXIST"]
    assert world.expected == [r"ops\.init\(\) failed \(-17\)"]


def test_a_scheduler_that_is_ejected_as_the_model_says() -> None:
    world = World()
    lines = world.play(ATTACH, move("nr_queued", id=LOCAL_ON_8), move("create", id=1, node=-1))
    assert lines[1:] == ["nr queued SCX_DSQ_LOCAL_ON|8 -> -ENOENT", "create 0x1 node -1 -> -ENODEV"]
    assert world.expected == [r"invalid\ CPU\ 8"]


def test_a_scheduler_that_is_ejected_for_something_else() -> None:
    world = World(says="out of luck")
    with pytest.raises(Disagreed, match="ejected for 'out of luck', the model says 'invalid CPU 8'"):
        world.play(ATTACH, move("nr_queued", id=LOCAL_ON_8))


def test_a_scheduler_that_goes_by_itself_is_told() -> None:
    world = World()
    world.player.play(())
    world.player._do(ATTACH)
    world.running.variables["exited"] = 1
    with pytest.raises(Disagreed, match="exited, the model lets it run"):
        world.player._do(move("detach", which=0))


@pytest.mark.parametrize(
    ("kernel", "moves", "last"),
    [
        (DuplicateAllowed, [move("create", id=5, node=-1)], "create 0x5 node -1 -> 0, the model allows only -EEXIST"),
        (DestroyLeavesTheId, [move("destroy", id=5)], "tidy -> the DSQ table has unexpected 0x5"),
    ],
)
def test_a_disagreement_is_the_last_line(kernel: type[NaiveKernel], moves: list[Operation], last: str) -> None:
    world = World(kernel)
    with pytest.raises(Disagreed):
        world.play(ATTACH, *moves)
    assert world.player.lines[-1].startswith(last)


def test_workers_are_ended_after_their_scheduler() -> None:
    world = World()
    world.play(ATTACH, move("work", kind="spin", tasks=2))
    assert world.killed == ["spin"]
    assert world.player.spent.times == {"loads": 1, "loads with tasks": 0}


def test_a_scheduler_that_is_left_is_no_disagreement() -> None:
    world = World()
    world.kernel.enabled = True
    with pytest.raises(GuestError, match="still there after all were detached"):
        world.play()


def test_a_move_of_another_version() -> None:
    with pytest.raises(HarnessError, match="no move 'dance'"):
        World().play(Operation("dance"))
