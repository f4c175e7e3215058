# SPDX-License-Identifier: GPL-2.0-only
"""Owns what one run is: frozen dataclasses, and every default in one place. Touches neither disk nor process."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.records import SCHEMA, Kernel, Machine, Role

DEFAULT_SERIES = "7.2"
"""The Debian kernel series that is tested when nothing else is named."""

DEFAULT_ARCHES = ("x86_64", "arm64")
DEFAULT_SUITE = "tests/kernel"
DEFAULT_MACHINE = "default"
"""Where a test runs that names no machine; see the marker `machines` in docs/tests.md."""

DEFAULT_JOBS = 2
"""More than two compilers at once only wait for each other's memory on the machines this is built for."""

CACHE_CAP_GIB = 20
RETRY_LOST_MACHINE = 1
"""How often a test is tried again whose QEMU was killed: the host's trouble, not the kernel's."""


@dataclass(frozen=True)
class SourceRequest:
    """Where a kernel's source comes from: `tree` a folder of the user's, or `version` of Debian's packages."""

    tree: str = ""
    version: str = ""

    def __str__(self) -> str:
        return self.tree or f"linux-source-{self.version}"


@dataclass(frozen=True)
class KernelRequest:
    """A kernel to build and test."""

    source: SourceRequest
    arch: str
    role: Role = Role.TREE


@dataclass(frozen=True)
class Plan:
    """One run, as the command line asked for it.

    `machines` are those that every test is to run on; none means that tests choose. `guests` is how many run at
    once; 0: as many as this host bears. A replay names one canonical `test_id` and the content hash that its `tree`
    must have.
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
    toolchain: str = "root"
    jobs: int = DEFAULT_JOBS
    guests: int = 0
    keep: bool = False
    argv: tuple[str, ...] = ()
    cache_cap_gib: int = CACHE_CAP_GIB
    test_id: str = ""
    tree: str = ""


@dataclass(frozen=True)
class Target:
    """One kernel on one machine, built and saved: what the pytest child restores. Paths are host paths."""

    kernel: Kernel
    machine: Machine
    initramfs: str
    facts: dict[str, str] = field(default_factory=dict)
    cmdline: str = ""


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
    cache_cap_gib: int = CACHE_CAP_GIB
    argv: tuple[str, ...] = ()
    test_id: str = ""
    suite: str = DEFAULT_SUITE
    kconfig: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Survey:
    """survey.json: what pytest's collecting pass is told, before there is anything to restore."""

    answer: str
    kernels: tuple[KernelRequest, ...]
    machines: tuple[str, ...] = ()
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
