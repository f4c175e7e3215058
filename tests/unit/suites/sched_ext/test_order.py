# SPDX-License-Identifier: GPL-2.0-only
"""Tests of tasks held on a DSQ: what is asked of the scheduler, and that each thing that can be wrong is shown as that."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sched_ext import order
from sched_ext.dsq import SCHED_EXT, STALLED, Dsqs
from sched_ext.model.order import RESTORED, Kind
from sched_ext.model.state import Features
from sched_ext.order import HeldTasks

from harness.core.errors import Disagreed, GuestError
from harness.core.records import MachineSpec
from harness.core.wire import NOTHING, Binary, ByteOrder
from harness.session.context import TestContext
from tests.unit.fakes.context import FakeObject

STAT = "S " + " ".join(str(number) for number in range(4, 53))
"""Field n of /proc/PID/stat is n here, from the 4th on (Documentation/filesystems/proc.rst)."""

PROGRAM = Path(__file__).resolve().parents[4] / "bpf_progs" / "sched_ext" / "dsq_held.bpf.c"


class Scheduler(FakeObject):
    """A kernel with one DSQ, right unless `spoil` changes what it did; what it writes down is as dsq_held.bpf.c does."""

    def __init__(self) -> None:
        super().__init__(exited=0, exit_msg="", let_go=0, nr_events=0, nr_inserted=0, nr_moved=0)
        self.queue: list[int] = []
        self.events: list[tuple[int, int, int, int]] = []
        self.answers: dict[str, int] = {}
        self.spoil: Callable[[list[int]], None] = lambda queue: None
        self.detached = 0

    def get(self, *names: str, most: int = 0) -> dict[str, Any]:
        lists = dict(
            zip(order.EVENTS, map(list, zip(*self.events, strict=True)) if self.events else [[]] * 4, strict=True)
        )
        own = lists | {"queued": self.queue, "nr_queued": len(self.queue), "nr_events": len(self.events)}
        return {name: own[name] if name in own else self.variables.get(name, 0) for name in names}

    def arrive(self, pid: int, flags: int = 0) -> None:
        self.queue.append(pid)
        self.events.append((Kind.INSERTED, pid, 0, flags))
        self.variables["nr_inserted"] += 1

    def run(self, program: str, context: Binary = NOTHING) -> list[int]:
        if program == "release":
            (count,) = ByteOrder.LITTLE.unpack("Q", context.bytes(ByteOrder.LITTLE))
            for pid in self.queue[: min(count, len(self.queue))]:
                self.queue.remove(pid)
                self.events += [(Kind.MOVED, 0, 0, 0), (Kind.RAN, pid, 0, 0)]
                self.variables["nr_moved"] += 1
                self.arrive(pid)
        self.spoil(self.queue)
        if program == "look":
            return [self.answers.get("look", len(self.queue))]
        return [self.answers.get(program, self.queue[0] if program == "peek" and self.queue else 0)]

    def detach(self) -> None:
        self.detached += 1


class World:
    """Held tasks on that kernel. `shown` are the disagreements that the context counted."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.shown: list[str] = []
        self.expected: list[str] = []
        self.killed = 0
        self.pids = iter(range(10, 99))
        self.done: list[str] = []
        agent = SimpleNamespace(call=self.call)
        guest = SimpleNamespace(
            work=self.work,
            write=self.write,
            wait_for=lambda path, text: text,
            agent=agent,
            visit=lambda cpus: None,
            read=lambda path: "disabled",
        )
        context = SimpleNamespace(
            guest=guest,
            expect=self.expected.append,
            target=SimpleNamespace(machine=SimpleNamespace(spec=MachineSpec("x86_64"))),
            count_model=lambda operations, compared, wrong=None: self.shown.append(wrong) if wrong else None,
        )
        dsq = SimpleNamespace(
            model=SimpleNamespace(features=Features()),
            attach=self.attach,
            scale=0.01,
            detach=lambda scheduler: scheduler.detach(),
        )
        self.held = HeldTasks(cast(TestContext, context), cast(Dsqs, dsq))

    def attach(self, program: str, creates: object) -> Scheduler:
        assert (program, creates) == (order.PROGRAM, [(order.DSQ, -1)])
        return self.scheduler

    def work(self, kind: str, workers: int = 1, **how: Any) -> Any:
        assert (kind, how["cpu"], how["policy"]) == ("sleep", order.CPU, SCHED_EXT)
        pids = [next(self.pids) for _ in range(workers)]
        for pid in pids:
            self.scheduler.arrive(pid)
        return SimpleNamespace(kill=self.kill, pids=tuple(pids))

    def call(self, verb: str, **how: Any) -> dict[str, Any]:
        if verb in ("mkdir", "rmdir"):
            self.done.append(f"{verb} {how['path']}")
            return {}
        return self.read(verb, **how)

    def write(self, path: str, text: str) -> None:
        """A task that changes its cgroup is taken off and put back."""
        self.done.append(f"{text} > {path}")
        if path.endswith("cgroup.procs"):
            self.scheduler.queue.remove(int(text))
            self.scheduler.arrive(int(text), RESTORED)

    def read(self, verb: str, *, path: str, **how: Any) -> dict[str, Any]:
        """/proc of the tasks: 12 is gone, the others sleep."""
        assert verb == "read" and how == {"check": False, "record": False}
        if "/12/" in path:
            return {"ok": False}
        return {"ok": True, "data": "hrtimer_nanosleep" if "wchan" in path else f"{path[6:8]} (a) b) {STAT}"}

    def kill(self) -> None:
        self.killed += 1
        self.scheduler.queue.clear()


