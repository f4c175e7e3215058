# SPDX-License-Identifier: GPL-2.0-only
"""The moves of a search, as data, and how sequences of them are drawn.

A sequence is a tuple of records.Operation whose verbs are the names below, and nothing else than plain numbers and
lists: all that a replay needs. Moves do not depend on each other, so that any part of a sequence is a sequence: what
cannot be done where it stands (a detach with nothing attached) is left out when it is played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.strategies import SearchStrategy

from harness.core.records import Fault, Operation
from sched_ext.dsq import CREATE
from sched_ext.model import ids
from sched_ext.operations import ENABLER
from sched_ext.search import subs
from sched_ext.search.cases import cases
from sched_ext.search.draw import made as _made
from sched_ext.search.draw import often

Moves = tuple[Operation, ...]
Choices = tuple[bool | int | str | float | bytes, ...]

MOST = 30
"""Moves of one sequence."""

MOST_LISTED = 6
"""DSQs that ops.init creates from a list; bpf_progs/sched_ext/dsq_listed.bpf.c has room for some more."""

MOST_TASKS = 6
"""Tasks that are held at a time."""

FEW = tuple(range(8))
"""Few ids, so that they collide."""

EDGES = (0x7FFF_FFFF, 1 << 32, (1 << 62) - 1, ids.LOCAL_ON_FLAG | 5, ids.BUILTIN - 1)
"""Ids at the edges of what a user may have: bit 62 alone is one of them."""

CPUS = (0, 1, 2, 8, 63, 256, 0x7FFF_FFFF, ids.U32)
"""CPUs of local DSQs, of which the last ones are possible nowhere."""

OTHERS = (ids.INVALID, ids.GLOBAL, ids.LOCAL, ids.BYPASS, ids.BUILTIN | 1 << 32, *(ids.LOCAL_ON | cpu for cpu in CPUS))
"""Built-in ids, which no user may have."""

NODES = (-1, 0, 1, 2, 999, -2, -(1 << 31), (1 << 31) - 1)

COUNTS = (1, 2, 47, 48, 49, 50, 95, 96, 97, 193, 200)
"""Numbers of DSQs on both sides of where the hash grows and shrinks: three quarters and three tenths of a power of two
(include/linux/rhashtable.h: rht_grow_above_75, rht_shrink_below_30)."""

RANGE = 1 << 20
"""Where the ids of many at once begin."""

WRAP = ids.U64 - 7
"""Virtual times begin here and wrap."""

KINDS = ("spin", "sleep", "yield", "fork", "cgroup")


def move(verb: str, fault: Fault | None = None, **args: Any) -> Operation:
    """One move."""
    return Operation(verb, args, fault)


# --- how they are drawn -------------------------------------------------------------------

_few, _edges, _others = (st.sampled_from(choice) for choice in (FEW, EDGES, OTHERS))
_ids = often(_few, _few, _few, _edges, _others)
_nodes = often(st.just(-1), st.just(-1), st.sampled_from(NODES))
_users = often(_few, _few, _few, _edges)
_created = st.tuples(often(*[_few] * 6, _ids), often(*[st.just(-1)] * 6, _nodes)).map(list)
_lists = st.lists(_created, max_size=MOST_LISTED)
_counts = st.sampled_from(COUNTS)


def failing_create(nth: int) -> Fault:
    """The n-th allocation of a create fails."""
    return Fault(nth=nth, within=CREATE)


def failing_attach(nth: int) -> Fault:
    """The n-th allocation that the enabling kthread makes fails."""
    return Fault(nth=nth, task=ENABLER)


_create = _made("create", id=_ids, node=_nodes)
_create_failing = st.builds(
    lambda dsq_id, nth: move("create", failing_create(nth), id=dsq_id, node=-1), _users, st.integers(1, 4)
)
_destroy = _made("destroy", id=_ids)
_ask = _made("nr_queued", id=_ids)
_attach = _made("attach", creates=_lists)
_attach_failing = st.builds(
    lambda creates, nth: move("attach", failing_attach(nth), creates=creates), _lists, st.integers(1, 40)
)
_detach = _made("detach", which=st.integers(0, 2))
_check = _made("check_live")

LIFE = (
    *[_create] * 8,
    *[_destroy] * 6,
    *[_ask] * 4,
    *[_check] * 4,
    *[_attach, _detach, _create_failing] * 2,
    _made("create_range", start=st.integers(0, 60), count=_counts, node=_nodes),
    _made("destroy_range", start=st.integers(0, 60), count=_counts),
    *[_made("work", kind=st.sampled_from(KINDS), tasks=st.integers(1, 2))] * 2,
    st.one_of(_made("attach_many", count=_counts, node=_nodes), _attach_failing, _made("turns"), _made("rest")),
)
"""Moves of the life of DSQs and schedulers; what is there more than once is drawn more often."""

_offsets = st.integers(0, 15).map(lambda offset: (WRAP + offset) & ids.U64)
_hold = _made("hold", vtimes=st.one_of(st.just([]), st.lists(_offsets, min_size=1, max_size=6)))
_number = st.integers(1, 3)

TASKS = (
    _made("arrive", tasks=_number),
    _made("arrive", tasks=_number),
    _made("release", tasks=_number),
    _made("release", tasks=_number),
    _made("reenqueue"),
    _made("reenqueue"),
    _made("look"),
    _made("regroup", tasks=_number),
    _create,
    _destroy,
    _ask,
    _check,
    st.one_of(_hold, _made("destroy_held"), _made("intrude"), _made("let_go")),
)
"""Moves of tasks that are held on one DSQ."""

_case = cases()

SCHEDULERS = (st.none(), *[_case] * 3, _detach, _detach, _attach, _create, _check)
"""Moves of schedulers one after the other, which set and answer what is drawn, DSQs and others between them; or the
end, for each takes as long as many of the others."""


class Drawn(NamedTuple):
    """A sequence, whether its first move is the beginning that was drawn, and at which of Hypothesis's choices each
    draw began and the last one ended."""

    moves: Moves
    begun: bool
    cuts: tuple[int, ...]

    def part(self, choices: Choices, numbers: Sequence[int]) -> tuple[Moves, Choices]:
        """Some of the moves, and the choices that draw just these. The first alternative of each draw is nothing."""
        first = 0 if self.begun else 1
        spans = [choices[self.cuts[number + first] : self.cuts[number + first + 1]] for number in numbers]
        begin = () if self.begun and 0 in numbers else (0,)
        chosen = (*choices[: self.cuts[0]], *begin, *(choice for span in spans for choice in span), 0)
        return tuple(self.moves[number] for number in numbers), chosen


@st.composite
def _story(draw: Callable[[SearchStrategy[Any]], Any], begin: SearchStrategy[Any], moves: SearchStrategy[Any]) -> Drawn:
    """A beginning, which may be nothing, and moves until none is drawn."""
    data = current_build_context().data
    cuts = [len(data.choices)]
    drawn: list[Operation | None] = []
    while len(drawn) < MOST and (len(drawn) < 2 or drawn[-1] is not None):
        drawn.append(draw(moves if drawn else begin))
        cuts.append(len(data.choices))
    return Drawn(tuple(one for one in drawn if one is not None), drawn[0] is not None, tuple(cuts))


def sequences() -> SearchStrategy[Drawn]:
    """Sequences of moves, about 15 long: of DSQs, of tasks on one, of sub-schedulers, of schedulers by themselves."""
    life = _story(often(st.none(), *[_attach] * 4), often(st.none(), *LIFE))
    tasks = _story(often(st.none(), *[_hold] * 5), often(st.none(), *TASKS))
    below = _story(often(st.none(), *[subs.BEGIN] * 9), often(st.none(), *subs.MOVES))
    alone = _story(often(st.none(), *[_case] * 4), often(st.none(), *SCHEDULERS))
    return often(*[life] * 6, tasks, tasks, below, below, alone)  # the first takes a fifth of the time, or less


UNSAMPLED = frozenset({"hold", "work", "scheduler", *subs.VERBS})
"""Not for the leak batch: tasks, which it would wait for without need, and cgroups, which are there when it looks."""

# --- what can be done ---------------------------------------------------------------------

NEEDS = {
    "detach": "attach",
    "arrive": "hold",
    "release": "arrive",
    "reenqueue": "hold",
    "look": "hold",
    "regroup": "arrive",
    "destroy_held": "arrive",
    "intrude": "arrive",
    "let_go": "hold",
    "turns": "work",
    "rest": "work",
    **subs.NEEDS,
}
"""Moves that must precede a move, which otherwise has no effect."""

_HELD = ("hold", "arrive")
ENDS = {"destroy_held": _HELD, "intrude": _HELD, "let_go": _HELD, "rest": ("work",)}
"""The moves whose effect a move ends."""


def possible(moves: Moves) -> Moves:
    """The moves without those that have no effect according to the sequence itself."""
    done: set[str] = set()
    left = []
    for one in moves:
        if one.verb in NEEDS and NEEDS[one.verb] not in done:
            continue
        left.append(one)
        done -= set(ENDS.get(one.verb, ()))
        done.add("attach" if one.verb == "attach_many" else one.verb)
    return tuple(left)
