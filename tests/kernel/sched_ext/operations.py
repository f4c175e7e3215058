# SPDX-License-Identifier: GPL-2.0-only
"""The operations on DSQs and schedulers that faults are injected into: how each is done and undone, and its answers.

An operation is data: lines of the agent's protocol, so that the guest repeats it by itself, some thousand times a
minute. Functions of the kernel were read in kernel/sched/ext/ext.c (7.2.13) and kernel/sched/ext.c (6.12.107).
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable

from harness.core.errors import UsageError
from harness.core.records import Operation
from harness.faults.actions import Action, steps
from harness.faults.endings import ENOMEM, Allowed, ended_with
from harness.guest.guest import BpfObject
from sched_ext.dsq import CREATE, ENABLE_SECONDS, STATE, Dsqs, dsq_context
from sched_ext.model import ids
from sched_ext.sub import CGROUP_ROOT, Subs

ENABLER = "scx_enable_helper"
"""The kthread that enables schedulers: made by the first one, and kept (scx_enable())."""

HELPER = "sched_ext_helper"
"""The kthread that disables a scheduler: each has its own, from attach on (scx_alloc_and_add_sched())."""

KTHREADD = "kthreadd"
"""Forks every kthread, and so the helper of a scheduler (kernel/kthread.c)."""

FIRST = 1 << 20
"""Ids of the DSQs that operations make."""

DESTROY = ("scx_bpf_destroy_dsq",)
ENABLE = ("scx_root_enable_workfn", "scx_enable", "scx_ops_enable_workfn", "scx_ops_enable")
SUB_ENABLE = ("scx_sub_enable_workfn", "scx_enable", "bpf_scx_reg_cid")
LINK = ("bpf_scx_reg", "link_create", "map_update_elem", "bpf_struct_ops_link_create")
"""Not bpf_struct_ops_map_update_elem(): what it allocates belongs to the map, which lives on when an attach fails."""
DISABLE = ("scx_root_disable", "scx_disable_workfn", "bpf_scx_unreg", "scx_ops_disable_workfn")
FORK = ("scx_fork", "scx_pre_fork", "scx_post_fork")
CGROUP = ("scx_tg_online", "scx_cgroup_init")
KTHREAD = ("kthreadd",)


MADE = "/kharness"
"""The cgroup of the operations that need one, below the hierarchy's root."""


def attaching(dsq: Dsqs, scheduler: BpfObject, off: str = "disabled") -> tuple[Operation, ...]:
    """Attach and wait until the scheduler runs or has ended; `off` is the state in the latter case."""
    settled = {
        "name": scheduler.name,
        "state": STATE,
        "on": "enabled",
        "off": off,
        "ended": "exited",
        "why": "exit_msg",
        "timeout_ms": int(ENABLE_SECONDS * dsq.scale * 1000),
    }
    return (
        Operation("clear", {"name": scheduler.name, "var": "exited"}),
        Operation("attach", {"name": scheduler.name, "what": "ops"}),
        Operation("settled", settled),
    )


def detaching(dsq: Dsqs, scheduler: BpfObject, state: str = "disabled") -> tuple[Operation, ...]:
    """Drop the link, if there is one, and wait for the resulting state."""
    wait = {"path": STATE, "contains": state, "timeout_ms": int(ENABLE_SECONDS * dsq.scale * 1000)}
    return (Operation("detach", {"name": scheduler.name}), Operation("wait-file", wait))


def _call(dsq: Dsqs, program: str, dsq_id: int = FIRST) -> Operation:
    args = {"name": dsq.api.name, "prog": program, "ctx": dsq.api.hex(dsq_context(dsq_id))}
    return Operation("run", args)


def _create(dsq: Dsqs) -> Action:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    return Action("create", steps(_call(dsq, "create")), after=steps(_call(dsq, "destroy")), under=CREATE)


def _duplicate(dsq: Dsqs) -> Action:
    dsq.attach("dsq_many", [(FIRST, -1)], nr_dsqs=1, first_id=FIRST)
    allowed = Allowed(-errno.EEXIST if dsq.model.features.unique_ids else 0)
    return Action("create-duplicate", steps(_call(dsq, "create")), under=CREATE, allowed=allowed)


def _unscheduled(dsq: Dsqs) -> Action:
    allowed = Allowed(0 if dsq.model.features.global_hash else -errno.ENODEV)
    undo = steps(_call(dsq, "destroy"))
    return Action("create-unscheduled", steps(_call(dsq, "create")), after=undo, under=CREATE, allowed=allowed)


def _destroy(dsq: Dsqs) -> Action:
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    destroy = steps(_call(dsq, "destroy"))
    return Action("destroy", destroy, before=steps(_call(dsq, "create")), after=destroy, under=DESTROY)


