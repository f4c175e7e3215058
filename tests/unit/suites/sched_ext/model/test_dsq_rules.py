# SPDX-License-Identifier: GPL-2.0-only
"""One test for each rule of the DSQ model: what programs ask, tasks on DSQs, and how an answer is compared."""

from __future__ import annotations

import errno

import pytest
from sched_ext.model import ids
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.model.trace import FaultAt

from harness.core.errors import HarnessError, UsageError
from tests.unit.suites.sched_ext.model.loaded import EXT, loaded, made, model, values

# --- create -------------------------------------------------------------------------------


def test_create_a_free_id() -> None:
    m = loaded()
    answer = m.create(5, 0)
    assert values(answer) == {0}
    assert answer.rule == f"{EXT}: scx_bpf_create_dsq"
    assert m.live() == frozenset(), "asking moves nothing"
    assert m.observe(answer, 0) is None
    assert m.live() == {5}


@pytest.mark.parametrize("node", [1, 2, 1 << 30, -2, -(1 << 31)])
def test_create_on_a_node_out_of_range(node: int) -> None:
    assert values(loaded().create(5, node)) == {-errno.EINVAL}


@pytest.mark.parametrize("node", [-1, 0])
def test_create_on_a_node_in_range(node: int) -> None:
    assert values(loaded().create(5, node)) == {0}


def test_nr_node_ids_is_the_highest_possible_node_and_one() -> None:
    m = DsqModel(Features(), frozenset({0, 3}), 1)
    assert m.observe(m.attach("a"), 0) is None
    assert values(m.create(5, 3)) == {0}
    assert values(m.create(5, 2)) == {0}, "not possible, but not refused here"
    assert values(m.create(5, 4)) == {-errno.EINVAL}


@pytest.mark.parametrize("dsq_id", [ids.INVALID, ids.GLOBAL, ids.LOCAL, ids.BYPASS, ids.LOCAL_ON | 1, ids.U64])
def test_create_with_the_builtin_flag(dsq_id: int) -> None:
    assert values(loaded().create(dsq_id, -1)) == {-errno.EINVAL}


@pytest.mark.parametrize("dsq_id", [0, 1, ids.LOCAL_ON_FLAG, ids.BUILTIN - 1])
def test_every_other_id_is_a_user_id(dsq_id: int) -> None:
    assert values(loaded().create(dsq_id, -1)) == {0}


def test_create_a_duplicate() -> None:
    m = loaded(5)
    answer = m.create(5, -1)
    assert values(answer) == {-errno.EEXIST}
    found = m.observe(answer, 0)
    assert str(found) == (
        f"create(0x5, node -1) answered 0, the model allows only -EEXIST: the id is live ({EXT}: scx_bpf_create_dsq)"
    )
    assert m.live() == {5}
    assert m.percpu_objects() == 4


def test_create_without_a_scheduler() -> None:
    m = model()
    answer = m.create(5, -1)
    assert values(answer) == {-errno.ENODEV}
    assert m.observe(answer, -errno.ENODEV) is None
    assert m.live() == frozenset()


def test_invalid_arguments_come_before_everything_else() -> None:
    for m in (model(), loaded(5)):
        for fault in (None, FaultAt.ANY, FaultAt.DSQ, FaultAt.PERCPU):
            assert values(m.create(5, 7, fault)) == {-errno.EINVAL}
            assert values(m.create(ids.GLOBAL, -1, fault)) == {-errno.EINVAL}


@pytest.mark.parametrize("fault", [FaultAt.DSQ, FaultAt.PERCPU])
def test_memory_comes_before_scheduler_and_duplicate(fault: FaultAt) -> None:
    assert values(model().create(5, -1, fault)) == {-errno.ENOMEM}
    assert values(loaded(5).create(5, -1, fault)) == {-errno.ENOMEM}
    assert values(loaded().create(5, -1, fault)) == {-errno.ENOMEM}


def test_a_fault_somewhere_may_be_absorbed_and_the_state_follows_the_kernel() -> None:
    m = loaded(5)
    assert values(m.create(5, -1, "any")) == {-errno.ENOMEM, -errno.EEXIST}
    answer = m.create(6, -1, "any")
    assert values(answer) == {-errno.ENOMEM, 0}
    assert m.observe(answer, -errno.ENOMEM) is None
    assert m.live() == {5}
    assert m.observe(m.create(6, -1, "any"), 0) is None
    assert m.live() == {5, 6}
    assert values(model().create(6, -1, "any")) == {-errno.ENOMEM, -errno.ENODEV}


def test_without_percpu_data_no_percpu_fault_can_fail_a_create() -> None:
    assert values(loaded(percpu_data=False).create(5, -1, FaultAt.DSQ)) == {-errno.ENOMEM}
    assert 0 in values(loaded(percpu_data=False).create(5, -1, FaultAt.PERCPU))


