# SPDX-License-Identifier: GPL-2.0-only
"""Operations of user space that allocate percpu memory, as lines of the agent's protocol, and the allocating functions.

Callers were read in Linux 7.2.13, in the file named beside each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.core.records import Operation
from harness.faults.actions import Action
from harness.guest.pristine import BARRIER, PERCPU_STATS

CGROUPS = "/sys/fs/cgroup"
MADE = f"{CGROUPS}/kharness"
MOUNTED = "/run"
"""An empty folder of the guest."""

HIERARCHY = "none,name=kharness"
WORKQUEUE = "/sys/kernel/debug/kharness/workqueue"
TRACING = "/sys/kernel/tracing"
OBJECT = "attached"
"""bpf_progs/percpu/attached.bpf.c."""

# include/uapi/linux/bpf.h
HASH, PERCPU_HASH, PERCPU_ARRAY, STACK_TRACE, LRU_HASH, LRU_PERCPU_HASH, LPM_TRIE, CPUMAP = 1, 5, 6, 7, 9, 10, 11, 16
RHASH = 35
NO_PREALLOC, NO_COMMON_LRU = 1, 2
SOCKET_FILTER = 1

# include/linux/workqueue.h
WQ_UNBOUND, WQ_MEM_RECLAIM, WQ_PERCPU = 1 << 1, 1 << 3, 1 << 8


@dataclass(frozen=True)
class Caller:
    """An operation and the functions that allocate percpu memory in it, each of which must have failed."""

    action: Action
    functions: tuple[str, ...]


def do(verb: str, **args: Any) -> Operation:
    """One line of the agent's protocol."""
    return Operation(verb, args)


SETTLE = do("settle", barrier=BARRIER, watch=PERCPU_STATS, key="  nr_cur_alloc", timeout_ms=600_000)
"""A hierarchy stays after its unmount as long as it has a cgroup, and one that was removed is freed later."""


def _map(name: str, functions: tuple[str, ...], **args: int) -> Caller:
    return Caller(Action(f"map {name}", (do("bpf-map", **args),), under=("__sys_bpf",)), functions)


def _attach(name: str, what: str, functions: tuple[str, ...], under: tuple[str, ...], **to: str) -> Caller:
    """The attachment of one program; the object is loaded before and unloaded after it."""
    made = (do("mkdir", path=to["cgroup"]),) if to else ()
    gone = (do("rmdir", path=to["cgroup"]),) if to else ()
    load = do("load", name=OBJECT, path=f"/bpf/{OBJECT}.bpf.o")
    attach = do("attach", name=OBJECT, what=what, **to)
    action = Action(
        f"attach {name}", (attach,), before=(*made, load), after=(do("unload", name=OBJECT), *gone), under=under
    )
    return Caller(action, functions)


def _mkdir(name: str, functions: tuple[str, ...], controllers: str = "") -> Caller:
    """A cgroup, with these controllers."""
    control = f"{CGROUPS}/cgroup.subtree_control"
    on = (do("write", path=control, data=f"+{controllers}"),) if controllers else ()
    off = (do("write", path=control, data=f"-{controllers}"),) if controllers else ()
    action = Action(
        f"cgroup {name}",
        (do("mkdir", path=MADE),),
        before=on,
        after=(do("rmdir", path=MADE), *off),
        under=("cgroup_mkdir",),
    )
    return Caller(action, functions)


def _enable(name: str, functions: tuple[str, ...]) -> Caller:
    """A controller for a cgroup that is there already."""
    control = f"{CGROUPS}/cgroup.subtree_control"
    action = Action(
        f"controller {name}",
        (do("write", path=control, data=f"+{name}"),),
        before=(do("mkdir", path=MADE),),
        after=(do("write", path=control, data=f"-{name}"), do("rmdir", path=MADE)),
        under=("cgroup_subtree_control_write",),
    )
    return Caller(action, functions)


