# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the model's rules of sub-schedulers: who may attach where, what each holds, who goes with whom."""

from __future__ import annotations

import errno

import pytest
from sched_ext.model import ids
from sched_ext.model.dsq import DsqModel
from sched_ext.model.rules import EBUSY, EEXIST, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP
from sched_ext.model.state import Features
from sched_ext.model.sub import MAX_DEPTH, within
from sched_ext.model.trace import FaultAt

NODES, CPUS = 1, 2
OWN = NODES + CPUS
EACCES = -errno.EACCES


@pytest.fixture
def model() -> DsqModel:
    """A root that takes sub-schedulers."""
    model = DsqModel(Features(), frozenset(range(NODES)), CPUS)
    attach(model, "root")
    return model


def attach(
    model: DsqModel, name: str, cgroup: str = "", *, takes: bool = True, got: int = 0, ends: int | None = None
) -> None:
    """What the kernel answered; the model must agree."""
    answer = model.attach(name, ((0, -1),), sub_attach=takes, cgroup=cgroup)
    assert model.observe(answer, got, ends) is None, (answer.legal(), answer.why)


def detach(model: DsqModel, name: str) -> None:
    assert model.observe(model.detach(name), 0) is None


def ask(model: DsqModel, scheduler: str, dsq_id: int, got: int) -> None:
    model.associate(scheduler)
    assert model.observe(model.create(dsq_id, -1), got) is None
    model.associate(None)


def test_ids_are_each_schedulers_own(model: DsqModel) -> None:
    attach(model, "sub", "/a")
    for name in ("root", "sub"):
        ask(model, name, 1, 0)
        ask(model, name, 1, EEXIST)
    assert model.live() == model.live("sub") == {0, 1}
    assert model.percpu_objects() == 2 * OWN + 4
    assert model.observe(model.create(2, -1), ENODEV) is None, "associated with none, where the root takes subs"


@pytest.mark.parametrize(
    ("name", "cgroup", "error", "rule"),
    [
        ("new", "/a", EBUSY, "find_parent_sched"),
        ("new", "/leaf/x", EOPNOTSUPP, "find_parent_sched"),
        ("new", "/deep", EBUSY, "find_parent_sched"),
        ("sub", "/c", EBUSY, "scx_sub_enable_workfn"),
    ],
    ids=["taken", "takes none", "between", "its map is bound"],
)
def test_refusals(model: DsqModel, name: str, cgroup: str, error: int, rule: str) -> None:
    attach(model, "sub", "/a")
    attach(model, "leaf", "/leaf", takes=False)
    attach(model, "deep", "/deep/er")
    answer = model.attach(name, cgroup=cgroup)
    assert answer.values == {error}
    assert answer.rule.endswith(rule)
    assert model.attach(name, cgroup=cgroup, fault=FaultAt.ANY).values == {error, ENOMEM}


def test_without_a_root_or_a_cgroup(model: DsqModel) -> None:
    assert model.attach("sub", cgroup="/a", there=False).values == {ENOENT}
    detach(model, "root")
    assert model.attach("sub", cgroup="/a").values == {ENODEV}
    assert model.attach("sub", cgroup="/a", there=False).values == {ENODEV}, "the root is asked for first"


def test_depth_comes_before_ops_init(model: DsqModel) -> None:
    path = ""
    for number in range(1, MAX_DEPTH):
        path += "/x"
        attach(model, f"sub{number}", path)
    attach(model, "last", f"{path}/x", ends=0)
    assert not model.running("last")
    assert model.live("last") == frozenset()
    assert model.percpu_objects() == (MAX_DEPTH + 1) * OWN + MAX_DEPTH


def test_the_parent_has_the_last_word(model: DsqModel) -> None:
    model.refuse("root", EACCES)
    attach(model, "sub", "/a", ends=EACCES)
    model.refuse("root", 5)
    attach(model, "other", "/a", ends=0)
    model.refuse("root", EACCES)
    answer = model.attach("third", cgroup="/a", refused="SCX_OPS_TID_TO_TASK requires root scheduler to enable it")
    assert answer.exits == {0}, "validate_ops() comes before ops.sub_attach"
    assert model.attach("third", ((1 << 63, -1),), cgroup="/a").exits == {-errno.EINVAL}, "and ops.init before both"


