# SPDX-License-Identifier: GPL-2.0-only
"""The move that is a whole scheduler: what it sets and answers (a Case), how that is drawn, and as plain data.

A case is drawn as a few changes of a scheduler that is right, so that shrinking leaves those out one by one; then what
the rules do not know together is taken back. Which ends it may have depends on the guest: see tests/kernel/sched_ext/model/ops.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from harness.core.records import Operation
from harness.guest.agent import AgentError
from harness.session.context import TestContext
from sched_ext.features import NO_PRIVATE_STACK
from sched_ext.fields import Fields
from sched_ext.model import ids
from sched_ext.model.case import (
    CALLBACKS,
    ERRORS,
    INT_MAX,
    INT_MIN,
    SLICE_DFL,
    SLICE_INF,
    SWITCH_PARTIAL,
    Case,
    ExitKind,
    Insert,
)
from sched_ext.search.draw import often

VERB = "scheduler"

Changes = dict[str, Any]
"""Fields of a Case that differ from one that is right."""

MOST_CHANGES = 4
MOST_CREATED = 6
"""bpf_progs/sched_ext/dsq_fields.bpf.c has room for some more."""

TIMEOUTS = (30_001, 29_999, 0, 15_000, INT_MAX, ids.U32)
"""Milliseconds on both sides of SCX_WATCHDOG_MAX_TIMEOUT; none is so short that tasks may stall by it (CALM_MS)."""

BATCHES = (1, 2, 512, 2048, INT_MAX, INT_MAX + 1, ids.U32)
"""None between those that can be allocated surely and never."""

DUMPS = (1, 4096, 1 << 20, ids.U32)
"""Bytes; with INT_MAX it is up to the memory there is."""

NAMES = ("", "0", "a/b", "a b", "a.b_C", "x" * 127, "x" * 128)

BITS = (0, 1, 2, *range(4, 17), 31, 32, 55, 56, 62, 63)
"""Bits of ops.flags beside SCX_OPS_SWITCH_PARTIAL, without which tasks of all the system would come."""

ENQ_FLAGS = (1 << 4, 1 << 32, 1 << 33, 1 << 55, 1 << 56, 1 << 63)
"""SCX_ENQ_HEAD, SCX_ENQ_PREEMPT, SCX_ENQ_IMMED, and around the kernel's own (enum scx_enq_flags)."""

SLICES = (SLICE_DFL, 0, 1, SLICE_INF - 1, SLICE_INF)
VTIMES = (0, 1, 1 << 63, ids.U64 - 1, ids.U64)
USERS = (7, 0, 1 << 32, ids.LOCAL_ON_FLAG | 5, ids.BUILTIN - 1)
CPUS = (0, 1, 63, INT_MAX, -1, INT_MIN)

TARGETS = (
    ids.GLOBAL,
    ids.LOCAL,
    ids.LOCAL_ON,
    ids.LOCAL_ON | 1,
    ids.LOCAL_ON | INT_MAX,
    ids.LOCAL_ON | ids.U32,
    8,
    0,
    ids.BUILTIN - 1,
    ids.BYPASS,
    ids.BUILTIN | 9,
    ids.U64,
)
"""DSQs without one of ops.init's; the first three take tasks."""

SLEEPING = ("init_task", "cpu_online", "enqueue", "dispatch", "exit_task")
"""Callbacks that dsq_fields.bpf.c also has as sleepable programs."""


# --- as data ------------------------------------------------------------------------------


def encode(case: Case) -> Operation:
    """The move; its arguments are the fields that differ from Case(), sets and insertions as lists."""
    usual = Case()
    args = {
        one.name: _plain(getattr(case, one.name))
        for one in fields(Case)
        if getattr(case, one.name) != getattr(usual, one.name)
    }
    return Operation(VERB, args)


def _plain(value: Any) -> Any:
    match value:
        case frozenset():
            return sorted(value)
        case Insert():
            return list(astuple(value))
        case tuple():
            return [list(pair) for pair in value]
    return value


def decode(args: Mapping[str, Any]) -> Case:
    """The case of a move."""
    return Case(**{name: _typed(name, value) for name, value in args.items()})


def _typed(name: str, value: Any) -> Any:
    match name:
        case "without" | "sleeping" | "extra":
            return frozenset(value)
        case "creates":
            return tuple((dsq_id, node) for dsq_id, node in value)
        case "select" | "enqueue" | "dispatch" if value is not None:
            return Insert(*value)
    return value


# --- how cases are drawn ------------------------------------------------------------------


def _one(name: str, values: SearchStrategy[Any]) -> SearchStrategy[Changes]:
    return values.map(lambda value: {name: value})


def _inserts(dsqs: Sequence[int]) -> SearchStrategy[Insert]:
    """An insertion; mostly one of its parts is unusual."""
    slices = st.sampled_from(SLICES)
    vtimes = st.sampled_from((*[None] * len(VTIMES), *VTIMES))
    flags = st.sampled_from((*[0] * 2 * len(ENQ_FLAGS), *ENQ_FLAGS))
    times = st.sampled_from((*[1] * 8, 2, 32, 33))
    return st.builds(Insert, st.sampled_from(dsqs), slices, vtimes, flags, times)


