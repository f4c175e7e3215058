# SPDX-License-Identifier: GPL-2.0-only
"""One test for each rule of schedulers that come and go with their DSQs, and of who finds them."""

from __future__ import annotations

import errno

import pytest
from sched_ext.model import ids
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.model.trace import FaultAt

from harness.core.errors import HarnessError, UsageError
from tests.unit.suites.sched_ext.model.loaded import loaded, made, model, values

# --- attach, detach, gone -----------------------------------------------------------------


def test_attach_runs_ops_init() -> None:
    m = loaded(1, 2, 3)
    assert m.live() == {1, 2, 3}


def test_second_attach_is_busy() -> None:
    m = loaded(1)
    answer = m.attach("b", [(2, -1)])
    assert values(answer) == {-errno.EBUSY}
    assert m.observe(answer, -errno.EBUSY) is None
    assert m.live() == {1}
    assert values(m.attach("b", fault="any")) == {-errno.EBUSY, -errno.ENOMEM}


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_percpu_fault_before_ops_init_is_attachs_own_error(nth: int) -> None:
    m = model()
    answer = m.attach("a", [(1, -1)], FaultAt.PERCPU, nth)
    assert values(answer) == {-errno.ENOMEM}
    assert m.observe(answer, -errno.ENOMEM) is None
    assert m.percpu_objects() == 0 and m.live() == frozenset()


@pytest.mark.parametrize("nth", [4, 5])
def test_a_percpu_fault_in_ops_init_is_in_the_exit_info(nth: int) -> None:
    m = model()
    answer = m.attach("a", [(1, -1), (2, -1)], FaultAt.PERCPU, nth)
    assert values(answer) == {0} and answer.exits == {-errno.ENOMEM}
    assert m.observe(answer, 0, exit_error=-errno.ENOMEM) is None
    assert m.live() == frozenset() and m.root is None
    assert m.percpu_objects() == 3 + nth - 4, "what was made before it is held until the link is gone"
    assert m.observe(m.detach("a"), 0) is None
    assert m.percpu_objects() == 0


def test_a_scheduler_that_stays_though_its_init_failed_is_a_disagreement() -> None:
    m = model()
    found = m.observe(m.attach("a", [(1, -1)], FaultAt.PERCPU, 4), 0, exit_error=None)
    assert found is not None
    assert "attach(a, 1 DSQ in ops.init) answered 0" in found.text
    assert "the model allows only 0 (then the scheduler exits with -ENOMEM)" in found.text
    assert m.root is None


@pytest.mark.parametrize(
    ("creates", "error", "held"),
    [
        ([(1, -1), (1, -1)], -errno.EEXIST, 4),
        ([(1, 9)], -errno.EINVAL, 3),
        ([(2, 0), (ids.LOCAL, 0)], -errno.EINVAL, 4),
    ],
)
def test_ops_init_fails_by_itself(creates: list[tuple[int, int]], error: int, held: int) -> None:
    m = model()
    answer = m.attach("a", creates)
    assert values(answer) == {0} and answer.exits == {error}
    assert m.observe(answer, 0, exit_error=error) is None
    assert m.percpu_objects() == held
    assert m.user_objects() == held - 3, "without one global DSQ and two bypass DSQs"


def test_a_fault_somewhere_in_attach() -> None:
    m = model()
    answer = m.attach("a", [(1, -1)], fault="any")
    assert values(answer) == {0, -errno.ENOMEM} and answer.exits == {None, -errno.ENOMEM}
    assert m.observe(answer, 0, exit_error=-errno.ENOMEM) is None
    for asked in (m.percpu_objects, m.user_objects):
        with pytest.raises(HarnessError, match="unknown"):
            asked()
    m.associate("a")
    assert values(m.create(1, -1)) == {0, -errno.EEXIST}
    assert m.observe(m.nr_queued(1), 0) is None
    assert values(m.create(1, -1)) == {-errno.EEXIST}
    assert m.percpu_objects() == 4


@pytest.mark.parametrize("got", [0, -errno.EEXIST])
def test_a_create_settles_what_a_failed_init_left(got: int) -> None:
    m = model()
    m.observe(m.attach("a", [(1, -1)], fault=FaultAt.DSQ), 0, exit_error=-errno.ENOMEM)
    m.associate("a")
    assert m.observe(m.create(1, -1), got) is None
    assert values(m.create(1, -1)) == {-errno.EEXIST}


def test_attach_that_survives_its_fault() -> None:
    m = model()
    assert m.observe(m.attach("a", [(1, -1)], fault="any"), 0) is None
    assert m.live() == {1} and m.percpu_objects() == 4