def _attach(dsq: Dsqs) -> Action:
    scheduler = _known(dsq, "dsq_many", FIRST)
    # -EAGAIN: what copy_process() says when a kthread gets no struct of its own (kernel/fork.c).
    allowed = Allowed(0, frozenset({ENOMEM, ended_with(ENOMEM), -errno.EAGAIN}))
    return Action(
        "attach",
        attaching(dsq, scheduler),
        after=detaching(dsq, scheduler),
        under=(*ENABLE, *LINK, *KTHREAD),
        allowed=allowed,
        threads=(ENABLER, "", KTHREADD),
    )


def _detach(dsq: Dsqs) -> Action:
    scheduler = _known(dsq, "dsq_many", FIRST)
    undo = detaching(dsq, scheduler)
    return Action(
        "detach",
        undo,
        before=attaching(dsq, scheduler),
        after=undo,
        under=DISABLE,
        allowed=Allowed(0, frozenset()),
        threads=(HELPER, ""),
    )


def _second(dsq: Dsqs) -> Action:
    dsq.attach("dsq_many", [(FIRST, -1)], nr_dsqs=1, first_id=FIRST)
    other = dsq.load("dsq_many", nr_dsqs=1, first_id=FIRST + 1)
    return Action(
        "second-attach",
        attaching(dsq, other),
        after=detaching(dsq, other, "enabled"),
        under=(*ENABLE, *LINK),
        allowed=Allowed(-errno.EBUSY),
        threads=(ENABLER, ""),
    )


def _init_fails(dsq: Dsqs) -> Action:
    scheduler = _known(dsq, "dsq_many", ids.GLOBAL)
    allowed = Allowed(ended_with(-errno.EINVAL), frozenset({ENOMEM, ended_with(ENOMEM)}))
    return Action(
        "failing-init",
        attaching(dsq, scheduler),
        after=detaching(dsq, scheduler),
        under=(*ENABLE, *LINK),
        allowed=allowed,
        threads=(ENABLER, ""),
    )


def _sub_attach(dsq: Dsqs) -> Action:
    subs = Subs(dsq)
    subs.cgroup(MADE)
    subs.add()
    scheduler = subs.load(MADE, first=FIRST)
    subs.attach(scheduler, MADE, creates=((FIRST, -1),))  # once, for what the first one makes and keeps
    subs.detach(scheduler)
    allowed = Allowed(0, frozenset({ENOMEM, ended_with(ENOMEM), -errno.EAGAIN}))
    return Action(
        "sub-attach",
        attaching(dsq, scheduler, "enabled"),
        after=detaching(dsq, scheduler, "enabled"),
        under=(*SUB_ENABLE, *LINK, *KTHREAD),
        allowed=allowed,
        threads=(ENABLER, "", KTHREADD),
    )


def _fork(dsq: Dsqs) -> Action:
    dsq.attach("dsq_per_task")
    allowed = Allowed(0, frozenset({ENOMEM, -errno.EAGAIN}))
    # Before its part of a fork some 130 allocations are made, more or less of them each time.
    return Action("fork", (Operation("fork"),), under=FORK, allowed=allowed, within="scx_fork")


def _cgroup(dsq: Dsqs) -> Action:
    dsq.guest.write(f"{CGROUP_ROOT}/cgroup.subtree_control", "+cpu")
    dsq.attach("dsq_per_cgroup")
    where = {"path": f"{CGROUP_ROOT}{MADE}"}
    undo = (Operation("rmdir", where),)
    return Action("cgroup-create", (Operation("mkdir", where),), after=undo, under=CGROUP, within="scx_tg_online")


def _known(dsq: Dsqs, program: str, dsq_id: int) -> BpfObject:
    """A scheduler that was attached and detached once: the kthread that enables is made by the first attach."""
    scheduler = dsq.attach(program, [(dsq_id, -1)], nr_dsqs=1, first_id=dsq_id)
    if dsq.attached(scheduler):
        dsq.detach(scheduler)
    return scheduler


ACTIONS: dict[str, Callable[[Dsqs], Action]] = {
    "create": _create,
    "create-duplicate": _duplicate,
    "create-unscheduled": _unscheduled,
    "destroy": _destroy,
    "attach": _attach,
    "detach": _detach,
    "second-attach": _second,
    "failing-init": _init_fails,
    "sub-attach": _sub_attach,
    "fork": _fork,
    "cgroup-create": _cgroup,
}
"""By the names that fault plans use. Building one brings the guest into the state that it starts from."""


def action(name: str, dsq: Dsqs) -> Action:
    """The operation of this name, the guest target for it. Raises UsageError, with near names, for an unknown one."""
    if name not in ACTIONS:
        near = difflib.get_close_matches(name, ACTIONS, n=3) or list(ACTIONS)
        raise UsageError(f"no operation {name!r}", step=f"use {' or '.join(near)}")
    return ACTIONS[name](dsq)
