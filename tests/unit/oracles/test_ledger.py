# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the ledger oracle: which objects count, where they come from, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.records import Frame
from harness.oracles import ledger
from harness.oracles.ledger import Left

HASH = "0123456789abcdef"
PROGRAM = (
    Frame(f"bpf_prog_{HASH}_slab_allocated"),
    Frame("bpf_trace_run3"),
    Frame("__bpf_trace_kmalloc", reliable=False),
)
KMALLOC = (
    Frame("__kmalloc_cache_noprof", file="mm/slub.c", line=5100),
    Frame("kmalloc_noprof", file="include/linux/slab.h", line=950, inlined=True),
)
CREATE = (
    Frame("create_dsq", file="kernel/sched/ext/ext.c", line=300),
    Frame("scx_bpf_create_dsq"),
    Frame("bpf_prog_1"),
)
DSQ = Left("slab leak", 384, (*KMALLOC, *CREATE), "create", "alloc_pages < new_slab", "{operation: create, nth: 2}")


def tracing(*names: str) -> tuple[Frame, ...]:
    return tuple(Frame(name) for name in names)


@pytest.mark.parametrize(
    "inwards",
    [
        tracing(f"bpf_prog_{HASH}_slab_allocated", "bpf_trace_run3"),
        tracing(
            f"bpf_prog_{HASH}_slab_allocated",
            "bpf_trace_run5",
            "__bpf_trace_kmalloc",
            "__traceiter_kmalloc",
            "trace_kmalloc",
        ),
        tracing("__bpf_trace_run", "bpf_trace_run12", "__traceiter_kmem_cache_alloc", "__do_trace_kmem_cache_alloc"),
        tracing("bpf_trace_run5.constprop.0", "__do_trace_percpu_alloc_percpu", "trace_percpu_alloc_percpu"),
        tracing("__bpf_trace_run2", "bpf_trace_run2.isra.0"),
    ],
)
def test_what_looks_at_an_allocation_is_no_part_of_it(inwards: tuple[Frame, ...]) -> None:
    assert ledger.untraced((*inwards, *KMALLOC, *CREATE)) == (*KMALLOC, *CREATE)


@pytest.mark.parametrize(
    "frames",
    [(), KMALLOC, CREATE, tracing("trace_array_create", "bpf_trace_printk", "my_trace_kmalloc")],
    ids=["none", "allocator", "caller", "other tracing"],
)
def test_a_stack_without_the_tracepoint_stays_whole(frames: tuple[Frame, ...]) -> None:
    assert ledger.untraced(frames) == frames


def test_a_leaked_object_names_who_allocated_it_and_the_fault() -> None:
    (found,) = ledger.findings([DSQ])
    assert (found.oracle, found.kind, found.function) == ("ledger", "slab leak", "create_dsq")
    assert (found.file, found.line) == ("kernel/sched/ext/ext.c", 300)
    assert found.title == (
        "slab leak of 384 bytes allocated in create_dsq (kernel/sched/ext/ext.c:300) after create under a fault"
    )
    assert found.signature == "ledger:slab leak:create_dsq<scx_bpf_create_dsq<bpf_prog_1:create"
    assert (found.operation, found.site, found.fault) == ("create", DSQ.site, DSQ.fault)
    assert found.counts and found.frames == DSQ.frames


def test_one_that_no_fault_left_is_told_without_one() -> None:
    (found,) = ledger.findings([replace(DSQ, site="", fault="")])
    assert found.title.endswith(" after create")
    assert (found.operation, found.site, found.fault) == ("create", None, None)


def test_an_object_with_no_stack_counts_all_the_same() -> None:
    (found,) = ledger.findings([replace(DSQ, frames=())])
    assert (found.function, found.file, found.count) == (None, None, 1)


def test_compiler_suffixes_and_sizes_make_no_other_finding() -> None:
    clone = replace(
        DSQ,
        size=512,
        frames=(*KMALLOC, Frame("create_dsq.constprop.0", file="kernel/sched/ext/ext.c", line=300), *CREATE[1:]),
    )
    (found,) = ledger.findings([DSQ, clone])
    assert (found.function, found.count) == ("create_dsq", 2)


def test_one_finding_a_place_and_a_site() -> None:
    elsewhere = replace(DSQ, frames=(*KMALLOC, Frame("alloc_exit_info"), *CREATE[1:]))
    other_fault = replace(DSQ, site="rhashtable_insert_slow", fault="{operation: create, nth: 3}")
    found = ledger.findings([DSQ, elsewhere, DSQ, other_fault, replace(DSQ, kind="percpu leak"), DSQ])
    assert [(one.kind, one.function, one.site, one.count) for one in found] == [
        ("slab leak", "create_dsq", DSQ.site, 3),
        ("slab leak", "alloc_exit_info", DSQ.site, 1),
        ("slab leak", "create_dsq", other_fault.site, 1),
        ("percpu leak", "create_dsq", DSQ.site, 1),
    ]
    assert len({one.signature for one in found}) == 3, "the fault is no part of what it is"


@pytest.mark.parametrize("file", sorted(ledger.POOLS))
def test_what_is_put_by_in_a_pool_is_not_left(file: str) -> None:
    pooled = replace(DSQ, frames=(*KMALLOC, Frame("some_preload", file=file, line=1, inlined=True), *CREATE))
    assert ledger.findings([pooled]) == []
    assert [one.count for one in ledger.findings([pooled, DSQ, pooled])] == [1], "what is beside it is"


@pytest.mark.parametrize("function", sorted(ledger.KEPT_BY))
def test_what_slub_keeps_is_not_left(function: str) -> None:
    assert ledger.findings([replace(DSQ, frames=(*KMALLOC, Frame(function), *CREATE))]) == []


def test_the_allocator_s_own_files_are_no_pools() -> None:
    """Each object comes through them: a pool too many would hide every leak."""
    percpu = Frame("pcpu_alloc_noprof", file="mm/percpu.c", line=1700)
    assert [one.kind for one in ledger.findings([replace(DSQ, kind="percpu leak", frames=(percpu, *CREATE))])]
    assert not ledger.POOLS & {"mm/slub.c", "mm/slab_common.c", "mm/percpu.c", "kernel/sched/ext/ext.c"}


objects = st.builds(
    Left,
    st.sampled_from(sorted(ledger.KINDS.values())),
    st.integers(1, 4096),
    st.lists(st.sampled_from((*PROGRAM, *KMALLOC, *CREATE, Frame("preload", file="mm/vmalloc.c"))), max_size=6).map(
        tuple
    ),
    st.sampled_from(["create", "attach"]),
    st.sampled_from(["", "a < b", "c"]),
)


@given(st.lists(objects, max_size=12))
def test_each_object_that_counts_is_in_one_finding(left: list[Left]) -> None:
    found = ledger.findings(left)
    counting = [item for item in left if not any(frame.file in ledger.POOLS for frame in item.frames)]
    assert sum(one.count for one in found) == len(counting)
    assert len({(one.signature, one.site) for one in found}) == len(found)
    assert {(one.kind, one.operation, one.site or "") for one in found} == {
        (item.kind, item.operation, item.site) for item in counting
    }
