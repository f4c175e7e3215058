# SPDX-License-Identifier: GPL-2.0-only
"""Tests of each rule for what a scheduler sets and answers."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from sched_ext.model import ids
from sched_ext.model.case import (
    INT_MAX,
    RESTART_FOR_HOTPLUG,
    SWITCH_PARTIAL,
    Case,
    End,
    ExitKind,
    Insert,
    Platform,
    Seen,
)
from sched_ext.model.ops import BATCH_WARNS, DUMP_WARNS, IMMED_WARNS, OpsRules, error_of
from sched_ext.model.state import Features

EXT = "kernel/sched/ext/ext.c"
LAST, PER_NODE, KEEP, ALWAYS, IMMED = 1 << 1, 1 << 6, 1, 1 << 7, 1 << 33
PLATFORM = Platform(
    Features(),
    frozenset({0}),
    2,
    0x1FF,
    0xFF << 56,
    {
        "SCX_OPS_ENQ_LAST": LAST,
        "SCX_OPS_BUILTIN_IDLE_PER_NODE": PER_NODE,
        "SCX_OPS_KEEP_BUILTIN_IDLE": KEEP,
        "SCX_OPS_ALWAYS_ENQ_IMMED": ALWAYS,
        "SCX_ENQ_IMMED": IMMED,
    },
    frozenset(("cgroup_init", "sub_attach")),
)
USER = Case(creates=((7, -1),), enqueue=Insert(7), move=7)
E2BIG, EINVAL, ENOMEM = -errno.E2BIG, -errno.EINVAL, -errno.ENOMEM


def ends(case: Case, platform: Platform = PLATFORM) -> tuple[End, ...]:
    return OpsRules(platform).ends(case)


def end(case: Case, platform: Platform = PLATFORM) -> End:
    """The one end of a case."""
    (only,) = ends(case, platform)
    assert only.rule.startswith(f"{EXT}: ")
    assert only.why
    return only


def errors(case: Case, message: str, kind: ExitKind = ExitKind.ERROR, code: int = 0) -> bool:
    """Whether the case has only the end that the scheduler exits with this message."""
    only = end(case)
    return only.runs and only.allows(Seen(kind=kind, code=code, message=message)) and not only.allows(Seen())


@pytest.mark.parametrize(
    ("case", "answer", "warns"),
    [
        (Case(timeout_ms=30_001), E2BIG, ()),
        (Case(timeout_ms=ids.U32), E2BIG, ()),
        (Case(dispatch_max_batch=INT_MAX + 1), E2BIG, ()),
        (Case(flags=SWITCH_PARTIAL | 1 << 9), EINVAL, ()),
        (Case(flags=SWITCH_PARTIAL | 1 << 56), EINVAL, ()),
        (Case(flags=1 << 9, timeout_ms=30_001), EINVAL, ()),
        (Case(flags=1 << 9, dispatch_max_batch=INT_MAX + 1), E2BIG, ()),
        (Case(timeout_ms=30_001, name=""), E2BIG, ()),
        (Case(name=""), EINVAL, ()),
        (Case(name="x" * 128), EINVAL, ()),
        (Case(name="a b"), EINVAL, ()),
        (Case(dispatch_max_batch=INT_MAX), ENOMEM, BATCH_WARNS),
        (Case(dispatch_max_batch=1025), ENOMEM, BATCH_WARNS),
        (Case(exit_dump_len=INT_MAX + 1, dispatch_max_batch=1025), ENOMEM, DUMP_WARNS),
    ],
)
def test_members_that_the_attach_is_refused_for(case: Case, answer: int, warns: tuple[str, ...]) -> None:
    only = end(case)
    assert (only.attach, only.warns, only.runs) == (answer, warns, False)
    assert only.allows(Seen(attach=answer))
    assert not only.allows(Seen())


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(timeout_ms=30_000),
        Case(timeout_ms=0),
        Case(name="x" * 127),
        Case(name="a.B_9"),
        Case(hotplug=0),
        Case(flags=0x1FF),
        Case(dispatch_max_batch=512, exit_dump_len=1 << 20),
        USER,
        Case(flags=SWITCH_PARTIAL | LAST),
        Case(flags=SWITCH_PARTIAL | PER_NODE),
        Case(flags=SWITCH_PARTIAL | PER_NODE | KEEP, extra=frozenset(["update_idle"])),
        Case(sleeping=frozenset(["init_task", "cpu_online"])),
        Case(without=frozenset(["enqueue"])),
        replace(USER, enqueue=Insert(7, slice=0, vtime=ids.U64)),
        Case(enqueue=Insert(ids.LOCAL_ON | 1)),
        Case(enqueue=Insert(ids.LOCAL)),
        Case(enqueue=None, dispatch=Insert(times=32)),
        Case(init_task=-1, fork=-1, disallow=True, without=frozenset(["init_task"])),
        Case(select_cpu=99),
        Case(select=Insert(8)),
        Case(pinned=None, select_cpu=1),
        Case(pinned=None, select=Insert(ids.LOCAL), enqueue=Insert(8)),
        Case(pinned=None, enqueue=Insert(ids.LOCAL_ON | 0)),
        Case(move=8, without=frozenset(["dispatch"])),
        Case(pinned=None, select_cpu=99, without=frozenset(["select_cpu"])),
        Case(cgroup_init=-1, without=frozenset(["cgroup_init"])),
    ],
    ids=str,
)
def test_what_is_taken(case: Case) -> None:
    assert end(case).allows(Seen())
    assert not end(case).expects


def test_a_callback_that_may_not_sleep() -> None:
    only = end(Case(sleeping=frozenset(["init_task", "enqueue"]), timeout_ms=30_001))
    assert only.load == EINVAL
    assert only.allows(Seen(load=EINVAL))
    assert "bpf_scx_check_member" in only.rule


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(init=-22), "ops.init() failed (-22)"),
        (Case(init=-4095), "ops.init() failed (-4095)"),
        (Case(init=-4096), "ops.init() returned an invalid errno -4096"),
        (Case(init=1), "ops.init() returned an invalid errno 1"),
        (Case(init=1, creates=((ids.GLOBAL, -1),)), "ops.init() failed (-22)"),
        (Case(creates=((7, -1), (7, -1))), "ops.init() failed (-17)"),
        (Case(init=-5, hotplug=1), "ops.init() failed (-5)"),
        (Case(flags=LAST, without=frozenset(["enqueue"])), "SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented"),
        (
            Case(flags=PER_NODE, extra=frozenset(["update_idle"])),
            "SCX_OPS_BUILTIN_IDLE_PER_NODE requires CPU idle selection enabled",
        ),
        (Case(cgroup_init=-5, init_task=-6), "ops.cgroup_init() failed (-5)"),
        (Case(cgroup_init=7), "ops.cgroup_init() failed (7)"),
        (Case(init_task=-5), "ops.init_task() failed (-5) for kworker/0:1[12]"),
        (Case(init_task=5), "ops.init_task() returned an invalid errno 5"),
        (Case(disallow=True), "ops.init_task() set task->scx.disallow for agent[12] during fork"),
        (Case(move=8), "invalid DSQ ID 0x0000000000000008"),
        (Case(move=ids.GLOBAL), "invalid DSQ ID 0x8000000000000001"),
        (Case(enqueue=Insert(8)), "non-existent DSQ 0x8"),
        (Case(enqueue=Insert(ids.BYPASS)), "non-existent DSQ 0x8000000000000003"),
        (Case(enqueue=None, dispatch=Insert(ids.INVALID)), "non-existent DSQ 0x8000000000000000"),
        (Case(enqueue=Insert(ids.LOCAL_ON | 2)), "invalid CPU 2 in SCX_DSQ_LOCAL_ON dispatch verdict"),
        (Case(enqueue=Insert(ids.U64)), "invalid CPU -1 in SCX_DSQ_LOCAL_ON dispatch verdict"),
        (Case(enqueue=Insert(ids.LOCAL_ON)), "SCX_DSQ_LOCAL[_ON] target CPU 0 not allowed for agent[12]"),
        (Case(enqueue=Insert(ids.GLOBAL, vtime=0)), "cannot use vtime ordering for built-in DSQs"),
        (Case(enqueue=Insert(8, vtime=0)), "non-existent DSQ 0x8"),
        (Case(enqueue=Insert(8, flags=1 << 57)), "invalid enq_flags 0x200000000000009"),
        (Case(enqueue=Insert(flags=IMMED)), "SCX_ENQ_IMMED on a non-local DSQ 0x8000000000000001"),
        (Case(enqueue=Insert(8, times=2)), "agent[12] already direct-dispatched"),
        (Case(enqueue=None, dispatch=Insert(8, times=33)), "dispatch buffer overflow"),
        (Case(enqueue=None, dispatch=Insert(times=2), dispatch_max_batch=1), "dispatch buffer overflow"),
        (Case(pinned=None, select_cpu=2), "invalid CPU 2 from ops.select_cpu()"),
        (Case(pinned=None, select_cpu=-1), "invalid CPU -1 from ops.select_cpu()"),
        (Case(pinned=None, select_cpu=-1, select=Insert(8)), "invalid CPU -1 from ops.select_cpu()"),
        (Case(pinned=None, select_cpu=-1, select=Insert(8, times=2)), "agent[12] already direct-dispatched"),
        (Case(pinned=None, select=Insert(8)), "non-existent DSQ 0x8"),
    ],
)
def test_what_ends_it(case: Case, message: str) -> None:
    assert errors(case, message)
    assert not errors(case, message + ".")


def test_a_cpu_came_or_went() -> None:
    message = "expected hotplug seq 5 did not match actual 4"
    assert errors(Case(hotplug=1), message, ExitKind.KERNEL, RESTART_FOR_HOTPLUG)
    assert not end(Case(hotplug=1)).expects, "the kernel makes no report of it"


@pytest.mark.parametrize("answer", [-1, -4095])
def test_fork_has_the_errno_of_init_task(answer: int) -> None:
    assert end(Case(fork=answer)).allows(Seen(fork=answer))


@pytest.mark.parametrize("answer", [1, -4096])
def test_fork_has_eproto_for_what_is_no_errno(answer: int) -> None:
    only = end(Case(fork=answer))
    message = f"ops.init_task() returned an invalid errno {answer}"
    assert only.allows(Seen(fork=-errno.EPROTO, kind=ExitKind.ERROR, message=message))


@pytest.mark.parametrize(
    "case",
    [
        Case(enqueue=Insert(ids.INVALID)),
        Case(enqueue=None),
        replace(USER, move=None),
        replace(USER, without=frozenset(["dispatch"])),
        Case(pinned=None, enqueue=None, select=Insert(ids.INVALID)),
    ],
    ids=str,
)
def test_a_task_that_nobody_runs(case: Case) -> None:
    assert errors(case, "agent[12] failed to run for 30.123s", ExitKind.STALL)
    assert "check_rq_for_timeouts" in end(case).rule


def test_a_short_timeout_may_end_anybody() -> None:
    stays, stalls = ends(Case(timeout_ms=100))
    assert stays.allows(Seen())
    assert stalls.kind is ExitKind.STALL
    assert len(ends(Case(timeout_ms=100, enqueue=Insert(ids.INVALID)))) == 1


@pytest.mark.parametrize(
    "case", [Case(enqueue=Insert(ids.LOCAL, flags=IMMED)), Case(flags=ALWAYS, enqueue=Insert(ids.LOCAL_ON | 1))]
)
def test_a_cpu_may_not_be_free_at_once(case: Case) -> None:
    stays, repeats = ends(case)
    assert stays.allows(Seen())
    said = "SCX_ENQ_REENQ on SCX_DSQ_LOCAL repeated 257 times"
    assert repeats.allows(Seen(kind=ExitKind.ERROR, message=said))


def test_two_callbacks_are_wrong() -> None:
    """ops.dispatch is called whether tasks are there or not: either error may be the first."""
    assert {e.message for e in ends(Case(move=8, enqueue=Insert(9)))} == {
        r"invalid\ DSQ\ ID\ 0x0000000000000008",
        r"non\-existent\ DSQ\ 0x9",
    }


@pytest.mark.parametrize("vtime", [None, 0])
def test_the_local_dsq_of_whichever_cpu_dispatches(vtime: int | None) -> None:
    """A pinned task may not run on the others; on its own CPU the order by virtual time is what is wrong."""
    case = Case(enqueue=None, dispatch=Insert(ids.LOCAL, vtime=vtime))
    own, other = ends(case)
    assert (own.kind is None) == (vtime is None)
    said = "SCX_DSQ_LOCAL[_ON] target CPU 0 not allowed for agent[12]"
    assert other.allows(Seen(kind=ExitKind.ERROR, message=said))
    assert len(ends(replace(case, pinned=None))) == 1
    assert len(ends(case, replace(PLATFORM, possible_cpus=1))) == 1
    assert len(ends(replace(case, dispatch=Insert(ids.LOCAL, vtime=vtime, times=33)))) == 1
    assert len(ends(replace(case, dispatch=Insert(ids.LOCAL, vtime=vtime, flags=1 << 63)))) == 1


def test_a_cpu_that_is_idle_each_time_spares_ops_enqueue() -> None:
    case = Case(pinned=None, without=frozenset(["select_cpu"]), enqueue=Insert(8))
    assert [one.kind for one in ends(case)] == [ExitKind.ERROR, None]
    assert len(ends(replace(case, pinned=1))) == len(ends(replace(case, without=frozenset()))) == 1
    assert len(ends(replace(case, enqueue=Insert()))) == 1
    assert all(one.kind for one in ends(replace(case, move=8))), "that error comes all the same"


def test_no_verdict_leaves_the_flags() -> None:
    case = Case(pinned=None, select=Insert(ids.INVALID, flags=1))
    assert end(case).warns
    assert not end(replace(case, select=Insert(ids.INVALID))).warns
    assert not end(replace(case, without=frozenset(["enqueue"]))).warns
    assert end(replace(case, select=Insert(ids.INVALID, vtime=0))).warns, "SCX_ENQ_DSQ_PRIQ is a flag as well"


@pytest.mark.parametrize(
    ("case", "warns"),
    [
        (Case(enqueue=Insert(ids.LOCAL_ON | 2, flags=IMMED)), True),
        (Case(flags=SWITCH_PARTIAL | ALWAYS, enqueue=None, dispatch=Insert(ids.LOCAL_ON | ids.U32)), True),
        (Case(pinned=None, select=Insert(ids.LOCAL_ON | 2, flags=IMMED)), True),
        (Case(enqueue=Insert(ids.LOCAL_ON | 2)), False),
        (Case(enqueue=Insert(8, flags=1)), False),
    ],
)
def test_the_global_dsq_does_not_take_a_task_to_run_at_once(case: Case, warns: bool) -> None:
    only = end(case)
    assert only.kind is ExitKind.ERROR and only.warns == (IMMED_WARNS if warns else ())


def test_a_kernel_without_cgroups_calls_no_cgroup_init() -> None:
    assert end(Case(cgroup_init=-5), replace(PLATFORM, members=frozenset())).allows(Seen())


def test_what_is_an_errno() -> None:
    assert [error_of(answer) for answer in (0, 1, -1, -4095, -4096)] == [False, False, True, True, False]


def test_how_ends_are_told() -> None:
    assert str(Case()) == "nothing out of the way"
    assert str(Case(init=-1, without=frozenset(["enqueue"]))) == "without enqueue; init -1"
    assert str(Insert(7, 1, 2, 3, 2)) == "0x7, slice 0x1, vtime 0x2, flags 0x3, 2 times"
    assert str(Seen(attach=-7)) == "attach answered -E2BIG"
    assert str(end(Case(timeout_ms=30_001))) == "attach answers -E2BIG"
    assert str(Seen(fork=-1)) == "fork answered -EPERM, the scheduler stayed"
    assert str(Seen(kind="K", code=1, message="m")) == "the scheduler exited with K, code 0x1: 'm'"
