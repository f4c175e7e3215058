# SPDX-License-Identifier: GPL-2.0-only
"""What a scheduler may set and answer: at the edges of each type, and drawn from them, compared with the rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from harness.session.context import TestContext
from sched_ext.fields import Fields
from sched_ext.model import ids
from sched_ext.model.case import ERRORS, INT_MAX, INT_MIN, SLICE_INF, SWITCH_PARTIAL, Case, Insert

pytestmark = pytest.mark.sequential

USER = 7
"""The user DSQ that ops.init creates, where a case has one."""

BETWEEN = ids.BUILTIN - 1
"""The highest id that a user DSQ can have."""

U32_MAX = ids.U32
STALLS_MS = 1000
SLICES = (0, 1, SLICE_INF - 1, SLICE_INF)
VTIMES = (0, 1 << 63, ids.U64)


@pytest.fixture
def fields(context: TestContext) -> Fields:
    return Fields(context)


def all_of(fields: Fields, cases: Sequence[Case]) -> None:
    """One after the other, on one guest: what a scheduler left behind would meet the next."""
    for case in cases:
        fields.run(replace(case, pinned=fields.cpu) if case.pinned is not None else case)


def on_user_dsq(insert: Insert) -> Case:
    """Tasks go through a user DSQ."""
    return Case(creates=((USER, -1),), enqueue=insert, move=USER)


def test_members_that_are_refused(fields: Fields) -> None:
    all_of(
        fields,
        [
            Case(timeout_ms=30_001),
            Case(timeout_ms=U32_MAX),
            Case(dispatch_max_batch=INT_MAX + 1),
            Case(flags=ids.U64),
            Case(flags=SWITCH_PARTIAL | 1 << 55),
            Case(flags=SWITCH_PARTIAL | 1 << 56),
            Case(name=""),
            Case(name="x" * 128),
            Case(name="a/b"),
            Case(timeout_ms=30_001, flags=ids.U64),
            Case(sleeping=frozenset(["enqueue"])),
            Case(sleeping=frozenset(["exit_task", "init_task"])),
        ],
    )


def test_members_that_are_taken(fields: Fields) -> None:
    all_of(
        fields,
        [
            Case(timeout_ms=0, exit_dump_len=1, dispatch_max_batch=1, name="x" * 127),
            Case(exit_dump_len=1 << 20, dispatch_max_batch=512, hotplug=0, name="0"),
            Case(flags=fields.platform.all_flags, enqueue=Insert(ids.GLOBAL)),
            Case(without=frozenset(["enqueue", "dispatch", "init_task", "exit_task", "enable", "select_cpu"])),
            Case(sleeping=frozenset(["init_task", "cpu_online"]), extra=frozenset(["update_idle"])),
        ],
    )


def test_members_that_do_not_go_together(fields: Fields) -> None:
    flag = fields.platform.flag
    idle = SWITCH_PARTIAL | flag("SCX_OPS_BUILTIN_IDLE_PER_NODE")
    all_of(
        fields,
        [
            Case(flags=SWITCH_PARTIAL | flag("SCX_OPS_ENQ_LAST"), without=frozenset(["enqueue"])),
            Case(flags=idle, extra=frozenset(["update_idle"])),
            Case(flags=idle | flag("SCX_OPS_KEEP_BUILTIN_IDLE"), extra=frozenset(["update_idle"])),
            Case(hotplug=1),
            Case(init=-5, hotplug=1),
        ],
    )


def test_memory_that_nobody_has(fields: Fields) -> None:
    """The attach fails, with a WARN of the allocator's: the limit of dispatch_max_batch is far above what can be had."""
    all_of(fields, [Case(dispatch_max_batch=INT_MAX), Case(dispatch_max_batch=2048), Case(exit_dump_len=U32_MAX)])


@pytest.mark.parametrize(
    "answering",
    [lambda error: Case(init=error), lambda error: Case(init_task=error, nth=3), lambda error: Case(cgroup_init=error)],
    ids=["init", "init_task", "cgroup_init"],
)
def test_answers_of_callbacks(fields: Fields, answering: Callable[[int], Case]) -> None:
    all_of(fields, [answering(error) for error in ERRORS])


def test_answers_for_a_task_that_is_forked(fields: Fields) -> None:
    all_of(fields, [Case(fork=-1), Case(fork=-4095), Case(fork=-4096), Case(fork=1), Case(disallow=True)])