def test_detach_takes_all_dsqs_along() -> None:
    m = loaded(1, 2)
    assert m.observe(m.detach("a"), 0) is None
    assert m.live() == frozenset()
    assert m.percpu_objects() == 0
    assert values(m.create(1, -1)) == {-errno.ENODEV}
    assert m.observe(m.attach("a"), 0) is None
    assert m.live() == frozenset(), "a new scheduler starts empty"
    with pytest.raises(UsageError, match="not attached"):
        m.detach("b")


def test_a_scheduler_that_exits_unprovoked_is_a_disagreement() -> None:
    m = loaded(1)
    found = m.gone()
    assert found is not None and "scheduler a exited" in found.text
    assert m.live() == frozenset()
    with pytest.raises(UsageError, match="no scheduler runs"):
        m.gone()


def test_an_exited_scheduler_holds_its_memory_until_detach() -> None:
    m = loaded(1, 2)
    assert m.gone(expected=True) is None
    assert m.percpu_objects() == 5
    assert values(m.create(3, -1)) == {-errno.ENODEV}
    assert values(m.attach("a")) == {-errno.EBUSY}
    assert m.observe(m.attach("b", [(1, -1)]), 0) is None
    assert m.live() == {1} and m.percpu_objects() == 5 + 4
    assert m.observe(m.detach("a"), 0) is None
    assert m.percpu_objects() == 4


def test_percpu_objects_by_features() -> None:
    assert loaded(1, 2).percpu_objects() == 2 + 1 + 2
    assert loaded(1, 2).percpu_objects(boot=True) == 2 + 1 + 2 + 2
    assert loaded(1, 2, bypass_dsqs=False).percpu_objects() == 2 + 1
    assert loaded(1, 2, percpu_data=False).percpu_objects(boot=True) == 0
    m = DsqModel(Features(), frozenset({0, 1}), 8)
    assert m.observe(m.attach("a"), 0) is None
    assert m.percpu_objects() == 10


# --- who finds the scheduler --------------------------------------------------------------


def test_with_sub_attach_only_associated_programs_find_it() -> None:
    m = model()
    assert m.observe(m.attach("a", [(1, -1)], sub_attach=True), 0) is None
    assert values(m.create(2, -1)) == {-errno.ENODEV}
    assert values(m.nr_queued(1)) == {-errno.ENODEV}
    m.observe(m.destroy(1), 0)
    assert m.live() == {1}
    m.associate("a")
    assert values(m.create(2, -1)) == {0}
    m.observe(m.destroy(1), 0)
    assert m.live() == frozenset()


def test_an_associated_program_reaches_its_scheduler_until_detach() -> None:
    m = loaded(1)
    m.associate("a")
    assert m.gone(expected=True) is None
    assert values(m.create(1, -1)) == {-errno.EEXIST}
    made(m, 2)
    assert m.percpu_objects() == 3 + 2
    assert m.live() == frozenset(), "it is not the running scheduler's"
    m.observe(m.detach("a"), 0)
    assert values(m.create(1, -1)) == {-errno.ENODEV}


def test_association_means_nothing_without_sub_schedulers() -> None:
    m = loaded(1, sub_scheds=False)
    m.associate("other")
    assert values(m.create(1, -1)) == {-errno.EEXIST}
    assert m.gone(expected=True) is None
    assert values(m.create(1, -1)) == {-errno.ENODEV}


# --- older kernels ------------------------------------------------------------------------

OLD = {"percpu_data": False, "bypass_dsqs": False, "sub_scheds": False, "global_hash": True}


def test_a_global_table_needs_no_scheduler_and_is_emptied_when_one_exits() -> None:
    m = model(**OLD)
    made(m, 1)
    assert m.live() == {1}
    assert values(m.nr_queued(1)) == {0} and values(m.create(1, -1)) == {-errno.EEXIST}
    answer = m.attach("a", [(1, -1)])
    assert answer.exits == {-errno.EEXIST}, "ops.init meets what was there before"
    assert m.observe(m.attach("a", [(2, -1)]), 0) is None
    assert m.live() == {1, 2}
    assert m.observe(m.detach("a"), 0) is None
    assert m.live() == frozenset()


def test_ids_that_need_not_be_unique() -> None:
    m = model(**OLD, unique_ids=False)
    made(m, 1)
    made(m, 1)
    assert m.live() == {1}
    m.observe(m.destroy(1), 0)
    assert m.live() == {1}
    m.observe(m.destroy(1), 0)
    assert m.live() == frozenset()
    assert loaded(1, 1, unique_ids=False).percpu_objects() == 3 + 2


def test_of_dsqs_with_one_id_the_newest_is_found() -> None:
    m = loaded(1, unique_ids=False)
    m.enqueue(1, task=100)
    made(m, 1)
    assert values(m.nr_queued(1)) == {0}
    m.observe(m.destroy(1), 0)
    assert values(m.nr_queued(1)) == {1}
