# SPDX-License-Identifier: GPL-2.0-only
"""What an architecture is: read from vm/<arch>.yaml into frozen dataclasses."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import UsageError
from harness.core.records import MachineSpec, decode
from harness.core.wire import ByteOrder

VM_FOLDER = Path(__file__).resolve().parents[2] / "vm"


@dataclass(frozen=True)
class KernelBuild:
    """How kbuild makes a bootable image: `cross` is the prefix of the cross compiler, `image` is relative to the build
    folder, `gcov_flags` are what the compiler is told beside for objects whose execution is counted."""

    srcarch: str
    cross: str
    target: str
    image: str
    fragments: tuple[str, ...]
    make_vars: dict[str, str] = field(default_factory=dict)
    gcov_flags: str = ""


@dataclass(frozen=True)
class Userspace:
    """How programs for the guest are compiled: multiarch triplet, Debian and BPF architecture."""

    triplet: str
    debian: str
    bpf: str


@dataclass(frozen=True)
class Shape:
    """One entry of `machines`: CPUs are counts, memory is MiB."""

    possible_cpus: int
    online_cpus: int
    nodes: int
    memory_mib: int


@dataclass(frozen=True)
class Qemu:
    """The part of the QEMU argv that depends on the architecture.

    `nodes` is what the kernel command line needs for several NUMA nodes; empty where QEMU's own options make them.
    """

    binary: str
    machine: str
    cpu: dict[str, str]
    nodes: str
    virtio: str
    cmdline: str


@dataclass(frozen=True)
class Debugger:
    """How gdb debugs a guest: the program for a host of another architecture, and gdb's name for this architecture."""

    cross: str
    architecture: str


@dataclass(frozen=True)
class Packages:
    """Debian packages of the toolchain root: always needed, and only where the host is of another architecture."""

    always: tuple[str, ...]
    cross: tuple[str, ...]


@dataclass(frozen=True)
class Definition:
    """Everything vm/<arch>.yaml says."""

    arch: str
    host_arch: str
    byte_order: ByteOrder
    packages: Packages
    kernel: KernelBuild
    userspace: Userspace
    qemu: Qemu
    gdb: Debugger
    machines: dict[str, Shape]

    @property
    def native(self) -> bool:
        """Whether this host is of this architecture (`host_arch` is its name in uname -m)."""
        return platform.machine() == self.host_arch

    @property
    def cross_compile(self) -> str:
        """CROSS_COMPILE= of kbuild, and the prefix of the guest's compiler: empty on a host of this architecture."""
        return "" if self.native else self.kernel.cross

    def spec(self, name: str) -> MachineSpec:
        """The machine of this name. Raises UsageError that lists what there is."""
        shape = self.machines.get(name)
        if shape is None:
            raise UsageError(f"no machine {name!r} for {self.arch}", step=f"one of: {', '.join(self.machines)}")
        return MachineSpec(self.arch, name, shape.possible_cpus, shape.online_cpus, shape.nodes, shape.memory_mib)


def architectures() -> tuple[str, ...]:
    """The architectures that have a definition."""
    return tuple(sorted(path.stem for path in VM_FOLDER.glob("*.yaml")))


def load(arch: str) -> Definition:
    """The definition of `arch`. Raises UsageError for one that has none or whose file is malformed."""
    path = VM_FOLDER / f"{arch}.yaml"
    if arch not in architectures():  # a name and no path: a plan or a replay file may come from a stranger
        raise UsageError(
            f"no machine definition for architecture {arch!r}", step=f"one of: {', '.join(architectures())}"
        )
    try:
        data: Any = yaml.safe_load(path.read_text())
        return decode(data, Definition)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}", step="correct it") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}") from error
