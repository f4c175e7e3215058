# SPDX-License-Identifier: GPL-2.0-only
"""The search over parent and sub-schedulers: its moves, how they are drawn, and their player.

Which kernel is searched changes nothing of what is drawn: one without sub-schedulers leaves these moves out. So a seed,
what failed once, and a replay mean the same everywhere. No tasks are drawn: 7.2 loses them (docs/lab/facts.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hypothesis import strategies as st

from harness.core.records import Operation
from harness.faults.endings import words as ending_words
from harness.guest.guest import BpfObject
from harness.session.context import TestContext
from sched_ext.dsq import STATE, Dsqs
from sched_ext.model import ids
from sched_ext.model.ids import errno_name
from sched_ext.model.sub import within
from sched_ext.search.draw import made, often
from sched_ext.sub import TAKES, TAKES_NONE, Subs

ROOT, A, B, BELOW, NOWHERE = "/", "/a", "/b", "/a/below", "/nowhere"
CGROUPS = (A, B, BELOW)
"""The cgroups at the beginning of a sequence; a scheduler at ROOT is the root."""

NOBODY = -1
"""For operations of a program that is associated with no scheduler."""

MOST_LOADED = 10
"""Schedulers that are loaded at a time; the agent has room for 32 objects."""

LOADS, OBJECTS = "sub-scheduler loads", "counts of objects"
"""What time is spent on beside operations."""

# --- how they are drawn -------------------------------------------------------------------

_few = st.integers(0, 7)
_others = st.sampled_from(
    (ids.BUILTIN - 1, ids.BUILTIN, ids.GLOBAL, ids.LOCAL, ids.LOCAL_ON, ids.LOCAL_ON | 8, ids.LOCAL_ON | ids.U32)
)
_ids = often(*[_few] * 5, _others)
_first = often(*[st.integers(0, 3)] * 6, st.sampled_from((ids.BUILTIN - 1, ids.BUILTIN)))
_counts = st.sampled_from((1, 1, 2, 3, 0))
_by = st.sampled_from((0, 1, 2, 3, 0, 1, 2, NOBODY))
_which = st.sampled_from((0, 0, 0, 1, 0, 1, 2))
_at = st.sampled_from((ROOT, A, BELOW, B, A, BELOW, A, BELOW, B, ROOT, NOWHERE))
_takes = st.sampled_from((True, True, True, False))
_errors = st.sampled_from((-13, -16, -4095, 7, -4096))


BEGIN = made("sub_attach", at=st.just(ROOT), takes=st.just(True), first=st.integers(0, 3), count=_counts)
"""A root that takes sub-schedulers."""

_attach = made("sub_attach", at=_at, takes=_takes, first=_first, count=_counts)
_detach = made("sub_detach", which=_which)
_create = made("sub_create", by=_by, id=_ids)

MOVES = (
    _attach,
    _attach,
    _attach,
    _attach,
    _attach,
    _attach,
    _detach,
    _detach,
    _create,
    _create,
    made("sub_destroy", by=_by, id=_ids),
    made("sub_nr_queued", by=_by, id=_ids),
    made("sub_live"),
    made("sub_rmdir", at=st.sampled_from(CGROUPS)),
    made("sub_mkdir", at=st.sampled_from(CGROUPS)),
    made("sub_refuse", at=_at, error=_errors),
    made("sub_again", which=_which),
    made("sub_objects"),
)
"""Moves of schedulers above and below one another; what is there more than once is drawn more often."""

NEEDS = {"sub_detach": "sub_attach", "sub_live": "sub_attach", "sub_again": "sub_attach", "sub_mkdir": "sub_rmdir"}
"""As moves.NEEDS."""

VERBS = frozenset(
    "sub_attach sub_again sub_detach sub_create sub_destroy sub_nr_queued sub_live sub_objects sub_refuse"
    " sub_rmdir sub_mkdir".split()
)

# --- what plays them ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """A scheduler that is loaded: its program, the cgroup that it is for (none: a root) and the id of that one."""

    scheduler: BpfObject
    program: str
    cgroup: str
    cgroup_id: int


class SubMoves:
    """Plays the moves of VERBS on one guest, each by the method of its name."""

    def __init__(self, context: TestContext, dsq: Dsqs, spent: Callable[[str], AbstractContextManager[None]]) -> None:
        features = dsq.model.features
        self._context = context
        self._dsq = dsq
        self._spent = spent
        self._subs = Subs(dsq) if features.sub_scheds and features.cid_form else None
        self._ours: list[Ours] = []
        self._spare: dict[str, Ours] = {}
        """Roots of sequences before, by program: loading one takes longer than all else."""
        self._begun = False

    def do(self, one: Operation) -> str | None:
        """One move; what it answered, or None where it cannot be done."""
        if self._subs is None:
            return None
        if not self._begun:
            self._begun = True
            for path in CGROUPS:
                self._subs.cgroup(path)
        done: str | None = getattr(self, f"_{one.verb}")(self._subs, one)
        return done

    def tidy(self) -> None:
        """Compare the sets of live DSQs, then remove everything, the schedulers in the order of their attach."""
        if self._subs is None or not self._begun:
            return
        self._live(self._subs)
        while linked := self._linked():
            self._detach(self._subs, linked[0])
        while self._ours:
            self._drop(self._subs, self._ours.pop())
        for path in reversed(CGROUPS):
            if self._subs.cgroup_id(path):
                self._subs.rmdir(path)
        self._begun = False

    # --- schedulers ---------------------------------------------------------------------

    def _sub_attach(self, subs: Subs, one: Operation) -> str | None:
        at, program = str(one.args["at"]), TAKES if one.args["takes"] else TAKES_NONE
        first, count = int(one.args["first"]), int(one.args["count"])
        with self._spent(LOADS):
            ours = self._loaded(subs, "" if at == ROOT else at, program)
            if ours is None:
                return None
            ours.scheduler.set("first_id", first)
            ours.scheduler.set("nr_dsqs", count)
            return self._enable(subs, ours, [(first + number, -1) for number in range(count)])

    def _sub_again(self, subs: Subs, one: Operation) -> str | None:
        """The struct_ops map of one that is attached, also one that has exited."""
        linked = self._linked()
        return self._enable(subs, _of(linked, one), []) if linked else None

    def _enable(self, subs: Subs, ours: Ours, creates: list[tuple[int, int]]) -> str:
        asked = (ours.scheduler, ours.cgroup)
        for end in subs.answer(*asked, creates=creates, program=ours.program).exits:
            if end is not None:
                why = rf"(?:ops\.init\(\) failed|parent rejected) \({end}\)"
                self._context.expect(why if end else r"ops\.sub_attach\(\) returned an invalid errno")
        subs.attach(*asked, creates=creates, program=ours.program)
        return ending_words(self._dsq.last)

    def _loaded(self, subs: Subs, cgroup: str, program: str) -> Ours | None:
        """One that is not attached: from before, or loaded now. An arena keeps it from being loaded ahead."""
        cgroup_id = subs.cgroup_id(cgroup)
        linked = self._linked()
        free = [ours for ours in self._ours if ours not in linked]
        for ours in free:
            if (ours.program, ours.cgroup, ours.cgroup_id) == (program, cgroup, cgroup_id):
                return ours
        if len(self._ours) == MOST_LOADED:
            if not free:
                return None
            self._ours.remove(free[0])
            self._drop(subs, free[0])
        spare = None if cgroup else self._spare.pop(program, None)
        self._ours.append(spare or Ours(subs.load(cgroup, program), program, cgroup, cgroup_id))
        return self._ours[-1]

    def _drop(self, subs: Subs, ours: Ours) -> None:
        if ours.cgroup or ours.program in self._spare:
            subs.unload(ours.scheduler)
        else:
            self._spare[ours.program] = ours

    def _linked(self) -> list[Ours]:
        return [ours for ours in self._ours if ours.scheduler.name in self._dsq.model.links]

    def _sub_detach(self, subs: Subs, one: Operation) -> str | None:
        linked = self._linked()
        if not linked:
            return None
        self._detach(subs, _of(linked, one))
        return ""

    def _detach(self, subs: Subs, ours: Ours) -> None:
        subs.check_running()
        subs.detach(ours.scheduler)

    def _sub_refuse(self, subs: Subs, one: Operation) -> str | None:
        """Attach one that its parent refuses, if that takes sub-schedulers."""
        at = str(one.args["at"])
        above = subs.owner(at)
        takers = [ours.scheduler for ours in self._linked() if ours.program == TAKES and ours.scheduler.name == above]
        if at == ROOT or not takers:
            return None
        subs.refuse(takers[0], int(one.args["error"]))
        done = self._sub_attach(subs, Operation("sub_attach", {"at": at, "takes": True, "first": 0, "count": 1}))
        subs.refuse(takers[0], 0)
        return done

    def _ejected(self, subs: Subs) -> None:
        """If the model says that the kernel ejects one, wait for that and compare the message."""
        links = self._dsq.model.links
        for ours in self._linked():
            why = links[ours.scheduler.name].aborting
            if why is None:
                continue
            self._context.expect(re.escape(why))
            subs.ended(ours.scheduler, "going offline" if "going offline" in why else why)
            if self._dsq.model.root is None:
                self._dsq.guest.wait_for(STATE, "disabled")

    # --- cgroups ------------------------------------------------------------------------

    def _sub_rmdir(self, subs: Subs, one: Operation) -> str | None:
        """With those below it."""
        at = str(one.args["at"])
        if not subs.cgroup_id(at):
            return None
        for path in reversed(CGROUPS):
            if within(path, at) and subs.cgroup_id(path):
                subs.rmdir(path)
                self._ejected(subs)
        return ""

    def _sub_mkdir(self, subs: Subs, one: Operation) -> str | None:
        """With those above it."""
        at = str(one.args["at"])
        if subs.cgroup_id(at):
            return None
        for path in CGROUPS:
            if within(at, path) and not subs.cgroup_id(path):
                subs.cgroup(path)
        return ""

    # --- DSQs ---------------------------------------------------------------------------

    def _sub_create(self, subs: Subs, one: Operation) -> str | None:
        ours, dsq_id = self._asking(one), int(one.args["id"])
        with self._spent("operations"):
            return errno_name(subs.create(ours.scheduler, dsq_id) if ours else self._dsq.create(dsq_id))

    def _sub_destroy(self, subs: Subs, one: Operation) -> str | None:
        ours, dsq_id = self._asking(one), int(one.args["id"])
        with self._spent("operations"):
            if ours:
                subs.destroy(ours.scheduler, dsq_id)
            else:
                self._dsq.destroy(dsq_id)
        return ""

    def _sub_nr_queued(self, subs: Subs, one: Operation) -> str | None:
        ours, dsq_id = self._asking(one), int(one.args["id"])
        with self._spent("operations"):
            count = subs.nr_queued(ours.scheduler, dsq_id) if ours else self._dsq.nr_queued(dsq_id)
        self._ejected(subs)
        return errno_name(count)

    def _asking(self, one: Operation) -> Ours | None:
        """The scheduler of the calling program, also one that has exited or was detached; None for no scheduler."""
        by = int(one.args["by"])
        return self._ours[by % len(self._ours)] if self._ours and by != NOBODY else None

    def _sub_live(self, subs: Subs, one: Operation) -> str | None:
        return "" if self._live(subs) else None

    def _live(self, subs: Subs) -> bool:
        """Compares the set of live DSQs of each that runs; whether any does."""
        running = [ours for ours in self._linked() if self._dsq.model.running(ours.scheduler.name)]
        subs.check_running()
        for ours in running:
            with self._spent("operations"):
                self._dsq.check_live(ours.scheduler.name, ours.cgroup_id)
        return bool(running)

    def _sub_objects(self, subs: Subs, one: Operation) -> str | None:
        with self._spent(OBJECTS):
            self._dsq.check_objects()
        return ""


def _of(some: list[Ours], one: Operation) -> Ours:
    """The chosen scheduler; 0 is the newest, so that a root is chosen less often."""
    return some[-1 - int(one.args["which"]) % len(some)]