def test_cpus_that_are_selected(fields: Fields) -> None:
    cpus = (0, fields.platform.possible_cpus - 1, fields.platform.possible_cpus, -1, INT_MAX, INT_MIN)
    taken = [Case(pinned=None, select=Insert(dsq)) for dsq in (ids.LOCAL, ids.LOCAL_ON, ids.GLOBAL)]
    refused = [Insert(USER), Insert(ids.LOCAL, times=2), Insert(ids.LOCAL, flags=1 << 63)]
    all_of(fields, [Case(pinned=None, select_cpu=cpu) for cpu in cpus] + taken)
    all_of(fields, [Case(pinned=None, select=insert) for insert in refused])


def test_no_verdict_from_select_cpu(fields: Fields) -> None:
    """SCX_DSQ_INVALID is no verdict: ops.enqueue is asked, and the flags of the first insertion are still there."""
    all_of(fields, [Case(pinned=None, select=Insert(ids.INVALID, flags=1))])


def test_dsqs_that_take_a_task(fields: Fields) -> None:
    cases = [Case(enqueue=Insert(dsq)) for dsq in (ids.GLOBAL, ids.LOCAL, ids.LOCAL_ON | fields.cpu)]
    cases += [on_user_dsq(Insert(USER, slice=ns)) for ns in SLICES]
    cases += [on_user_dsq(Insert(USER, vtime=vtime)) for vtime in VTIMES]
    cases += [Case(creates=((BETWEEN, -1),), enqueue=Insert(BETWEEN), move=BETWEEN)]
    all_of(fields, cases)


def test_dsqs_that_take_none(fields: Fields) -> None:
    wrong = (8, 0, ids.BYPASS, ids.BUILTIN | 9, ids.LOCAL_ON | ids.U32, ids.LOCAL_ON | 0, ids.U64)
    cases = [Case(enqueue=Insert(dsq)) for dsq in wrong]
    cases += [Case(enqueue=Insert(dsq, vtime=0)) for dsq in (ids.GLOBAL, ids.LOCAL)]
    cases += [Case(enqueue=Insert(ids.LOCAL, flags=1 << 56)), Case(enqueue=Insert(times=2))]
    cases += [Case(timeout_ms=STALLS_MS, enqueue=Insert(ids.INVALID))]
    immediately = fields.platform.flag("SCX_ENQ_IMMED")
    all_of(fields, cases + [Case(enqueue=Insert(flags=immediately))] * bool(immediately))


def test_verdicts_of_dispatch(fields: Fields) -> None:
    verdicts = [Insert(dsq) for dsq in (ids.GLOBAL, ids.LOCAL, ids.INVALID, 8, ids.LOCAL_ON | ids.U32)]
    verdicts += [Insert(times=32), Insert(times=33), Insert(ids.LOCAL, vtime=0)]
    cases = [Case(enqueue=None, dispatch=insert) for insert in verdicts]
    cases += [Case(move=dsq) for dsq in (8, ids.GLOBAL, ids.LOCAL_ON, ids.INVALID)]
    all_of(fields, [*cases, Case(enqueue=None, dispatch=Insert(times=2), dispatch_max_batch=1)])


def drawn(rng: random.Random, fields: Fields) -> Case:
    """A case of several edges; most of them let the scheduler stay."""
    user = rng.random() < 0.5
    insert = Insert(
        USER if user else rng.choice((ids.GLOBAL, ids.LOCAL, ids.LOCAL_ON | fields.cpu, 8, ids.BYPASS)),
        rng.choice(SLICES),
        rng.choice((None, *VTIMES)) if user or rng.random() < 0.1 else None,
        rng.choice((0, 0, 1 << 32 & fields.platform.flag("SCX_ENQ_PREEMPT"), 1 << 56)),
        rng.choice((1, 1, 1, 2)),
    )
    later = rng.random() < 0.4
    flags = [value for name, value in fields.platform.flags.items() if name.startswith("SCX_OPS_") and value < 1 << 16]
    return Case(
        flags=(SWITCH_PARTIAL | rng.choice(flags)) & fields.platform.all_flags,
        timeout_ms=rng.choice((0, 15_000, 30_000, 30_000, 30_001)),
        dispatch_max_batch=rng.choice((0, 1, 2, 512)),
        exit_dump_len=rng.choice((0, 1, 4096)),
        hotplug=rng.choice((None, 0, 0, 1)) if rng.random() < 0.3 else None,
        creates=((USER, rng.choice((-1, 0))),) if user else (),
        init_task=rng.choice(ERRORS) if rng.random() < 0.1 else 0,
        nth=rng.randrange(1, 20),
        enqueue=None if later else insert,
        dispatch=insert if later else None,
        move=USER if user else None,
        pinned=fields.cpu if rng.random() < 0.7 else None,
    )


def test_drawn(fields: Fields, context: TestContext) -> None:
    """The run's seed chooses."""
    rng = random.Random(context.seed)
    all_of(fields, [drawn(rng, fields) for _ in range(8)])
