# SPDX-License-Identifier: GPL-2.0-only
"""Tests of declared-optional sites: which fit, which kernels they are about, and what is wrong in a file is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.errors import Exit, UsageError
from harness.core.records import FaultSite, decode, encode
from harness.faults import optional
from harness.faults.optional import Declared

REPO = Path(__file__).parents[3]
POOL = FaultSite(
    "create", "failslab", ("kmem_cache_alloc_noprof", "mem_pool_alloc", "__create_object", "f"), injected=1
)


def declared(folder: Path, text: str) -> tuple[Declared, ...]:
    file = folder / "optional.yaml"
    file.write_text(text)
    return optional.read(file)


def test_an_entry_with_every_key(tmp_path: Path) -> None:
    entry = (
        "\n- operation: [attach*, detach]\n  type: page\n  through: [a, b]\n  reason: >\n    it has\n    a pool\n"
        "  since: 7.10\n  arch: arm64\n- through: c\n  reason: d\n"
    )
    assert declared(tmp_path, entry) == (
        Declared(("a", "b"), "it has a pool", ("attach*", "detach"), "page", "7.10", ("arm64",), "optional.yaml:2"),
        Declared(("c",), "d", place="optional.yaml:10"),
    )


@pytest.mark.parametrize(
    ("through", "fits"),
    [
        (("mem_pool_alloc",), True),
        (("mem_pool_alloc", "f"), True),
        (("f", "mem_pool_alloc"), False),
        (("mem_pool_alloc", "g"), False),
        (("mem_pool_alloc", "mem_pool_alloc"), False),
        (("mem_pool",), False),
        (("mem_*", "__create*"), True),
    ],
)
def test_the_chain_must_hold_all_in_order(through: tuple[str, ...], fits: bool) -> None:
    assert Declared(through, "x").fits(POOL) is fits
    assert optional.match([Declared(("nobody",), "y"), Declared(through, "x")], POOL) == ("x" if fits else "")


def test_operation_and_type_narrow_it() -> None:
    through = ("mem_pool_alloc",)
    assert Declared(through, "x", operation=("attach", "cre*")).fits(POOL)
    assert not Declared(through, "x", operation=("attach*",)).fits(POOL)
    assert Declared(through, "x", type="failslab").fits(POOL)
    assert not Declared(through, "x", type="page").fits(POOL)


def test_a_kernel_has_its_entries() -> None:
    entries = (Declared(("a",), "all"), Declared(("a",), "new", since="7.10"), Declared(("a",), "arm", arch=("arm64",)))
    reasons = {
        kernel: [entry.reason for entry in optional.of_kernel(entries, *kernel)]
        for kernel in (("x86_64", "7.2.13"), ("x86_64", "7.10.0-rc1+"), ("arm64", "6.12.107-deb"), ("arm64", "7.10"))
    }
    assert list(reasons.values()) == [["all"], ["all", "new"], ["all", "arm"], ["all", "new", "arm"]]
    site = FaultSite("create", "page", ("a",))
    assert optional.matcher(entries[1:], "x86_64", "7.2.13")(site) == ""
    assert optional.matcher(entries[1:], "x86_64", "8.0")(site) == "new"


def test_what_never_fits_is_told_only_where_it_could_have() -> None:
    pool, other = Declared(("mem_pool_alloc",), "pool"), Declared(("no_such_function",), "typo")
    detach = Declared(("no_such_function",), "of an operation that was not done", operation=("detach",))
    assert optional.unmatched((pool, other, detach), [POOL]) == (other,)
    untouched = FaultSite("create", "failslab", POOL.stack, reached=5)
    assert optional.unmatched((pool, other, detach), [untouched]) == ()
    assert optional.unmatched((pool, other, detach), []) == ()


def test_entries_survive_the_event_log() -> None:
    entry = Declared(("a",), "r", ("x",), "page", "7.2", ("arm64",), "optional.yaml:1")
    assert decode(json.loads(json.dumps(encode(entry))), Declared) == entry


# --- files --------------------------------------------------------------------------------

GOOD = "through: [a]\n  reason: r"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"- {GOOD}\n  throgh: [b]", "optional.yaml:3: unknown key 'throgh'; near it: through"),
        (f"- {GOOD}\n  reason: s", "optional.yaml:3: reason is there twice"),
        (f"- {GOOD}\n- {GOOD}", "optional.yaml:3: this reason is there twice"),
        ("- reason: r", "optional.yaml:1: an entry without through"),
        ("- reason: r\n  through: []", "optional.yaml:1: an entry without through"),
        ("\n- through: [a]", "optional.yaml:2: an entry without reason"),
        ("- through: [a]\n  reason: ''", "optional.yaml:1: an entry without reason"),
        ("- through: [[a]]\n  reason: r", "optional.yaml:1: through: Expected str, got array"),
        ("- through: {a: b}\n  reason: r", "optional.yaml:1: through: Expected array, got object"),
        (f"- {GOOD}\n  type: slab", "optional.yaml:3: type: Invalid enum value 'slab'"),
        (f"- {GOOD}\n  since: v7", "optional.yaml:3: since: 'v7' is no release"),
        (f"- {GOOD}\n  arch: [pdp11]", "pdp11"),
        ("- just words", "optional.yaml:1: no entry"),
        (GOOD.replace("\n  ", "\n"), "optional.yaml: a list of entries"),
        ("- a: 'b", "optional.yaml: not YAML: "),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        declared(tmp_path, text)
    assert says in raised.value.what
    assert raised.value.step and "\n" not in raised.value.line()
    assert raised.value.exit == Exit.USAGE


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    test = tmp_path / "suite" / "dsq" / "test_x.py"
    test.parent.mkdir(parents=True)
    assert optional.beside(test) == ()
    above = declared(tmp_path, "- {through: [a], reason: above}")
    assert optional.beside(test) == above
    assert optional.beside(test.parent.parent / "test_y.py") == above
    assert optional.beside(test) != (near := declared(test.parent, "- {through: [a], reason: near}"))
    assert optional.beside(test) == near


# --- the suite's own ----------------------------------------------------------------------

ENTRIES = optional.read(REPO / "tests/kernel/sched_ext/optional.yaml")
CHAINS = {
    "kmemleak": (
        "create",
        "failslab",
        "slab_alloc_node < kmem_cache_alloc_noprof < mem_pool_alloc < __alloc_object < __create_object"
        " < pcpu_alloc_noprof < init_dsq < scx_bpf_create_dsq",
    ),
    "least order": (
        "create",
        "page",
        "__alloc_frozen_pages_noprof < alloc_slab_page < allocate_slab < new_slab < refill_objects"
        " < refill_sheaf < slab_alloc_node < __kmalloc_cache_node_noprof < scx_bpf_create_dsq",
    ),
    "vmalloc": (
        "attach, scx_enable_helper",
        "page",
        "alloc_pages_mpol < ___kmalloc_large_node < __kmalloc_large_node_noprof"
        " < __do_kmalloc_node < __kvmalloc_node_noprof < alloc_exit_info < scx_alloc_and_add_sched",
    ),
    "rhashtable": (
        "attach, scx_enable_helper",
        "failslab",
        "slab_alloc_node < __do_kmalloc_node < __kvmalloc_node_noprof"
        " < bucket_table_alloc < __rhashtable_init_noprof < scx_alloc_and_add_sched",
    ),
    "smaller orders": (
        "attach",
        "page",
        "alloc_pages_mpol < alloc_frozen_pages_noprof < alloc_pages_noprof < vm_area_alloc_pages"
        " < __vmalloc_area_node < alloc_thread_stack_node < dup_task_struct < copy_process",
    ),
    "a split": (
        "attach",
        "failslab",
        "kmem_cache_alloc_node_noprof < preload_this_cpu_lock < alloc_vmap_area < __get_vm_area_node",
    ),
    "idr": (
        "attach",
        "failslab",
        "kmem_cache_alloc_noprof < radix_tree_node_alloc < idr_get_free < idr_alloc_u32"
        " < idr_alloc_cyclic < __kernfs_new_node",
    ),
    "which part": (
        "attach",
        "failslab",
        "kmem_cache_alloc_noprof < add_scan_area < kmemleak_scan_area < alloc_vmap_area",
    ),
    "uevent": (
        "attach, scx_enable_helper",
        "failslab",
        "slab_alloc_node < __kmalloc_noprof < kobject_get_path < kobject_uevent_env < scx_root_enable_workfn",
    ),
}


@pytest.mark.parametrize("word", CHAINS)
def test_what_was_seen_absorbed_is_declared(word: str) -> None:
    operation, kind, chain = CHAINS[word]
    assert word in optional.match(ENTRIES, FaultSite(operation, kind, tuple(chain.split(" < "))))


@pytest.mark.parametrize(
    "chain",
    [
        "slab_alloc_node < __kmalloc_cache_node_noprof < _kmalloc_node_noprof < scx_bpf_create_dsq",
        "slab_alloc_node < __do_kmalloc_node < __kvmalloc_node_noprof < bucket_table_alloc < rhashtable_insert_rehash",
        "__alloc_frozen_pages_noprof < pcpu_alloc_pages < pcpu_populate_chunk < pcpu_alloc_noprof < init_dsq",
    ],
)
def test_what_an_operation_needs_is_not(chain: str) -> None:
    for kind in ("failslab", "page"):
        assert optional.match(ENTRIES, FaultSite("create", kind, tuple(chain.split(" < ")))) == ""