@pytest.fixture
def world() -> World:
    return World()


def test_a_right_kernel_is_left_alone(world: World) -> None:
    world.held.arrive(3)
    world.held.release(1)
    world.held.release(3)
    world.held.arrive(1)
    world.held.dismiss()
    assert world.shown == []
    assert (world.killed, world.scheduler.detached) == (2, 1)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda queue: queue.sort(reverse=True),
            r"the DSQ holds the tasks \[12, 11, 10\], the model \[10, 11, 12\] \(.*: dispatch_enqueue\)",
        ),
        (lambda queue: queue.__setitem__(0, 77), r"holds the tasks \[77, 11, 12\]"),
    ],
)
def test_another_order_is_told(world: World, spoil: Callable[[list[int]], None], says: str) -> None:
    world.scheduler.spoil = spoil
    with pytest.raises(Disagreed, match=says):
        world.held.arrive(3)
    assert len(world.shown) == 1


def test_a_count_that_is_not_the_tasks_is_told(world: World) -> None:
    """Also where it is waited for in vain."""
    world.scheduler.answers["look"] = 6
    with pytest.raises(Disagreed, match=r"nr_queued\(\) answers 6 with 3 tasks on the DSQ \(.*task_unlink_from_dsq"):
        world.held.arrive(3)


def test_one_task_less_is_counted(world: World) -> None:
    world.held.arrive(2)
    world.held.count_one_less()
    world.scheduler.answers["look"] = 5
    with pytest.raises(Disagreed, match=r"nr_queued\(\) answers 5 with 2 tasks on the DSQ"):
        world.held.count_one_less()


def test_another_first_task_is_told(world: World) -> None:
    world.scheduler.answers["peek"] = 11
    with pytest.raises(Disagreed, match=r"peek\(\) answers task 11, the model 10"):
        world.held.arrive(3)


def test_a_kernel_without_peek_is_not_asked(world: World) -> None:
    world.scheduler.answers["peek"] = -errno.EOPNOTSUPP
    world.held.arrive(3)
    assert world.shown == []


def test_a_task_that_is_not_let_go_is_told(world: World) -> None:
    world.held.arrive(3)
    world.scheduler.run = lambda program, context=b"": [3 if program == "look" else 10]  # type: ignore[method-assign]
    with pytest.raises(Disagreed, match="no task is moved off a DSQ that holds some"):
        world.held.release(1)


