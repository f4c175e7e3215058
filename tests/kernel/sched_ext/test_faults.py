# SPDX-License-Identifier: GPL-2.0-only
"""Every allocation of every operation on DSQs fails once, and each operation either says so or is unharmed."""

from __future__ import annotations

import errno

import pytest

from harness.core.errors import Inconclusive
from harness.faults.actions import Action
from harness.faults.sweep import Faults
from harness.session.context import TestContext
from harness.suite.needs import need
from sched_ext.dsq import CREATE, Dsqs
from sched_ext.model.state import Features
from sched_ext.operations import FIRST, action

pytestmark = pytest.mark.sequential

PERCPU = ("pcpu_alloc_noprof",)
OWN_KTHREAD = "enabling in a kthread of its own"

NOTHING_TO_FAIL = ("destroy",)
"""Operations that allocate nothing themselves."""

REPORTED = (r"failed \(-12\)", r"error -12")
"""What the kernel says when enabling fails for want of memory."""


def test_create(dsq: Dsqs, faults: Faults, context: TestContext, features: Features) -> None:
    """Over many creates: the more DSQs, the more often percpu memory must grow, and fails to."""
    context.must_inject = (*CREATE, *PERCPU) if features.percpu_data else CREATE
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    count = 3000
    summary = dsq.sweep_create(faults, FIRST, ids=count)
    assert summary.injected >= count, "each create has at least one allocation to fail"
    for dsq_id in range(FIRST, FIRST + count):
        dsq.model.observe(dsq.model.create(dsq_id, -1), 0)
    dsq.check_live()


@pytest.mark.parametrize("name", ["create-duplicate", "create-unscheduled", "destroy"])
def test_calls(dsq: Dsqs, faults: Faults, name: str) -> None:
    """A create that is refused, and a destroy, which has nothing to allocate itself."""
    swept(dsq, faults, name)


def test_attach(dsq: Dsqs, faults: Faults, context: TestContext) -> None:
    """In the kthread that enables a scheduler, in the task that asks for it, in the one that forks its helper."""
    context.must_inject = ("scx_alloc_and_add_sched",)
    context.expect(*REPORTED)
    swept(dsq, faults, "attach")
    dsq.attach("dsq_many", [(FIRST, -1)], nr_dsqs=1, first_id=FIRST)
    dsq.check_live()


@pytest.mark.parametrize("name", ["detach", "second-attach", "failing-init"])
def test_schedulers(dsq: Dsqs, faults: Faults, context: TestContext, name: str) -> None:
    """A detach cannot fail; a second scheduler leaves the first alone; ops.init has the word about its own error."""
    context.expect(*REPORTED, r"ops\.init\(\) failed \(-22\)")
    swept(dsq, faults, name)


def test_fork(dsq: Dsqs, faults: Faults, context: TestContext) -> None:
    """ops.init_task creates a DSQ for the child: the fork fails with it."""
    context.must_inject = ("scx_fork", *CREATE)
    swept(dsq, faults, "fork")


def test_cgroup(dsq: Dsqs, faults: Faults, context: TestContext) -> None:
    """ops.cgroup_init creates a DSQ for the cgroup: mkdir fails with it."""
    context.must_inject = CREATE
    swept(dsq, faults, "cgroup-create")


def swept(dsq: Dsqs, faults: Faults, name: str) -> Action:
    """Sweeps an operation in each of its threads, and does it once more without a fault."""
    what = action(name, dsq)
    summary = faults.sweep(what)
    need(summary is not None, OWN_KTHREAD)
    if summary and not summary.injected and name not in NOTHING_TO_FAIL:
        raise Inconclusive(f"{name} was swept, and nothing was made to fail under {', '.join(what.under)}")
    answer = faults.once(what)
    assert answer == what.allowed.fine, f"{name} answers {errno.errorcode.get(-answer, answer)} after its faults"
    return what