@pytest.mark.parametrize(
    ("nth", "values", "exits"), [(1, {ENOMEM}, None), (OWN, {ENOMEM}, None), (OWN + 1, {0}, ENOMEM)]
)
def test_its_memory_fails_as_a_roots(model: DsqModel, nth: int, values: set[int], exits: int | None) -> None:
    answer = model.attach("sub", ((0, -1),), FaultAt.PERCPU, nth, cgroup="/a")
    assert answer.values == values
    assert exits is None or answer.exits == {exits}


def test_a_root_goes_and_its_memory_stays(model: DsqModel) -> None:
    attach(model, "sub", "/a")
    attach(model, "below", "/a/b")
    detach(model, "root")
    assert not model.running("sub") and not model.running("below")
    ask(model, "below", 7, 0)
    assert model.percpu_objects() == 3 * OWN + 4, "the root's is pinned by those below it"
    attach(model, "root2")
    attach(model, "again", "/a")
    assert model.percpu_objects() == 5 * OWN + 6
    detach(model, "sub")
    assert model.percpu_objects() == 5 * OWN + 6, "below pins both"
    detach(model, "below")
    assert model.percpu_objects() == 2 * OWN + 2


def test_one_in_between_takes_only_those_below_it(model: DsqModel) -> None:
    attach(model, "sub", "/a")
    attach(model, "below", "/a/b")
    attach(model, "aside", "/c")
    detach(model, "sub")
    assert [model.running(name) for name in ("root", "below", "aside")] == [True, False, True]
    attach(model, "again", "/a/b")
    assert model.links["again"].parent is model.root


def test_its_cgroup_goes(model: DsqModel) -> None:
    attach(model, "sub", "/a")
    assert model.gone(sub_scheduler="sub") is not None, "nothing was done to it"
    attach(model, "other", "/b")
    model.cgroup_offline("/b")
    assert model.gone(sub_scheduler="other") is None
    assert model.root and model.root.aborting is None
    ask(model, "other", 1, 0)


def test_paths() -> None:
    assert within("/a/b", "/a") and within("/a", "/a") and within("/a", "/")
    assert not within("/ab", "/a") and not within("/", "/a")


@pytest.mark.parametrize(
    ("cid_form", "number", "says"),
    [(True, 8, "invalid cid 8"), (True, ids.U32, "invalid CPU -1"), (False, 8, "invalid CPU 8"), (True, 1, None)],
)
def test_a_local_dsq_is_named_by_a_cid(cid_form: bool, number: int, says: str | None) -> None:
    model = DsqModel(Features(), frozenset({0}), 2)
    assert model.observe(model.attach("root", sub_attach=True, cid_form=cid_form), 0) is None
    model.associate("root")
    answer = model.nr_queued(ids.LOCAL_ON | number)
    assert answer.aborts == says
    assert model.observe(answer, -errno.ENOENT if says else 0) is None
    assert model.aborting() == says


@pytest.mark.parametrize(("dead", "answer"), [(False, 0), (True, ENODEV)])
def test_programs_of_one_that_has_exited_find_it_until_its_link_is_gone_or_no_more(dead: bool, answer: int) -> None:
    model = DsqModel(Features(dead=dead), frozenset(range(NODES)), CPUS)
    attach(model, "root")
    attach(model, "sub", "/a")
    detach(model, "root")
    ask(model, "sub", 5, answer)
    assert (5 in model.live("sub")) == (not dead)
    held = model.percpu_objects()
    detach(model, "sub")
    ask(model, "sub", 5, ENODEV)
    assert model.percpu_objects() < held, "its memory stayed until then"


def test_one_that_is_being_ejected_is_found_or_not_where_it_may_be_dead(model: DsqModel) -> None:
    attach(model, "sub", "/a")
    model.cgroup_offline("/a")
    model.associate("sub")
    assert ENODEV not in model.create(5, -1).values
    model.features = Features(dead=True)
    assert model.create(5, -1).values >= {0, ENODEV}