def test_a_wait_in_vain_tells_where_the_tasks_are(world: World) -> None:
    world.held.arrive(3)
    world.scheduler.queue.remove(12)
    world.scheduler.queue.remove(11)
    with pytest.raises(GuestError) as caught:
        world.held._until("nothing", lambda: False)
    shown = "task 11 is S in hrtimer_nanosleep, on CPU 39, ran 29 ticks; task 12 is gone"
    assert str(caught.value).endswith(f"; {shown}"), str(caught.value)


@pytest.mark.parametrize(
    ("message", "let_go", "error"),
    [
        ("agent[7] failed to run for 30.112s", 0, GuestError),
        ("agent[7] failed to run for 30.112s", 1, Disagreed),
        ("invalid CPU 9", 0, Disagreed),
    ],
)
def test_a_scheduler_that_is_ejected(world: World, message: str, let_go: int, error: type[Exception]) -> None:
    """For tasks that we held too long it is our fault, for anything else the kernel's."""
    world.scheduler.variables |= {"exited": 1, "exit_msg": message, "let_go": let_go}
    world.scheduler.answers["look"] = 2
    world.scheduler.queue = [10, 11]
    with pytest.raises(error, match=re.escape(message)):
        world.held._until("nothing", lambda: False)
    assert world.expected == [STALLED]


def test_a_kernel_that_cannot_enqueue_anew(world: World) -> None:
    world.scheduler.answers["reenqueue"] = -errno.EOPNOTSUPP
    world.held.arrive(2)
    assert not world.held.reenqueue()


def test_tasks_change_between_two_cgroups(world: World) -> None:
    world.held.arrive(3)
    world.held.regroup(2)
    world.held.regroup(3)
    assert world.scheduler.queue == [12, 10, 11]
    world.held.dismiss()
    group = "/sys/fs/cgroup/held"
    assert world.done == [
        "+cpu > /sys/fs/cgroup/cgroup.subtree_control",
        f"mkdir {group}",
        f"10 > {group}/cgroup.procs",
        f"11 > {group}/cgroup.procs",
        f"12 > {group}/cgroup.procs",
        "10 > /sys/fs/cgroup/cgroup.procs",
        "11 > /sys/fs/cgroup/cgroup.procs",
        f"rmdir {group}",
        "-cpu > /sys/fs/cgroup/cgroup.subtree_control",
    ]
    assert world.shown == []


def test_a_task_that_stays_where_it_is_is_told(world: World) -> None:
    world.held.arrive(2)
    world.held._guest.write = lambda path, data: None  # type: ignore[method-assign]
    with pytest.raises(Disagreed, match=r"ops.enqueue is called 0 times for 1 tasks that change their cgroup"):
        world.held.regroup(1)


def test_the_program_has_the_same_numbers() -> None:
    named = dict(re.findall(r"#define (\w+) (\d+)\n", PROGRAM.read_text()))
    assert (int(named["HELD_DSQ"]), int(named["MAX_EVENTS"]), int(named["MAX_TASKS"])) == (
        order.DSQ,
        order.MAX_EVENTS,
        order.MAX_TASKS,
    )


def test_an_event_that_is_not_written_yet_waits(world: World) -> None:
    """Its slot is taken first, its kind is written last."""
    world.held.arrive(2)
    world.scheduler.events += [(0, 0, 0, 0)]
    world.held.check()
    world.scheduler.queue.append(99)
    world.scheduler.events[-1] = (Kind.INSERTED, 99, 0, 0)
    world.held.check()
    assert world.shown == []


def test_a_scheduler_that_is_gone_is_told_as_that(world: World) -> None:
    world.held.arrive(2)
    world.scheduler.answers["look"] = -errno.ENODEV
    world.scheduler.variables |= {"exited": 1, "exit_reason": "runtime error", "exit_msg": "invalid CPU 9"}
    with pytest.raises(Disagreed, match="the scheduler with the DSQ is gone, runtime error: invalid CPU 9"):
        world.held.check()
