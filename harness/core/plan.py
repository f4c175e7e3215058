# SPDX-License-Identifier: GPL-2.0-only
"""What one run is, as frozen dataclasses, which touch neither disk nor process. Its options are in options.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.core.errors import UsageError
from harness.core.options import DEFAULT_SUITE, SEARCH_SECONDS, Options
from harness.core.records import SCHEMA, Fault, Kernel, Machine, Operation, Role, encode

SELFTESTS = "selftests"
"""What --suite calls the selftests that the tree under test brings along."""

SELFTESTS_SUITE = "tests/kernel/selftests"
"""Where the tests that run them are in the checkout."""

DEFAULT_RELEASES = "linux-releases.git"
"""Where `kharness source import` puts its commits."""

CACHE_CAP_GIB = 20
RETRY_LOST_MACHINE = 1
"""How often a test is tried again whose QEMU was killed, which is the host's fault, not the kernel's."""


@dataclass(frozen=True)
class CodeUnderTest:
    """The code that a suite is about; names that a kernel has not are passed over.

    `object` is what kbuild profiles for --coverage, with its folder (``kernel/fork.o``); `functions` are those under
    test, whose allocations are followed; `fallible` those that must have been seen failing by each of their callers
    that can run after boot.
    """

    object: str = ""
    functions: tuple[str, ...] = ()
    fallible: tuple[str, ...] = ()


@dataclass(frozen=True)
class StructOps:
    """A kind of struct_ops programs that users hand in: its `type` begins so (``tcp_congestion_ops``).

    Variables whose names begin with `constants` hold enumerators of the kernel, which the loader fills in; `includes`
    are folders of the tree's headers, `tools` those below tools/ that they lie in; `step` is what to say to one whose
    file has not exactly one map of the type.
    """

    type: str
    constants: str = ""
    includes: tuple[str, ...] = ()
    tools: frozenset[str] = frozenset()
    step: str = "one struct_ops map a file"


@dataclass(frozen=True)
class Pinned:
    """The content of a source when it was read: the content hash `tree`, and the rest of a snapshot's description."""

    tree: str
    commit: str = ""
    dirty: bool = False
    origin: str = ""


@dataclass(frozen=True)
class SourceRequest:
    """Where a kernel's source comes from: `tree` a folder of the user's, or `version` of Debian's packages.

    With `revision` it is the content of that commit, with `pinned` the content when it was pinned, else the tree as it
    is now.
    """

    tree: str = ""
    version: str = ""
    revision: str = ""
    pinned: Pinned | None = None

    def __str__(self) -> str:
        return (self.tree + (f" at {self.revision}" if self.revision else "")) or f"linux-source-{self.version}"


@dataclass(frozen=True)
class KernelRequest:
    """A kernel to build and test. `patches` are files and folders to apply to its source, in order.

    `own` are files of patches that we made ourselves, which come after them and are trusted as what they change is.
    """

    source: SourceRequest
    arch: str
    role: Role = Role.TREE
    patches: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


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
        """Its name in tests: its file without .bpf.c."""
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
        """Its name in tests; entries that differ have different names."""
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

    `options` are as the user gave them; of those that have to be looked up, chosen or read, the other fields are what
    was made of them (`OptionMeta.becomes`): these count, and not the options.

    `seed` is the user's or was chosen. `machines` are those that every test is to run on; none means that tests choose.
    `search` is the budget of a search in seconds. With `incremental` kernels are built in a folder that stays. A replay
    names one canonical `test_id`, the content hash that its `tree` must have, and the `sequence` that a search found.
    `added` are lines by file whose coverage is wanted; without them it is that of the patch.
    """

    kernels: tuple[KernelRequest, ...]
    seed: int
    options: Options = field(default_factory=Options)
    machines: tuple[str, ...] = ()
    suite: str = DEFAULT_SUITE
    kconfig: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    allow: tuple[Allowed, ...] = ()
    incremental: bool = False
    argv: tuple[str, ...] = ()
    cache_cap_gib: int = CACHE_CAP_GIB
    search: float = SEARCH_SECONDS
    sequence: tuple[Operation, ...] = ()
    test_id: str = ""
    tree: str = ""
    added: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def with_options(self, **changes: Any) -> Plan:
        """The plan with some of its options changed."""
        return replace(self, options=replace(self.options, **changes))

    def flat(self) -> dict[str, Any]:
        """The plan as event log and results.json have it: options and what was made of them, side by side."""
        own: dict[str, Any] = encode(self)
        options: dict[str, Any] = own.pop("options")
        return {**options, **own}


@dataclass(frozen=True)
class SavedTarget:
    """One kernel on one machine, built and saved: what a worker restores. Paths are host paths.

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
    """plan-ARCH.json: the input of a worker, which builds nothing and gives no verdict.

    `options` are as in Plan, and here too the other fields count where they have what was made of one. `machines` are
    those of the command line; `targets` those that are there.
    """

    run: str
    out: str
    seed: int
    cache: str
    toolchain: str
    targets: tuple[SavedTarget, ...]
    options: Options = field(default_factory=Options)
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
    """survey.json: the input of pytest's collecting pass, before there is anything to restore."""

    answer: str
    kernels: tuple[KernelRequest, ...]
    machines: tuple[str, ...] = ()
    bpf: tuple[BpfRequest, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    suite: str = DEFAULT_SUITE
    schema: int = SCHEMA


@dataclass(frozen=True)
class Wanted:
    """A selected test and where it is to run, for one kernel. `test` is its id in pytest, target and all, `id` its
    canonical one."""

    test: str
    arch: str
    role: Role
    machine: str
    id: str = ""


@dataclass(frozen=True)
class Surveyed:
    """What the collecting pass found; `errors` are one line for each file that could not be collected."""

    wanted: tuple[Wanted, ...] = ()
    errors: tuple[str, ...] = ()
