# SPDX-License-Identifier: GPL-2.0-only
"""Tests of a search's story of sub-schedulers, on a kernel that a second model plays, right or wrong."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext.dsq import STATE
from sched_ext.model import ids
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features, Scheduler
from sched_ext.model.trace import Answer
from sched_ext.search.moves import UNSAMPLED, move, possible
from sched_ext.search.player import Player
from sched_ext.search.subs import BELOW, CGROUPS, MOST_LOADED, NOBODY, NOWHERE, ROOT, VERBS, A, B
from sched_ext.sub import CALLS, CGROUP_ROOT, DETACHED

from harness.core.errors import Disagreed
from harness.core.records import MachineSpec, Operation
from harness.core.wire import Binary, ByteOrder
from harness.session.context import TestContext
from tests.unit.fakes.context import FakeObject


class Kernel(DsqModel):
    """A kernel that answers by the rules."""

    def __init__(self, features: Features) -> None:
        super().__init__(features, frozenset({0}), 2)


class TakesBetween(Kernel):
    """A scheduler is let in above another that is there."""

    def attach(self, *args: Any, **how: Any) -> Answer:
        answer = super().attach(*args, **how)
        if "is below this cgroup" not in answer.why:
            return answer
        return Answer(answer.op, frozenset({0}), "", "", made=tuple(i for i, _ in answer.op.creates), step=answer.step)


class OneTable(Kernel):
    """All schedulers have the table of the root."""

    def _owner(self) -> Scheduler | None:
        return self.root if super()._owner() else None


class OutlivesItsParent(Kernel):
    """One below goes on when the one above goes."""

    def _exit(self, scheduler: Scheduler) -> None:
        links, self.links = self.links, {scheduler.name: scheduler}
        super()._exit(scheduler)
        self.links = links


class Object(FakeObject):
    """A scheduler, or the programs that are tied to none."""

    def __init__(self, world: World, name: str, members: Mapping[str, int], **variables: Any) -> None:
        defaults: dict[str, Any] = {"exited": 0, "exit_msg": "", "exit_reason": "", "refusal": 0}
        super().__init__(name, **defaults, **variables)
        self.world, self.members, self.tied = world, dict(members), False

    def associate(self, *programs: str) -> None:
        assert programs == CALLS
        self.tied = True

    def attach(self, what: str = "ops", *, check: bool = True) -> int:
        kernel, one = self.world.kernel, self.variables
        at, there = "", True
        if "sub_cgroup_id" in self.members:
            at = self.world.paths.get(self.members["sub_cgroup_id"], NOWHERE)
            there = at in self.world.cgroups
        creates = [(one["first_id"] + number, -1) for number in range(one["nr_dsqs"])]
        takes = self.name.startswith("dsq_sub")
        answer = kernel.attach(self.name, creates, None, None, takes, at, there=there, cid_form=True)
        got = max(answer.values)
        end = None if None in answer.exits else max(one for one in answer.exits if one is not None)
        if got == 0 and end is not None:
            one |= {"exited": 1, "exit_msg": f"failed ({end})" if end else "an invalid errno"}
        assert kernel.observe(answer, got, end if got == 0 else None) is None
        if got == 0:
            kernel.links[self.name].refusal = one["refusal"]
        return got

    def set(self, variable: str, value: int, index: int = 0) -> None:
        super().set(variable, value, index)
        if variable == "refusal" and self.name in self.world.kernel.links:
            self.world.kernel.refuse(self.name, value)

    def detach(self, what: str | None = None) -> None:
        kernel = self.world.kernel
        if kernel.running(self.name) and not self.variables["exited"]:
            self.variables["exit_reason"] = DETACHED
        kernel.observe(kernel.detach(self.name), 0)
        self.world.settle()

    def run(self, program: str, context: Binary, *, record: bool = True, repeat: int = 1) -> list[int]:
        dsq_id, node = ByteOrder.LITTLE.unpack("Qi", context.bytes(ByteOrder.LITTLE))
        kernel = self.world.kernel
        if program == "live":
            names = [
                name
                for name, one in kernel.links.items()
                if one.running and one.cgroup == self.world.paths.get(dsq_id, "/")
            ]
            found = sorted(kernel.live(names[0]))
            self.variables |= {"live_count": len(found), "live_nelems": len(found), "live_ids": found}
            return [0]
        kernel.associate(self.name if self.tied else None)
        answer = kernel.create(dsq_id, node) if program == "create" else getattr(kernel, program)(dsq_id)
        got = max(answer.values) if answer.at_least is None else 0
        kernel.observe(answer, got)
        kernel.associate(None)
        self.world.settle()
        return [got]

    def unload(self) -> None:
        super().unload()
        del self.world.objects[self.name]


class World:
    """A guest with this kernel; `cgroups` are there, by path with their ids, `paths` are those that ever were."""

    def __init__(self, kernel: type[Kernel] = Kernel, features: Features | None = None) -> None:
        self.features = features or Features()
        self.kernel = kernel(self.features)
        self.objects: dict[str, Object] = {}
        self.cgroups: dict[str, int] = {}
        self.paths: dict[int, str] = {}
        self.loads: list[str] = []
        self.expected: list[str] = []
        self.looks = 0
        pristine = SimpleNamespace(scale=0.001)
        target = SimpleNamespace(
            machine=SimpleNamespace(spec=MachineSpec("x86_64")), features=self.features, pristine=pristine
        )
        guest = SimpleNamespace(
            load=self.load,
            read=self.read,
            write=lambda path, text: None,
            pristine=pristine,
            agent=SimpleNamespace(call=self.call, patience=0.0),
            wait_for=lambda path, text: self.read(path),
        )
        context = SimpleNamespace(
            guest=guest,
            target=target,
            expect=lambda *titles: self.expected.extend(titles),
            count_model=lambda *numbers: None,
        )
        self.player = Player(cast(TestContext, context))
        self.player._dsq.check_objects = self.look  # type: ignore[method-assign]

    def load(self, program: str, members: Mapping[str, int] | None = None, /, **variables: int) -> Object:
        self.loads.append(program)
        found = Object(self, f"{program}{len(self.loads)}", members or {}, **variables)
        self.objects[found.name] = found
        return found

    def look(self) -> None:
        self.looks += 1

    def read(self, path: str) -> str:
        assert path == STATE
        return "enabled\n" if self.kernel.root else "disabled\n"

    def call(self, verb: str, path: str = "", **how: Any) -> dict[str, Any]:
        path = path.removeprefix(CGROUP_ROOT)
        if verb == "mkdir":
            self.cgroups[path] = 100 + len(self.paths)
            self.paths[self.cgroups[path]] = path
            return {"ino": self.cgroups[path]}
        assert verb == "rmdir" and not any(other.startswith(f"{path}/") for other in self.cgroups)
        del self.cgroups[path]
        self.kernel.cgroup_offline(path)
        self.settle()
        return {}

    def settle(self) -> None:
        """Those that are ejected go, and all that have gone say so."""
        for name, link in list(self.kernel.links.items()):
            if link.aborting:
                self.objects[name].variables["exit_msg"] = link.aborting.replace("cgroup /", "cgroup 7")
                self.kernel.gone(sub_scheduler=name if link.parent else "")
        for name, link in self.kernel.links.items():
            if not link.running:
                self.objects[name].variables["exited"] = 1

    def play(self, *moves: Operation) -> list[str]:
        self.player.lines.clear()
        self.player.play(moves)
        return self.player.lines


def attach(at: str = ROOT, takes: bool = True, first: int = 0, count: int = 1) -> Operation:
    return move("sub_attach", at=at, takes=takes, first=first, count=count)


def answers(lines: list[str]) -> list[str]:
    return [line.partition(" -> ")[2] for line in lines]


def test_each_has_a_table_of_its_own_which_only_its_own_programs_reach() -> None:
    world = World()
    assert answers(
        world.play(
            attach(),
            attach(A, first=5, count=2),
            move("sub_create", by=0, id=5),
            move("sub_create", by=1, id=5),
            move("sub_create", by=NOBODY, id=5),
            move("sub_nr_queued", by=1, id=6),
            move("sub_destroy", by=1, id=6),
            move("sub_nr_queued", by=5, id=6),
            move("sub_live"),
            move("sub_objects"),
        )
    ) == ["0", "0", "0", "-EEXIST", "-ENODEV", "0", "", "-ENOENT", "", ""]
    assert world.looks == 1


def test_who_is_let_in() -> None:
    world = World()
    assert answers(
        world.play(
            attach(A),
            attach(),
            attach(NOWHERE),
            attach(A, takes=False),
            attach(A),
            attach(BELOW),
            attach(),
            move("sub_detach", which=0),
            attach(BELOW),
            attach(A),
        )
    ) == ["-ENODEV", "0", "-ENOENT", "0", "-EBUSY", "-ENOTSUP", "-EBUSY", "", "0", "-EBUSY"]
    assert world.expected == []


def test_those_that_fail_are_expected_to_say_so() -> None:
    world = World()
    assert answers(
        world.play(
            attach(),
            attach(A, first=ids.BUILTIN - 1, count=2),
            move("sub_refuse", at=B, error=-errno.EACCES),
            move("sub_refuse", at=B, error=7),
            move("sub_refuse", at=ROOT, error=7),
            attach(B),
        )
    ) == ["0", "exit -EINVAL", "exit -EACCES", "exit 0", "0"]
    shown = [
        "(?:ops\\.init\\(\\) failed|parent rejected) \\(-22\\)",
        "(?:ops\\.init\\(\\) failed|parent rejected) \\(-13\\)",
    ]
    assert world.expected == [*shown, r"ops\.sub_attach\(\) returned an invalid errno"]


def test_those_below_go_with_the_root_and_are_asked_all_the_same() -> None:
    world = World()
    assert answers(
        world.play(
            attach(),
            attach(A),
            attach(BELOW),
            move("sub_detach", which=2),
            move("sub_create", by=2, id=3),
            move("sub_create", by=0, id=3),
            move("sub_again", which=0),
            move("sub_detach", which=0),
            attach(),
            move("sub_again", which=0),
            attach(BELOW, count=0),
            move("sub_live"),
        )
    ) == ["0", "0", "0", "", "0", "-ENODEV", "-ENODEV", "", "0", "-EBUSY", "0", ""]


def test_a_cgroup_goes_with_its_scheduler_and_comes_again_as_another() -> None:
    world = World()
    lines = world.play(
        attach(),
        attach(B),
        move("sub_mkdir", at=B),
        move("sub_rmdir", at=B),
        move("sub_create", by=1, id=3),
        attach(B),
        move("sub_mkdir", at=B),
        attach(B),
        move("sub_live"),
        attach(BELOW),
        move("sub_rmdir", at=A),
        move("sub_rmdir", at=BELOW),
        move("sub_mkdir", at=BELOW),
        move("sub_mkdir", at=A),
    )
    assert lines == [
        "sub attach at / takes True first 0x0 count 1 -> 0",
        "sub attach at /b takes True first 0x0 count 1 -> 0",
        "sub rmdir at /b",
        "sub create by 1 0x3 -> 0",
        "sub attach at /b takes True first 0x0 count 1 -> -ENOENT",
        "sub mkdir at /b",
        "sub attach at /b takes True first 0x0 count 1 -> 0",
        "sub live",
        "sub attach at /a/below takes True first 0x0 count 1 -> 0",
        "sub rmdir at /a",
        "sub mkdir at /a/below",
    ]
    assert world.loads.count("dsq_sub") == 5, "a root, and one each for three cgroups and for none"


def test_one_is_ejected_for_what_its_own_program_asked() -> None:
    world = World()
    lines = world.play(
        attach(),
        attach(A),
        attach(BELOW),
        move("sub_nr_queued", by=1, id=ids.LOCAL_ON | 8),
        move("sub_create", by=0, id=9),
        attach(A),
        move("sub_live"),
    )
    assert answers(lines)[3:] == ["-ENOENT", "0", "0", ""]
    assert world.expected == [r"invalid\ cid\ 8"]


@pytest.mark.parametrize("by", [0, NOBODY])
def test_a_root_that_takes_none_is_everybodys(by: int) -> None:
    world = World()
    asked = (move("sub_nr_queued", by=by, id=ids.LOCAL_ON | 8), move("sub_create", by=NOBODY, id=9))
    assert answers(world.play(attach(takes=False), *asked)) == ["0", "-ENOENT", "-ENODEV"]


def test_what_cannot_be_done_is_left_out() -> None:
    verbs = ("sub_detach", "sub_again", "sub_refuse", "sub_live", "sub_mkdir")
    assert World().play(*(move(verb, which=0, at=A, error=-13) for verb in verbs)) == []


def test_a_kernel_without_them_leaves_all_out() -> None:
    for features in (Features(sub_scheds=False), Features(cid_form=False)):
        world = World(features=features)
        assert world.play(attach(), move("sub_objects"), move("sub_rmdir", at=A)) == []
        assert not world.paths and world.loads == ["dsq_api"]


def test_the_guest_is_tidy_afterwards_and_roots_stay_loaded() -> None:
    world = World()
    for _ in range(3):
        world.play(attach(), attach(A), attach(B, takes=False), move("sub_detach", which=2))
        assert not world.kernel.links and not world.cgroups
        assert [name for name in world.objects if name != "dsq_api1"] == ["dsq_sub2"]
    assert world.loads.count("dsq_sub") == 1 + 3


def test_one_that_was_detached_is_attached_again() -> None:
    world = World()
    again = (move("sub_detach", which=0), attach(first=4), attach(A), move("sub_live"))
    assert answers(world.play(attach(), *again)) == ["0", "", "0", "0", ""]
    assert world.loads.count("dsq_sub") == 2


def test_there_is_an_end_to_what_is_loaded() -> None:
    world = World()
    round_trip = (attach(B), move("sub_rmdir", at=B), move("sub_mkdir", at=B))
    lines = world.play(attach(), *round_trip * MOST_LOADED)
    assert answers(lines).count("0") == MOST_LOADED, "of each the link is there, and room for no more"
    free = (attach(), *(one for _ in range(MOST_LOADED) for one in (*round_trip, move("sub_detach", which=0))))
    assert answers(world.play(*free)).count("0") == 1 + MOST_LOADED


@pytest.mark.parametrize(
    ("kernel", "moves", "shown"),
    [
        (
            TakesBetween,
            [attach(BELOW), attach(A)],
            "allows only -EBUSY: scheduler dsq_sub3 is below this cgroup already",
        ),
        (OneTable, [attach(A, count=0), move("sub_create", by=1, id=0)], "answered -EEXIST, the model allows only 0"),
        (OutlivesItsParent, [attach(A), move("sub_detach", which=1)], "the model has it gone"),
    ],
)
def test_a_wrong_kernel_is_told(kernel: type[Kernel], moves: list[Operation], shown: str) -> None:
    with pytest.raises(Disagreed, match=shown):
        World(kernel).play(attach(), *moves)


def test_a_table_that_is_wrong_is_seen_at_the_end_at_the_latest() -> None:
    world = World()
    world.player._do(attach())
    world.kernel.links["dsq_sub2"].hash.add(77)
    with pytest.raises(Disagreed, match="the DSQ table of dsq_sub2 has unexpected 0x4d"):
        world.play()


def test_one_that_went_by_itself_is_seen_when_it_is_detached() -> None:
    world = World()
    world.player._do(attach())
    world.objects["dsq_sub2"].variables["exited"] = 1
    with pytest.raises(Disagreed, match="exited, the model lets it run"):
        world.player._do(move("sub_detach", which=0))


def test_sequences_with_cgroups_are_none_for_the_leak_batch() -> None:
    assert VERBS <= UNSAMPLED


def test_what_a_sequence_itself_shows_to_be_left_out() -> None:
    verbs = "sub_detach sub_live sub_mkdir sub_rmdir sub_mkdir sub_attach sub_detach sub_live"
    left = [one.verb for one in possible(tuple(Operation(verb) for verb in verbs.split()))]
    assert left == ["sub_rmdir", "sub_mkdir", "sub_attach", "sub_detach", "sub_live"]


def test_a_cgroup_comes_after_the_one_above_it() -> None:
    assert all(path.rpartition("/")[0] in ("", *CGROUPS[:number]) for number, path in enumerate(CGROUPS))
