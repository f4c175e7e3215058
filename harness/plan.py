# SPDX-License-Identifier: GPL-2.0-only
"""Owns what one run is: frozen dataclasses, and every default in one place. Touches neither disk nor process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec

from harness.errors import UsageError
from harness.records import SCHEMA, Fault, Kernel, Machine, Operation, Role

DEFAULT_SERIES = "7.2"
"""The Debian kernel series that is tested when nothing else is named."""

DEFAULT_ARCHES = ("x86_64", "arm64")
DEFAULT_SUITE = "tests/kernel"
SELFTESTS = "selftests"
"""What --suite calls the sched_ext selftests that the tree under test brings along."""

SELFTESTS_SUITE = "tests/selftests"
"""Where what runs them lies in the checkout."""

DEFAULT_MACHINE = "default"
"""Where a test runs that names no machine; see the marker `machines` in docs/tests.md."""

DEFAULT_JOBS = 2
"""More than two compilers at once only wait for each other's memory on the machines this is built for."""

DEFAULT_TOOLCHAIN = "root"
DEFAULT_RELEASES = "linux-releases.git"
"""Where `kharness source import` puts its commits."""

DEFAULT_FIND = "regression"
"""What a bisection looks for: what brought a failure."""

CONFIDENCE = 0.99
"""How sure a bisection must be."""

END_RUNS = 5
"""Of the end that fails: from them it is known whether the failure shows each time."""

END_TRIES = 10
"""Of the end that fails, until the failure shows once."""

SEARCH_SECONDS = 10.0
"""How long sequences of operations are searched for one that disagrees, where --search does not say."""

CACHE_CAP_GIB = 20
RETRY_LOST_MACHINE = 1
"""How often a test is tried again whose QEMU was killed: the host's trouble, not the kernel's."""

PATH = {"path": True}
"""Marks a wish that names files: in a plan file they are relative to its folder."""

RIVALS = (("tree", "kernel"), ("patch", "head"))
"""Wishes that exclude each other: one of them on the command line takes the others out of a plan file."""


@dataclass(frozen=True)
class Wishes:
    """What a user may ask of a run: one field for each flag of `kharness run`, which is also a key of a plan file."""

    tree: str = field(default="", metadata=PATH)
    kernel: str = ""
    patch: tuple[str, ...] = field(default=(), metadata=PATH)
    base: str = ""
    head: str = ""
    arch: str = ""
    machine: str = ""
    suite: str = field(default=DEFAULT_SUITE, metadata=PATH)
    select: str = ""
    full: bool = False
    cmdline: str = ""
    kconfig: tuple[str, ...] = field(default=(), metadata=PATH)
    bpf: tuple[str, ...] = field(default=(), metadata=PATH)
    faults: str = field(default="", metadata=PATH)
    allow: tuple[str, ...] = field(default=(), metadata=PATH)
    search: str = ""
    seed: int = 0
    out: str = field(default="", metadata=PATH)
    jobs: Annotated[int, msgspec.Meta(ge=1)] = DEFAULT_JOBS
    guests: Annotated[int, msgspec.Meta(ge=0)] = 0
    toolchain: str = DEFAULT_TOOLCHAIN
    keep: bool = False
    dump: bool = False
    coverage: bool = False


@dataclass(frozen=True)
class Profile:
    """What a run with --coverage counts, and what it tells of it.

    `object` is what kbuild profiles, with its folder; `functions` are those under test; `fallible` those that must have
    been seen failing by each of their callers that can run after boot. Names that a kernel has not are passed over.
    """

    object: str
    functions: tuple[str, ...]
    fallible: tuple[str, ...]