def test_an_unknown_fault_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="no fault 'kmalloc'"):
        model().create(5, -1, "kmalloc")


# --- destroy ------------------------------------------------------------------------------


def test_destroy_an_empty_dsq() -> None:
    m = loaded(5, 6)
    assert m.observe(m.destroy(5), 0) is None
    assert m.live() == {6}
    assert values(m.create(5, -1)) == {0}


@pytest.mark.parametrize("dsq_id", [9, ids.GLOBAL, ids.LOCAL, ids.LOCAL_ON | 1])
def test_destroy_ignores_what_is_no_user_dsq(dsq_id: int) -> None:
    m = loaded(5)
    answer = m.destroy(dsq_id)
    assert values(answer) == {0} and answer.aborts is None
    assert m.observe(answer, 0) is None
    assert m.live() == {5}


def test_destroy_without_a_scheduler() -> None:
    answer = model().destroy(5)
    assert values(answer) == {0}
    assert answer.rule == f"{EXT}: scx_bpf_destroy_dsq"


def test_destroy_in_use_throws_the_scheduler_out_and_keeps_the_dsq() -> None:
    m = loaded(5)
    assert m.enqueue(5, task=100) is None
    answer = m.destroy(5)
    assert answer.aborts == "attempting to destroy in-use dsq 0x0000000000000005 (nr=1)"
    assert m.observe(answer, 0) is None
    assert m.aborting() == answer.aborts
    assert m.live() == {5}
    with pytest.raises(HarnessError, match="not settled"):
        m.compare_live([5])
    assert m.gone() is None
    assert m.live() == frozenset()
    assert m.compare_live([]) is None


def test_the_first_error_wins_and_an_exited_scheduler_raises_none() -> None:
    m = loaded(5)
    m.associate("a")
    m.enqueue(5, task=100)
    m.observe(m.destroy(5), 0)
    first = m.aborting()
    m.observe(m.nr_queued(ids.LOCAL_ON | 9), -errno.ENOENT)
    assert first is not None and m.aborting() == first
    m.gone()
    m.observe(m.nr_queued(ids.LOCAL_ON | 9), -errno.ENOENT)
    assert m.links["a"].aborting is None


def test_while_a_scheduler_is_ejected_both_answers_are_legal() -> None:
    m = loaded(5)
    m.enqueue(5, task=100)
    m.observe(m.destroy(5), 0)
    assert values(m.create(5, -1)) == {-errno.EEXIST, -errno.ENODEV}
    assert values(m.create(6, -1)) == {0, -errno.ENODEV}
    assert values(m.nr_queued(5)) == {1, -errno.ENODEV}
    assert values(m.attach("b")) == {0, -errno.EBUSY}
    assert values(m.attach("a")) == {-errno.EBUSY}, "its map stays bound until detach"


# --- nr_queued ----------------------------------------------------------------------------


def test_nr_queued_counts_user_dsqs() -> None:
    m = loaded(5)
    assert values(m.nr_queued(5)) == {0}
    m.enqueue(5, 100)
    m.enqueue(5, 101)
    assert values(m.nr_queued(5)) == {2}
    assert m.dequeue(5, 100) and not m.dequeue(5, 100)
    assert values(m.nr_queued(5)) == {1}


@pytest.mark.parametrize("dsq_id", [7, ids.GLOBAL, ids.BYPASS, ids.INVALID])
def test_nr_queued_does_not_find(dsq_id: int) -> None:
    answer = loaded(5).nr_queued(dsq_id)
    assert values(answer) == {-errno.ENOENT} and answer.aborts is None


@pytest.mark.parametrize("dsq_id", [ids.LOCAL, ids.LOCAL_ON | 0, ids.LOCAL_ON | 1, ids.LOCAL_ON | 1 << 40 | 1])
def test_nr_queued_of_local_dsqs_is_any_count(dsq_id: int) -> None:
    answer = loaded().nr_queued(dsq_id)
    assert all(answer.allows(n) for n in (0, 1, 77))
    assert not answer.allows(-errno.ENOENT)
    assert answer.legal() == "0 or more"


