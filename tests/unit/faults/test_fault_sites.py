# SPDX-License-Identifier: GPL-2.0-only
"""Owns the tests of fault-site tables: what counts, under which key, and how it ended."""

from __future__ import annotations

import pytest

from harness.faults.sites import RawSite, base_name, is_under, normalise, outcome, summarise, total
from harness.records import FaultSite, FaultSummary, HarnessError

HASH = "0123456789abcdef"
X86 = (
    f"bpf_prog_{HASH}_slab_site",
    "bpf_trampoline_6442508",
    "should_failslab",
    "__kmalloc_noprof",
    "pcpu_create_chunk",
    "pcpu_alloc_noprof",
    "init_dsq.isra.0",
    "scx_bpf_create_dsq",
    f"bpf_prog_{HASH}_create",
    "bpf_prog_test_run_syscall",
    "__sys_bpf",
    "__x64_sys_bpf",
    "do_syscall_64",
    "entry_SYSCALL_64_after_hwframe",
)
CHAIN = (
    "__kmalloc_noprof",
    "pcpu_create_chunk",
    "pcpu_alloc_noprof",
    "init_dsq",
    "scx_bpf_create_dsq",
    "bpf",
    "bpf_prog_test_run_syscall",
    "__sys_bpf",
)
DSQ = ("init_dsq", "scx_bpf_create_dsq")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("init_dsq", "init_dsq"),
        ("init_dsq.isra.0", "init_dsq"),
        ("init_dsq.constprop.0.isra.0", "init_dsq"),
        ("init_dsq.part.12", "init_dsq"),
        ("init_dsq.cold", "init_dsq"),
        ("init_dsq.part.0.cold", "init_dsq"),
        ("particular", "particular"),
        ("__se_sys_cold", "__se_sys_cold"),
    ],
)
def test_base_name(name: str, base: str) -> None:
    assert base_name(name) == base


def test_normalise_x86_64() -> None:
    assert normalise(X86) == CHAIN


def test_normalise_arm64_gives_the_same_chain() -> None:
    arm = (
        *X86[:-3],
        "__arm64_sys_bpf",
        "invoke_syscall",
        "el0_svc_common.constprop.0",
        "do_el0_svc",
        "el0_svc",
    )
    assert normalise(arm) == CHAIN


def test_normalise_is_the_same_between_loads_and_builds() -> None:
    other = [
        n.replace(HASH, "f" * 16).replace("6442508", "77").replace(".isra.0", ".constprop.3") for n in X86
    ]
    assert normalise(other) == CHAIN


def test_normalise_a_kthread_and_struct_ops() -> None:
    stack = (
        "should_fail_ex",
        "should_fail_alloc_page",
        "__alloc_pages_noprof",
        "init_dsq",
        f"bpf_prog_{HASH}_many_init",
        "bpf__sched_ext_ops_init",
        "scx_root_enable_workfn",
        "kthread_worker_fn",
        "kthread",
        "ret_from_fork",
        "ret_from_fork_asm",
    )
    assert normalise(stack) == (
        "__alloc_pages_noprof",
        "init_dsq",
        "bpf",
        "scx_root_enable_workfn",
        "kthread_worker_fn",
    )


def test_normalise_keeps_hooks_that_are_not_innermost() -> None:
    assert normalise(("kmalloc", "should_failslab", "init_dsq")) == ("kmalloc", "should_failslab", "init_dsq")


def test_normalise_hides_addresses() -> None:
    # What no symbol covers is JITed code.
    assert normalise(("kmalloc", "0xffffffffc0001234", "init_dsq")) == ("kmalloc", "bpf", "init_dsq")
    assert normalise(()) == ()


def test_is_under() -> None:
    assert is_under(X86, ["init_dsq"])
    assert is_under(("foo.isra.0",), ["foo.isra.0"])
    assert not is_under(X86, ["exit_dsq", "dsq", "init"])
    assert not is_under(X86, [])


@pytest.mark.parametrize(
    ("injected", "errors", "ok", "how"),
    [
        (0, 0, 0, "none"),
        (3, 3, 0, "handled"),
        (3, 0, 3, "absorbed"),
        (3, 1, 2, "mixed"),
        (3, 2, 0, "mixed"),
        (3, 0, 2, "mixed"),
        (3, 0, 0, "none"),
    ],
)
def test_outcome(injected: int, errors: int, ok: int, how: str) -> None:
    assert outcome(injected, errors, ok) == how


def test_summarise_counts_only_what_is_under_the_functions() -> None:
    rows = [
        RawSite("failslab", X86, size=512, gfp=0xCC0, reached=10, injected=2, ret_errors=2),
        RawSite(
            "failslab", ("should_failslab", "memdup_user", "__sys_bpf"), reached=99, injected=9, ret_errors=9
        ),
    ]
    assert summarise("create", rows, DSQ) == FaultSummary(
        reached=10,
        injected=2,
        handled=2,
        sites=(FaultSite("create", "failslab", CHAIN, 512, 0xCC0, 10, 2, "handled"),),
    )


def test_summarise_adds_up_what_has_one_key_and_parts_what_has_not() -> None:
    reloaded = tuple(n.replace(HASH, "a" * 16) for n in X86)
    rows = [
        RawSite("failslab", X86, size=64, gfp=1, reached=1, injected=1, ret_errors=1),
        RawSite("failslab", reloaded, size=128, gfp=2, reached=5, injected=1, ret_ok=1),
        RawSite("page", X86, size=0, reached=7),
    ]
    summary = summarise("create", rows, DSQ)
    assert summary.sites == (
        FaultSite("create", "failslab", CHAIN, 128, 2, 6, 2, "mixed"),
        FaultSite("create", "page", ("__kmalloc_noprof", *CHAIN[1:]), 0, 0, 7, 0, "none"),
    )
    assert (summary.reached, summary.injected, summary.handled) == (13, 2, 1)
    assert summarise("create", reversed(rows), DSQ) == summary


def test_summarise_nothing() -> None:
    assert summarise("create", [], DSQ) == FaultSummary()


def test_summarise_refuses_more_results_than_injections() -> None:
    with pytest.raises(HarnessError, match="made to fail 1 times but 2 results"):
        summarise("create", [RawSite("failslab", X86, reached=3, injected=1, ret_errors=1, ret_ok=1)], DSQ)


def test_total() -> None:
    row = RawSite("failslab", X86, reached=3, injected=1, ret_errors=1)
    both = total([summarise("destroy", [row], DSQ), summarise("create", [row], DSQ)])
    assert (both.reached, both.injected, both.handled) == (6, 2, 2)
    assert [s.operation for s in both.sites] == ["create", "destroy"]
    assert total([]) == FaultSummary()
    with pytest.raises(HarnessError, match="twice"):
        total([summarise("create", [row], DSQ)] * 2)
