# SPDX-License-Identifier: GPL-2.0-only
"""The callers of alloc_percpu() that user space reaches: see harness/suite/interface.py."""

from __future__ import annotations

from harness.suite.interface import CodeUnderTest, Suite
from percpu.operations import OPERATIONS

SUITE = Suite(
    name="percpu",
    # Those that allocate slab memory themselves. Not of hash tables and trampolines: the ledger works with these.
    code=CodeUnderTest(
        functions=(
            "bpf_prog_alloc_no_stats",
            "__cpu_map_entry_alloc",
            "cgroup_create",
            "cgroup1_root_to_use",
            "psi_cgroup_alloc",
            "mem_cgroup_alloc",
            "alloc_mem_cgroup_per_node_info",
            "blkcg_css_alloc",
            "cpuacct_css_alloc",
            "perf_cgroup_css_alloc",
            "alloc_vfsmnt",
            "alloc_super",
            "shmem_fill_super",
            "dup_mm",
            "create_ipc_ns",
            "alloc_netdev_mqs",
            "__alloc_workqueue",
            "alloc_trace_kprobe",
            "trace_array_create_systems",
        )
    ),
    kconfig=("../../../kconfigs/suites/percpu.config",),
    bpf="../../../bpf_progs/percpu",
    operations=OPERATIONS,
    plan_tests="test_plan.py",
)