def _through(insert: Insert, node: int, later: bool) -> Changes:
    """Tasks go through a user DSQ, by ops.enqueue or only by ops.dispatch."""
    place: Changes = {"enqueue": None, "dispatch": insert} if later else {"enqueue": insert}
    return {"creates": ((insert.dsq_id, node),), "move": insert.dsq_id, **place}


_errors = st.sampled_from(ERRORS)
_nodes = st.sampled_from((*[-1] * 12, 0, 1, 999, -2, INT_MIN, INT_MAX))
_created = st.tuples(st.sampled_from((*USERS, *USERS, ids.INVALID, ids.GLOBAL, ids.LOCAL_ON)), _nodes)
_names = st.sampled_from(CALLBACKS)

CHANGES = (
    st.just({}),
    _one("timeout_ms", st.sampled_from(TIMEOUTS)),
    _one("dispatch_max_batch", st.sampled_from(BATCHES)),
    _one("exit_dump_len", st.sampled_from(DUMPS)),
    _one("hotplug", st.sampled_from((0, 1, INT_MAX))),
    _one("name", st.sampled_from(NAMES)),
    *[_one("flags", st.sampled_from(BITS).map(lambda bit: SWITCH_PARTIAL | 1 << bit))] * 2,
    _one("without", st.frozensets(_names, min_size=1, max_size=3)),
    _one("sleeping", st.sampled_from(SLEEPING).map(lambda name: frozenset([name]))),
    _one("extra", st.just(frozenset(["update_idle"]))),
    _one("creates", st.lists(_created, min_size=1, max_size=MOST_CREATED).map(tuple)),
    _one("init", _errors),
    _one("cgroup_init", _errors),
    st.builds(lambda error, nth: {"init_task": error, "nth": nth}, _errors, st.integers(1, 19)),
    _one("fork", _errors),
    _one("disallow", st.just(True)),
    *[_one("pinned", st.none())] * 2,
    *[_one("enqueue", _inserts(TARGETS))] * 3,
    *[st.builds(_through, _inserts(USERS), st.sampled_from((-1, -1, 0)), st.booleans())] * 4,
    *[_inserts(TARGETS).map(lambda insert: {"enqueue": None, "dispatch": insert})] * 3,
    st.builds(lambda insert: {"select": insert, "pinned": None}, _inserts((*TARGETS[:4], ids.INVALID, 8))),
    st.builds(lambda cpu: {"select_cpu": cpu, "pinned": None}, st.sampled_from(CPUS)),
    _one("move", st.sampled_from((7, *TARGETS, ids.INVALID))),
)
"""The changes of a case, first of all none; repeated ones are drawn more often."""


def merged(changes: Sequence[Changes]) -> Case:
    """Merge several changes into a case: flags and sets add up, otherwise the last one counts."""
    total: Changes = {}
    for change in changes:
        for name, value in change.items():
            adds = name == "flags" or isinstance(value, frozenset)
            total[name] = total[name] | value if adds and name in total else value
    return known(Case(**total))


def known(case: Case) -> Case:
    """The case without combinations that the rules do not cover."""
    if case.fork or case.disallow:  # whether tasks come before that, or an error of theirs, is not said
        case = replace(case, select=None, select_cpu=None, enqueue=Insert(), dispatch=None, move=None)
    if case.pinned is not None or case.enqueue is None:  # a pinned task selects no CPU
        case = replace(case, select=None, select_cpu=None)
    if case.select or case.select_cpu is not None:
        # Those whose slice ends come to ops.enqueue as well.
        case = replace(case, enqueue=Insert())
    if case.init_task or case.fork or case.disallow:  # the one that sleeps answers 0
        case = replace(case, sleeping=case.sleeping - {"init_task"})
    return case


def cases() -> SearchStrategy[Operation]:
    """Moves, each a case; the simplest changes nothing."""
    return st.lists(often(*CHANGES), max_size=MOST_CHANGES).map(lambda changes: encode(merged(changes)))


# --- how they are played ------------------------------------------------------------------


class Cases:
    """Cases on one guest on which no other scheduler is."""

    def __init__(self, context: TestContext) -> None:
        self._fields = Fields(context)

    def case(self, one: Operation) -> Case | None:
        """A move on this machine; None where only the watchdog would end it (tests/kernel/sched_ext/test_fields.py waits)."""
        case = decode(one.args)
        if case.pinned is not None:
            case = replace(case, pinned=self._fields.cpu)
        stalls = any(end.kind is ExitKind.STALL for end in self._fields.rules.ends(case))
        return None if stalls else case

    def run(self, case: Case) -> str | None:
        """Run it; returns its end in words, or None where this machine cannot have such a scheduler."""
        try:
            return str(self._fields.run(case))
        except AgentError as error:
            if NO_PRIVATE_STACK in str(error):
                return None
            raise
