# SPDX-License-Identifier: GPL-2.0-only
"""alloc_percpu and the slab fail while DSQs are created: each create returns -ENOMEM or is unharmed, nothing leaks."""

from __future__ import annotations

import pytest

from harness.guest.guest import dsq_context
from harness.model.trace import FaultAt
from harness.records import Fault
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.sweep import Faults

CREATE = ("scx_bpf_create_dsq",)
PERCPU = ("pcpu_alloc_noprof",)
FIRST = 1 << 20


def test_every_allocation_of_create_fails_once(dsq: Dsqs, faults: Faults, bench: Bench) -> None:
    """fail-nth over many creates: the more DSQs, the more often percpu memory must grow, and fails to."""
    bench.must_inject = (*CREATE, *PERCPU)
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    count = 3000
    swept = faults.sweep_create(dsq.api, dsq_context(FIRST), ids=count, under=CREATE)
    assert swept.injected > count, "each create has at least one allocation to fail"
    inside = [site for site in swept.summary.sites if PERCPU[0] in site.stack and site.injected]
    assert inside, "no fault reached an allocation inside alloc_percpu"
    for dsq_id in range(FIRST, FIRST + count):
        dsq.model.observe(dsq.model.create(dsq_id, -1), 0)
    dsq.check_live()


@pytest.mark.parametrize("what", ["failslab", "page"])
def test_percpu_memory_runs_out(dsq: Dsqs, faults: Faults, bench: Bench, what: str) -> None:
    """All allocations inside pcpu_alloc_noprof() fail while DSQs are created until alloc_percpu() gives up."""
    bench.must_inject = PERCPU
    bench.expect(r"percpu: allocation failed", r"^allocation failed")
    dsq.attach("dsq_many", [(0, -1)], nr_dsqs=1)
    faults.watch()
    refused = 0
    with faults.armed(Fault(what=what, within=PERCPU, probability=100)):
        for batch in range(40):
            answers = dsq.api.run("create", dsq_context(FIRST + batch * 500), repeat=500)
            for offset, got in enumerate(answers):
                dsq_id = FIRST + batch * 500 + offset
                answer = dsq.model.create(dsq_id, -1, FaultAt.ANY)
                problem = dsq.model.observe(answer, got)
                assert problem is None, str(problem)
                refused += got != 0
            bench.count_model(len(answers), len(answers))
            if refused:
                break
    faults.watch(on=False)
    assert refused, "alloc_percpu never failed: the fault was not where it should be"
    bench.count_faults(faults.collect(f"create under {what}", CREATE, []))
    dsq.check_live()
    dsq.create(1)
