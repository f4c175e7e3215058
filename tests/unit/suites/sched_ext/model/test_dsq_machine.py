# SPDX-License-Identifier: GPL-2.0-only
"""The model's trial by random operations: it agrees with a naive kernel and catches each mutant."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sched_ext.model import ids
from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.model.trace import Disagreement, FaultAt

from tests.unit.suites.sched_ext.model.kernels import MUTANTS, NaiveKernel

NODES, CPUS = 2, 3
IDS = [0, 1, 2, 0x17, ids.LOCAL_ON_FLAG, ids.BUILTIN - 1, ids.GLOBAL, ids.LOCAL, ids.LOCAL_ON | 1]
NODE_CHOICES = [-2, -1, 0, 1, 2]


class Pair:
    """A model and a kernel that get the same operations; each returns the disagreement, if any."""

    def __init__(self, kernel: type[NaiveKernel]) -> None:
        self.model = DsqModel(Features(), frozenset(range(NODES)), CPUS)
        self.kernel = kernel(NODES, CPUS)

    def create(self, dsq_id: int, node: int, fail: bool) -> Disagreement | None:
        answer = self.model.create(dsq_id, node, FaultAt.PERCPU if fail else None)
        return self.model.observe(answer, self.kernel.create(dsq_id, node, fail))

    def destroy(self, dsq_id: int) -> Disagreement | None:
        answer = self.model.destroy(dsq_id)
        return self.model.observe(answer, self.kernel.destroy(dsq_id))

    def nr_queued(self, dsq_id: int) -> Disagreement | None:
        answer = self.model.nr_queued(dsq_id)
        return self.model.observe(answer, self.kernel.nr_queued(dsq_id))

    def attach(self, name: str, creates: list[tuple[int, int]], nth: int) -> Disagreement | None:
        answer = self.model.attach(name, creates, FaultAt.PERCPU if nth else None, nth or None)
        got, exit_error = self.kernel.attach(creates, nth)
        return self.model.observe(answer, got, exit_error)

    def detach(self, name: str) -> Disagreement | None:
        answer = self.model.detach(name)
        return self.model.observe(answer, self.kernel.detach())

    def check(self) -> Disagreement | None:
        """Live ids and percpu objects, where both sides have settled."""
        if self.model.aborting():
            return None
        found = self.model.compare_live(self.kernel.dsqs if self.kernel.enabled else ())
        if found is None and self.model.percpu_objects() != self.kernel.percpu:
            text = f"{self.kernel.percpu} percpu objects, the model {self.model.percpu_objects()}"
            return Disagreement(text, "", "")
        return found


class ModelAgainstNaiveKernel(RuleBasedStateMachine):
    """One scheduler at a time; one that is ejected is seen gone at once, as the guest waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(NaiveKernel)
        self.name: str | None = None
        self.count = 0

    @rule(dsq_id=st.sampled_from(IDS), node=st.sampled_from(NODE_CHOICES), fail=st.booleans())
    def create(self, dsq_id: int, node: int, fail: bool) -> None:
        assert self.pair.create(dsq_id, node, fail) is None

    @rule(dsq_id=st.integers(0, ids.U64), node=st.integers(-(1 << 31), (1 << 31) - 1))
    def create_anything(self, dsq_id: int, node: int) -> None:
        assert self.pair.create(dsq_id, node, False) is None

    @rule(dsq_id=st.sampled_from(IDS))
    def destroy(self, dsq_id: int) -> None:
        assert self.pair.destroy(dsq_id) is None
        self.settle()

    @rule(dsq_id=st.sampled_from(IDS) | st.just(ids.LOCAL_ON | CPUS))
    def nr_queued(self, dsq_id: int) -> None:
        assert self.pair.nr_queued(dsq_id) is None
        self.settle()

    @precondition(lambda self: self.pair.kernel.enabled)
    @rule(dsq_id=st.sampled_from(IDS[:6]), vtime=st.none() | st.integers(0, ids.U64))
    def task_arrives(self, dsq_id: int, vtime: int | None) -> None:
        self.count += 1
        why = self.pair.model.enqueue(dsq_id, self.count, vtime)
        if dsq_id in self.pair.kernel.dsqs:
            self.pair.kernel.dsqs[dsq_id] += 1
        else:
            assert why is not None
        self.pair.kernel.dying |= why is not None
        self.settle()

    @rule(
        creates=st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(NODE_CHOICES)), max_size=4),
        nth=st.integers(0, NODES + CPUS + 2),
    )
    def attach(self, creates: list[tuple[int, int]], nth: int) -> None:
        if self.name is not None and not self.pair.kernel.enabled:
            return  # the naive kernel knows one link only
        self.count += 1
        name = f"s{self.count}"
        assert self.pair.attach(name, creates, nth) is None
        if self.name is None and self.pair.kernel.linked:
            self.name = name

    @precondition(lambda self: self.name is not None)
    @rule()
    def detach(self) -> None:
        assert self.name is not None
        assert self.pair.detach(self.name) is None
        self.name = None

    def settle(self) -> None:
        """The kernel's asynchronous exit, which the real guest waits for."""
        kernel = self.pair.kernel
        assert bool(self.pair.model.aborting()) == kernel.dying
        if kernel.dying:
            kernel.enabled = kernel.dying = False
            assert self.pair.model.gone() is None

    @invariant()
    def same_state(self) -> None:
        assert self.pair.check() is None


ModelAgainstNaiveKernel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestModelAgainstNaiveKernel = ModelAgainstNaiveKernel.TestCase


def first_disagreement(kernel: type[NaiveKernel], seed: int, steps: int) -> Disagreement | None:
    """Random operations on one pair until it disagrees."""
    rng = random.Random(seed)
    pair = Pair(kernel)
    names: list[str] = []

    def some_id() -> int:
        return rng.choice(IDS)

    def attach() -> Disagreement | None:
        busy = bool(names)
        if busy and pair.model.root is None:
            return None
        name = f"s{rng.random()}"
        nth = rng.choice([0, 0, 1, NODES + CPUS + 1])
        found = pair.attach(name, [(some_id(), -1) for _ in range(rng.randrange(3))], nth)
        if not busy and name in pair.model.links:
            names.append(name)
        return found

    moves: list[Callable[[], Disagreement | None]] = [
        lambda: pair.create(some_id(), rng.choice(NODE_CHOICES), rng.random() < 0.2),
        lambda: pair.destroy(some_id()),
        lambda: pair.nr_queued(some_id()),
        attach,
        lambda: pair.detach(names.pop()) if names and rng.random() < 0.3 else None,
    ]
    for _ in range(steps):
        found = rng.choice(moves)() or pair.check()
        if found:
            return found
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_mutant_is_caught(mutant: type[NaiveKernel]) -> None:
    found = first_disagreement(mutant, seed=1, steps=2000)
    assert found is not None and found.text


def test_the_unmutated_kernel_is_not_caught() -> None:
    assert [first_disagreement(NaiveKernel, seed, steps=500) for seed in range(10)] == [None] * 10


def test_what_a_disagreement_says() -> None:
    pair = Pair(next(m for m in MUTANTS if m.__name__ == "DestroyLeavesTheId"))
    assert pair.attach("a", [(0x17, -1)], 0) is None
    assert pair.destroy(0x17) is None
    found = pair.check()
    assert str(found) == (
        "the DSQ table has unexpected 0x17; the kernel has 1 live DSQs, the model 0"
        " (kernel/sched/ext/ext.c: scx_bpf_create_dsq)"
    )