@pytest.mark.parametrize("cpu", [2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_nr_queued_of_an_impossible_cpu_throws_the_scheduler_out(cpu: int) -> None:
    m = loaded()
    answer = m.nr_queued(ids.LOCAL_ON | cpu)
    assert values(answer) == {-errno.ENOENT}
    assert m.observe(answer, -errno.ENOENT) is None
    assert m.aborting() == f"invalid CPU {ids.local_cpu(cpu)}"


def test_nr_queued_without_a_scheduler() -> None:
    for dsq_id in (5, ids.LOCAL, ids.LOCAL_ON | 99):
        assert values(model().nr_queued(dsq_id)) == {-errno.ENODEV}


# --- order of tasks -----------------------------------------------------------------------


def test_fifo_order_and_head() -> None:
    m = loaded(5)
    for task in (1, 2, 3):
        assert m.enqueue(5, task) is None
    assert m.enqueue(5, 4, head=True) is None
    assert m.order(5) == (4, 1, 2, 3)


def test_vtime_order_is_stable_and_wraps() -> None:
    m = loaded(5)
    for task, vtime in ((1, 10), (2, 5), (3, 10), (4, ids.U64), (5, 7)):
        assert m.enqueue(5, task, vtime) is None
    assert m.order(5) == (4, 2, 5, 1, 3)


def test_mixing_fifo_and_vtime_throws_the_scheduler_out() -> None:
    m = loaded(5)
    m.enqueue(5, 1)
    assert m.enqueue(5, 2, vtime=1) == "it already has FIFO tasks"
    assert m.aborting() is not None
    m = loaded(5)
    m.enqueue(5, 1, vtime=1)
    assert m.enqueue(5, 2) == "it already has vtime-ordered tasks"
    assert m.aborting() is not None


def test_enqueue_on_what_is_not_live_throws_the_scheduler_out() -> None:
    m = loaded()
    assert m.enqueue(9, 1) == "non-existent DSQ 0x9"
    assert m.aborting() == "non-existent DSQ 0x9"


def test_tasks_leave_with_the_scheduler() -> None:
    m = loaded(5)
    m.associate("a")
    m.enqueue(5, 1)
    m.gone(expected=True)
    assert values(m.nr_queued(5)) == {0}
    with pytest.raises(UsageError, match="while a scheduler runs"):
        m.enqueue(5, 1)


# --- asking and observing -----------------------------------------------------------------


def test_an_answer_is_good_for_one_observation() -> None:
    m = loaded()
    stale = m.create(5, -1)
    made(m, 6)
    with pytest.raises(HarnessError, match="asked before the last observation"):
        m.observe(stale, 0)
    stale = m.create(5, -1)
    m.gone(expected=True)
    with pytest.raises(HarnessError):
        m.observe(stale, 0)


def test_a_machine_has_nodes_and_cpus() -> None:
    with pytest.raises(UsageError):
        DsqModel(Features(), frozenset(), 1)
    with pytest.raises(UsageError):
        DsqModel(Features(), frozenset({0}), 0)


def test_the_source_file_of_the_kernel_is_cited() -> None:
    m = DsqModel(Features(source="kernel/sched/ext.c"), frozenset({0}), 1)
    assert m.create(1, -1).rule == "kernel/sched/ext.c: scx_bpf_create_dsq"


def test_sets_that_differ() -> None:
    m = loaded(*range(1, 13))
    assert m.compare_live(range(1, 13)) is None
    found = m.compare_live([2, 77])
    assert found is not None
    assert "lacks 0x1, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9 and 3 more and has unexpected 0x4d" in found.text
    assert m.compare_digest(*ids.digest(range(1, 13))) is None
    found = m.compare_digest(*ids.digest(range(2, 14)))
    assert found is not None and "other ids" in found.text
    found = m.compare_digest(*ids.digest([1]))
    assert found is not None and "another number of ids" in found.text


def test_digest_tells_sets_of_equal_sum_apart() -> None:
    assert ids.digest([]) == (0, 0, 0)
    assert ids.digest([1, 4])[:2] == ids.digest([2, 3])[:2]
    assert ids.digest([1, 4]) != ids.digest([2, 3])
    assert ids.digest([3, 2]) == ids.digest([2, 3])


@pytest.mark.parametrize(
    ("dsq_id", "name"),
    [
        (0x17, "0x17"),
        (ids.GLOBAL, "SCX_DSQ_GLOBAL"),
        (ids.LOCAL_ON | 3, "SCX_DSQ_LOCAL_ON|3"),
        (ids.LOCAL_ON | 1 << 33 | 3, "0xc000000200000003"),
    ],
)
def test_names_of_ids(dsq_id: int, name: str) -> None:
    assert ids.id_name(dsq_id) == name


def test_local_cpu_is_an_s32() -> None:
    cpus = [ids.local_cpu(ids.LOCAL_ON | cpu) for cpu in (0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)]
    assert cpus == [0, (1 << 31) - 1, -(1 << 31), -1]


def test_names_of_values() -> None:
    assert [ids.errno_name(v) for v in (-12, -17, 0, 5, -99999)] == ["-ENOMEM", "-EEXIST", "0", "5", "-99999"]