def _mount(name: str, functions: tuple[str, ...], kind: str, data: str = "", within: str = "") -> Caller:
    """A mount; `within` is the function below which allocations fail, if not all do."""
    action = Action(
        f"mount {name}",
        (do("mount", type=kind, path=MOUNTED, data=data),),
        after=(do("umount", path=MOUNTED),),
        under=(within or "path_mount",),
        within=within,
    )
    return Caller(action, functions)


def _unshare(kind: str, under: str, functions: tuple[str, ...]) -> Caller:
    """Not all below unshare(2) is under test: what the agent keeps (its fs_struct), and struct net, which the next network
    namespace that ends frees (net_complete_free(), net/core/net_namespace.c)."""
    return Caller(Action(f"unshare {kind}", (do("unshare", kind=kind),), under=(under,)), functions)


def _workqueue(name: str, flags: int) -> Caller:
    under = ("__alloc_workqueue", "alloc_workqueue_noprof", "alloc_workqueue")
    action = Action(f"workqueue {name}", (do("write", path=WORKQUEUE, data=str(flags)),), under=under)
    return Caller(action, ("alloc_and_link_pwqs",))


CALLERS = (
    # kernel/bpf: hashtab.c, arraymap.c, percpu_freelist.c, bpf_lru_list.c, memalloc.c, stackmap.c, lpm_trie.c, cpumap.c
    _map("hash", ("bpf_map_init_elem_count", "pcpu_freelist_init", "alloc_extra_elems"), type=HASH, entries=4, fill=4),
    _map("hash, no prealloc", ("bpf_mem_alloc_init",), type=HASH, entries=4, fill=4, flags=NO_PREALLOC),
    _map("hash, counted", ("__percpu_counter_init_many",), type=HASH, entries=4096, fill=4, flags=NO_PREALLOC),
    _map("resizable hash", ("bpf_mem_alloc_init",), type=RHASH, entries=4, fill=4, flags=NO_PREALLOC),
    _map("percpu hash", ("prealloc_init", "pcpu_freelist_init"), type=PERCPU_HASH, entries=2, fill=2),
    _map(
        "percpu hash, no prealloc",
        ("bpf_mem_alloc_init", "alloc_bulk"),
        type=PERCPU_HASH,
        entries=4,
        fill=4,
        flags=NO_PREALLOC,
    ),
    _map("percpu array", ("bpf_array_alloc_percpu",), type=PERCPU_ARRAY, entries=4, fill=4),
    _map("LRU hash", ("bpf_lru_init", "bpf_map_init_elem_count"), type=LRU_HASH, entries=4, fill=4),
    _map("LRU hash, a list a CPU", ("bpf_lru_init",), type=LRU_HASH, entries=4, fill=4, flags=NO_COMMON_LRU),
    _map("LRU percpu hash", ("prealloc_init", "bpf_lru_init"), type=LRU_PERCPU_HASH, entries=2, fill=2),
    _map("stack trace", ("pcpu_freelist_init",), type=STACK_TRACE, value=64, entries=4),
    _map("LPM trie", ("bpf_mem_alloc_init",), type=LPM_TRIE, key=8, entries=4, fill=1, flags=NO_PREALLOC),
    _map("cpumap", ("__cpu_map_entry_alloc",), type=CPUMAP, entries=1, fill=1),
    # kernel/bpf: core.c, cgroup.c and local_storage.c, trampoline.c; kernel/trace/trace_kprobe.c
    Caller(
        Action("program", (do("bpf-prog", type=SOCKET_FILTER),), under=("__sys_bpf",)),
        ("bpf_prog_alloc_no_stats", "bpf_prog_alloc"),
    ),
    _attach("to a cgroup", "count_packets", ("bpf_cgroup_storage_alloc",), ("__sys_bpf",), cgroup=MADE),
    _attach("to a function", "traced", ("bpf_trampoline_update",), ("bpf_tramp_image_alloc",)),
    _attach(
        "as a probe",
        "probed",
        ("alloc_trace_kprobe", "perf_trace_event_reg"),
        ("__do_sys_perf_event_open", "perf_event_open"),
    ),
    # kernel/cgroup: cgroup.c, rstat.c; kernel/bpf/cgroup.c, kernel/sched/psi.c, kernel/events/core.c, mm/memcontrol.c,
    # lib/flex_proportions.c, block/blk-cgroup.c, kernel/sched/cpuacct.c
    _mkdir("bare", ("cgroup_create", "css_rstat_init", "psi_cgroup_alloc", "cgroup_bpf_inherit")),
    _mkdir(
        "of memory",
        ("mem_cgroup_alloc", "mem_cgroup_css_online", "perf_cgroup_css_alloc", "fprop_global_init"),
        "memory",
    ),
    _mkdir("of io", ("blkcg_css_alloc",), "io"),
    _mkdir("of all", ("css_create",), "memory +cpu +io +pids +cpuset"),
    _enable("memory", ("mem_cgroup_alloc", "css_create")),
    _enable("io", ("blkcg_css_alloc", "css_create")),
    Caller(
        Action(
            "cgroup v1",
            (do("mkdir", path=f"{MOUNTED}/kharness"),),
            before=(do("mount", type="cgroup", path=MOUNTED, data="cpuacct"),),
            after=(do("rmdir", path=f"{MOUNTED}/kharness"), SETTLE, do("umount", path=MOUNTED)),
            under=("cgroup_mkdir",),
        ),
        ("cpuacct_css_alloc",),
    ),
    # fs: namespace.c, super.c (its percpu_rw_semaphore); mm/shmem.c
    _mount("tmpfs", ("alloc_vfsmnt", "alloc_super", "shmem_fill_super"), "tmpfs"),
    _mount("ramfs", ("alloc_vfsmnt", "alloc_super"), "ramfs"),
    _mount("cgroup v1", ("cgroup_setup_root", "css_rstat_init"), "cgroup", HIERARCHY, "cgroup_setup_root"),
    _mount("cgroup v1, superblock", ("alloc_super",), "cgroup", HIERARCHY, "sget_fc"),
    # kernel/fork.c; ipc/msg.c; net/core: sock.c, dev.c
    Caller(Action("fork", (do("fork"),), under=("mm_init",)), ("mm_init",)),
    _unshare("ipc", "copy_ipcs", ("msg_init_ns",)),
    _unshare("mnt", "copy_mnt_ns", ("alloc_vfsmnt",)),
    _unshare("net", "setup_net", ("sock_inuse_init_net", "alloc_netdev_mqs", "netdev_do_alloc_pcpu_stats")),
    # kernel/workqueue.c
    _workqueue("percpu", WQ_PERCPU),
    _workqueue("unbound", WQ_UNBOUND),
    _workqueue("with a rescuer", WQ_UNBOUND | WQ_MEM_RECLAIM),
    # kernel/trace: trace.c, trace_kprobe.c
    Caller(
        Action(
            "trace instance",
            (do("mkdir", path=f"{TRACING}/instances/kharness"),),
            after=(do("rmdir", path=f"{TRACING}/instances/kharness"),),
            under=("instance_mkdir",),
        ),
        ("allocate_trace_buffer",),
    ),
    Caller(
        Action(
            "trace marker", (do("write", path=f"{TRACING}/trace_marker", data="marked"),), under=("tracing_mark_open",)
        ),
        ("user_fault_buffer_enable",),
    ),
    Caller(
        Action(
            "trace probe",
            (do("write", path=f"{TRACING}/kprobe_events", data="p:kharness bpf_fentry_test1", append=1),),
            after=(do("write", path=f"{TRACING}/kprobe_events", data="-:kharness", append=1),),
            under=("trace_parse_run_command",),
        ),
        ("alloc_trace_kprobe",),
    ),
)

OPERATIONS = {caller.action.name: caller for caller in CALLERS}
