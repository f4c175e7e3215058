# SPDX-License-Identifier: GPL-2.0-only
"""Models of DSQs in the states that the tests of their rules begin with."""

from __future__ import annotations

from sched_ext.model.dsq import DsqModel
from sched_ext.model.state import Features
from sched_ext.model.trace import Answer

EXT = "kernel/sched/ext/ext.c"


def model(**features: bool) -> DsqModel:
    return DsqModel(Features(**features), frozenset({0}), possible_cpus=2)  # type: ignore[arg-type]


def loaded(*creates: int, **features: bool) -> DsqModel:
    m = model(**features)
    assert m.observe(m.attach("a", [(i, -1) for i in creates]), 0) is None
    return m


def values(answer: Answer) -> set[int]:
    return set(answer.values)


def made(m: DsqModel, dsq_id: int) -> None:
    assert m.observe(m.create(dsq_id, -1), 0) is None