PROFILE = Profile(
    # Includes kernel/sched/ext.c, or since 7.2 kernel/sched/ext/ext.c.
    object="kernel/sched/build_policy.o",
    functions=(
        "init_dsq", "scx_init_dsq", "exit_dsq", "scx_exit_dsq", "create_dsq", "destroy_dsq", "find_user_dsq",
        "find_global_dsq", "free_dsq_rcufn", "free_dsq_irq_workfn", "scx_bpf_create_dsq", "scx_bpf_destroy_dsq",
        "scx_bpf_dsq_nr_queued", "alloc_pnode", "free_pnode", "alloc_exit_info", "free_exit_info",
        "scx_alloc_and_add_sched", "scx_sched_free_rcu_work", "scx_enable", "scx_ops_enable",
        "scx_root_enable_workfn", "scx_root_disable", "scx_disable_workfn", "scx_ops_disable_workfn",
        "bpf_scx_reg", "bpf_scx_unreg", "alloc_kick_syncs", "scx_link_sched", "scx_set_cmask_scratch_alloc",
        "scx_cgroup_init", "scx_tg_online", "__scx_init_task", "scx_init_task", "scx_pre_fork", "scx_fork",
        "scx_arena_pool_init", "scx_cid_init", "scx_cid_arrays_alloc",
    ),
    fallible=("init_dsq", "scx_init_dsq"),
)  # fmt: skip


@dataclass(frozen=True)
class Pinned:
    """What a source held when it was read: the content hash `tree`, and what else is told of a snapshot."""

    tree: str
    commit: str = ""
    dirty: bool = False
    origin: str = ""


@dataclass(frozen=True)
class SourceRequest:
    """Where a kernel's source comes from: `tree` a folder of the user's, or `version` of Debian's packages.

    With `revision` it is what that commit of the tree holds, with `pinned` what lay there once, else what lies in the
    tree now.
    """

    tree: str = ""
    version: str = ""
    revision: str = ""
    pinned: Pinned | None = None

    def __str__(self) -> str:
        return (self.tree + (f" at {self.revision}" if self.revision else "")) or f"linux-source-{self.version}"


@dataclass(frozen=True)
class KernelRequest:
    """A kernel to build and test. `patches` are files and folders to apply to its source, in order."""

    source: SourceRequest
    arch: str
    role: Role = Role.TREE
    patches: tuple[str, ...] = ()


def requests(
    source: SourceRequest, arches: Sequence[str], patches: Sequence[str] = (), base: str = "", head: str = ""
) -> tuple[KernelRequest, ...]:
    """The kernels that a run compares: one, or base and patched, for each architecture.

    `patches` go on top of `source` or, with it, the revision `base`; without patches the revision `head`, or what lies
    in the tree now, is what `base` is compared with. Raises UsageError for what does not go together.
    """
    if not (patches or base or head):
        return tuple(KernelRequest(source, arch) for arch in arches)
    if head and patches:
        raise UsageError("--head and --patch exclude each other", step="the patches make the head")
    if head and not base:
        raise UsageError("--head needs --base", step=f"say what to compare it with, as --base {head}~1")
    if base and not source.tree:
        raise UsageError("--base needs --tree", step="a Debian source has no revisions: give a clone, or use --patch")
    old = replace(source, revision=base)
    new = old if patches else replace(source, revision=head)
    kernels = []
    for arch in arches:
        kernels.append(KernelRequest(old, arch, Role.BASE))
        kernels.append(KernelRequest(new, arch, Role.PATCHED, tuple(patches)))
    return tuple(kernels)


@dataclass(frozen=True)
class BpfRequest:
    """A BPF scheduler of the user's: the path of its C file, and the content that it must have (a replay)."""

    path: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """What tests call it: its file without .bpf.c."""
        return self.path.rpartition("/")[2].removesuffix(".bpf.c")


