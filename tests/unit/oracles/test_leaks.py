# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the two leak oracles: kmemleak and the percpu count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.core.records import Finding
from harness.oracles import kmemleak, percpu
from harness.oracles.splat.log import parse_kmsg

DSQ = """unreferenced object (percpu) 0x{at:08x} (size 8):
  comm "dsq_many", pid 91, jiffies 4294668{at}
  hex dump (first 8 bytes on cpu 1):
    00 00 00 00 00 00 00 00                          ........
  backtrace (crc 0):
    pcpu_alloc_noprof+0x4a5/0x870
    init_dsq+0x9a/0xc0
    scx_bpf_create_dsq+0xd6/0x530
    bpf_prog_3f9e8a5b1c2d4e6f_create+0x3a/0x60
    bpf_prog_test_run_syscall+0x142/0x2a0
"""
SLAB = """unreferenced object 0xffff888004a3c000 (size 512):
  comm "a "odd" name", pid 92, jiffies 4294668400
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace (crc deadbeef):
    kmemleak_alloc+0x4b/0x80
    __kmalloc_cache_node_noprof+0x2ef/0x340
    kharness_leak+0x1c/0x40 [kharness]
    kernfs_fop_write_iter+0x14a/0x200
"""
VMALLOC = """unreferenced object 0xffffc90000123000 (size 4096):
  comm "a", pid 1, jiffies 1
  backtrace (crc 1):
    [<ffffffff81234567>] __vmalloc_node_range_noprof+0x1/0x2
    [<ffffffff81234568>] vmalloc_noprof+0x1/0x2
    [<ffffffff81234569>] holder+0x1/0x20
"""


def test_a_leaked_dsq_blames_init_dsq() -> None:
    (found,) = kmemleak.findings(DSQ.format(at=16) + DSQ.format(at=24) + DSQ.format(at=32))
    assert (found.kind, found.function, found.count) == ("percpu leak", "init_dsq", 3)
    assert found.title == "percpu leak of 8 bytes allocated in init_dsq"
    assert found.signature == (
        "kmemleak:percpu leak:init_dsq<scx_bpf_create_dsq<bpf_prog_create<bpf_prog_test_run_syscall"
    )
    assert [f.function for f in found.frames][:2] == ["pcpu_alloc_noprof", "init_dsq"]


def test_kinds_and_modules() -> None:
    found = kmemleak.findings(SLAB + VMALLOC + SLAB.replace("object 0x", "object (phys) 0x"))
    assert [(f.kind, f.function) for f in found] == [
        ("slab leak", "kharness_leak"),
        ("vmalloc leak", "holder"),
        ("page leak", "kharness_leak"),
    ]
    assert found[0].frames[2].module == "kharness"


def test_other_call_sites_are_other_leaks() -> None:
    other = SLAB.replace("kharness_leak+0x1c", "kharness_leak+0x2c")
    assert len(kmemleak.findings(SLAB + other)) == 2


def test_no_leak_and_no_backtrace() -> None:
    assert kmemleak.findings("") == []
    text = "unreferenced object 0xffff888004a3c000 (size 64):\n  comm"
    (found,) = kmemleak.findings(text)
    assert (found.function, found.title) == (None, "slab leak of 64 bytes with no backtrace")


@given(st.text(max_size=600), st.integers(0, len(DSQ)))
def test_garbage_and_truncation_never_raise(text: str, cut: int) -> None:
    found: list[Finding] = kmemleak.findings(text + "\n" + DSQ.format(at=1)[:cut])
    assert all(f.count >= 1 for f in found)


@pytest.mark.parametrize(
    "line",
    [
        "kmemleak: Kernel memory leak detector disabled",
        "kmemleak: Cannot allocate a kmemleak_object structure",
        "kmemleak: Memory pool empty, consider increasing CONFIG_DEBUG_KMEMLEAK_MEM_POOL_SIZE",
        "kmemleak: Cannot insert 0xffff888004a3c000 into the object search tree (overlaps existing)",
    ],
)
def test_watched_sees_kmemleak_give_up(line: str) -> None:
    evidence = kmemleak.watched("", parse_kmsg(f"6,1,1,-,caller=T1;{line}"))
    assert not evidence.watched and line in evidence.why


def test_watched() -> None:
    good = parse_kmsg("6,1,1,-;kmemleak: Kernel memory leak detector initialized (mem pool available: 39000)")
    assert kmemleak.watched("", good).watched
    assert not kmemleak.watched(None, good).watched
    assert "EPERM" in kmemleak.watched("", good, scan_error="EPERM").why


STATS = """Percpu Memory Statistics
Allocation Info:
----------------------------------------
  unit_size           :      1048576
  static_size         :       175128
  alloc_size          :      2097152

Global Stats:
----------------------------------------
  nr_alloc            :         {alloc}
  nr_dealloc          :           40
  nr_cur_alloc        :         {cur}
  nr_max_alloc        :         1500
  nr_chunks           :            3
  nr_max_chunks       :            4
  min_alloc_size      :            4
  max_alloc_size      :         8192
  empty_pop_pages     :            5

Per Chunk Stats:
----------------------------------------
Chunk: <- First Chunk
  nr_alloc            :            9
"""


def test_percpu_count() -> None:
    before = percpu.parse(STATS.format(alloc=1040, cur=1000))
    after = percpu.parse(STATS.format(alloc=1043, cur=1003))
    assert (before.nr_alloc, before.nr_cur_alloc, before.unit_size) == (1040, 1000, 1048576)
    (found,) = percpu.findings(before, after)
    assert (found.kind, found.count) == ("percpu count", 3)
    assert found.title.startswith("3 percpu objects more than before: 1000 before, 1003 after")
    assert percpu.findings(before, after, allowed=3) == []
    assert len(percpu.findings(before, after, allowed=2)) == 1
    assert percpu.findings(after, before) == []


def test_percpu_stats_cut_off() -> None:
    with pytest.raises(HarnessError, match="nr_chunks"):
        percpu.parse(STATS.split("nr_chunks")[0])


def test_percpu_objects_without_the_word_are_known_by_their_dump() -> None:
    """As 6.12 prints them."""
    text = (
        "unreferenced object 0x0002d8d8 (size 24):\n"
        '  comm "agent", pid 62, jiffies 4294894678\n'
        "  hex dump (first 24 bytes on cpu 0):\n"
        "    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................\n"
        "  backtrace (crc 81256527):\n"
        "    pcpu_alloc_noprof+0x3d2/0x7c0\n"
        "    init_thing+0x1b/0x40\n"
    )
    (found,) = kmemleak.findings(text)
    assert (found.kind, found.function) == ("percpu leak", "init_thing")