@dataclass(frozen=True)
class FaultPlan:
    """One entry of a fault plan (--faults): an operation, and the fault that is injected while it is done.

    `place` is FILE:LINE where the user wrote it.
    """

    operation: str
    fault: Fault
    place: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What tests call it; entries that differ have different names."""
        fault = self.fault
        numbers = {key: getattr(fault, key) for key in ("nth", "every", "probability", "seed")}
        which = [f"{key}{value}" for key, value in numbers.items() if value is not None] or ["each"]
        caller = [f"of-{fault.caller}"] if fault.caller else []
        where = [f"in-{'-or-'.join(fault.within)}"] if fault.within else []
        task = [] if fault.task == "self" else [f"task-{fault.task}"]
        return "-".join([self.operation, fault.what, *caller, *where, *task, *which])


@dataclass(frozen=True)
class Allowed:
    """One entry of an allow-list: findings of this signature do not count until the day `expires` (ISO) is over.

    `arch` are the architectures that it is about, all if empty. `place` is FILE:LINE; `expired` was found when the
    list was read.
    """

    signature: str
    reason: str
    expires: str
    arch: tuple[str, ...] = ()
    place: str = ""
    expired: bool = False


@dataclass(frozen=True)
class Scheduler:
    """A BPF scheduler of the user's as it is in a target's guest.

    `ops` is its struct_ops map, `constants` are its variables that hold the kernel's enumerators, with the values that
    these have there; `sha256` is over `path` and what it includes from its own folder.
    """

    name: str
    path: str
    sha256: str
    ops: str
    constants: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Selftest:
    """A selftest of the tree under test, by the name that its runner has for it."""

    name: str


@dataclass(frozen=True)
class Plan:
    """One run, as the command line asked for it.

    `machines` are those that every test is to run on; none means that tests choose. `guests` is how many run at
    once; 0: as many as this host bears. With `incremental` kernels are built in a folder that stays. `search` is the
    budget of a search in seconds. A replay names one canonical `test_id`, the content hash that its `tree` must have,
    and the `sequence` that a search found.
    """

    kernels: tuple[KernelRequest, ...]
    seed: int
    out: str = ""
    machines: tuple[str, ...] = ()
    suite: str = DEFAULT_SUITE
    select: str = ""
    full: bool = False
    cmdline: str = ""
    kconfig: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    allow: tuple[Allowed, ...] = ()
    toolchain: str = DEFAULT_TOOLCHAIN
    jobs: int = DEFAULT_JOBS
    guests: int = 0
    keep: bool = False
    dump: bool = False
    coverage: bool = False
    incremental: bool = False
    argv: tuple[str, ...] = ()
    cache_cap_gib: int = CACHE_CAP_GIB
    search: float = SEARCH_SECONDS
    sequence: tuple[Operation, ...] = ()
    test_id: str = ""
    tree: str = ""

    @property
    def selftests(self) -> bool:
        """Whether the suite is that of the tree's own selftests, which then are built with each kernel."""
        return f"/{SELFTESTS_SUITE}/" in f"/{self.suite}/"


@dataclass(frozen=True)
class Visit:
    """What is done by hand in the guest of a plan, as the command line asked for it.

    `put` and `get` are HOSTFILE:GUESTPATH and GUESTPATH:HOSTFILE; `kept` is the folder of a guest that a run kept.
    """

    command: tuple[str, ...] = ()
    put: tuple[str, ...] = ()
    get: tuple[str, ...] = ()
    force: bool = False
    gdb: bool = False
    kept: str = ""


@dataclass(frozen=True)
class Target:
    """One kernel on one machine, built and saved: what the pytest child restores. Paths are host paths.

    `schedulers` and `selftests` are in its guest.
    """

    kernel: Kernel
    machine: Machine
    initramfs: str
    facts: dict[str, str] = field(default_factory=dict)
    cmdline: str = ""
    schedulers: tuple[Scheduler, ...] = ()
    selftests: tuple[Selftest, ...] = ()


@dataclass(frozen=True)
class Session:
    """plan-ARCH.json: all that the pytest child is told. It builds nothing and gives no verdict.

    `machines` are those of the command line (see Plan); `targets` those that are there.
    """

    run: str
    out: str
    seed: int
    cache: str
    toolchain: str
    targets: tuple[Target, ...]
    jobs: int = 1
    keep: bool = False
    dump: bool = False
    coverage: bool = False
    cache_cap_gib: int = CACHE_CAP_GIB
    argv: tuple[str, ...] = ()
    test_id: str = ""
    suite: str = DEFAULT_SUITE
    kconfig: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    allow: tuple[Allowed, ...] = ()
    patches: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    search: float = SEARCH_SECONDS
    sequence: tuple[Operation, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Survey:
    """survey.json: what pytest's collecting pass is told, before there is anything to restore."""

    answer: str
    kernels: tuple[KernelRequest, ...]
    machines: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Wanted:
    """A selected test and where it is to run, for one kernel. `test` is its id in pytest, target and all."""

    test: str
    arch: str
    role: Role
    machine: str


@dataclass(frozen=True)
class Surveyed:
    """What the collecting pass found; `errors` are one line for each file that could not be collected."""

    wanted: tuple[Wanted, ...] = ()
    errors: tuple[str, ...] = ()
