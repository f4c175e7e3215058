# SPDX-License-Identifier: GPL-2.0-only
"""Every extension point of the engine, in one place.

A suite is a folder with a ``suite.py`` that holds ``SUITE``, one value of :class:`Suite`, and with tests for pytest
(``test_*.py``). ``kharness run --suite FOLDER`` takes one from anywhere; ``tests/kernel/`` holds ours. All paths in a
suite are relative to its folder.

Where the folder has an ``__init__.py`` it is a package: its modules import one another by the folder's name
(``from mysuite.model import Model``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.core.errors import HarnessError
from harness.core.plan import CodeUnderTest, Selftest, StructOps
from harness.oracles.registry import Defect, Oracle
from harness.oracles.splat.rules import Rule, rule

if TYPE_CHECKING:  # the command line loads this module, and must not load those of QEMU and the compilers
    from harness.core.records import Kernel
    from harness.host.cache import Cache
    from harness.host.progress import Progress
    from harness.host.toolchain import Toolchain
    from harness.kbuild.btf import Btf
    from harness.kbuild.image import GuestBuild
    from harness.machine.examine import Reader
    from harness.source.tree import Tree

__all__ = ["CodeUnderTest", "Defect", "Oracle", "Rule", "Selftests", "StructOps", "Suite", "rule"]


class NoSelftests(HarnessError):
    """The tree has no selftests: there is nothing to build, and nothing can be said about the kernel."""


@dataclass(frozen=True)
class BuiltSelftests:
    """The runner for the guest, a static program, and its tests, in its order."""

    runner: Path
    tests: tuple[Selftest, ...]


@dataclass(frozen=True)
class SelftestsRequest:
    """The selftests to build: `tree` is their source, `kernel` has the types that they are compiled against. `jobs` is
    the most compilers at once."""

    tree: Tree
    kernel: Kernel
    how: GuestBuild
    jobs: int = 2


class Selftests(Protocol):
    """Tests in the tree under test, built for each kernel into one program of its guests."""

    @property
    def tools(self) -> frozenset[str]:
        """The folders below tools/ of the tree that take part in the build."""

    def build(
        self, request: SelftestsRequest, toolchain: Toolchain, cache: Cache, progress: Progress
    ) -> BuiltSelftests:
        """Build them, or take them from the cache.

        Raises KernelFailure where the tree's own code does not build, NoSelftests where the tree has none.
        """

    def differ(self, one: Path, other: Path) -> bool:
        """Whether two trees have different ones: a patch may change only these."""


@dataclass(frozen=True)
class Suite:
    """What the engine must know about a subsystem to test it. Only `name` is required."""

    name: str

    code: CodeUnderTest = field(default_factory=CodeUnderTest)
    """The code under test: the object that --coverage profiles, the functions whose allocations the live-object ledger
    follows, and those that must have been seen failing by each caller."""

    kconfig: tuple[str, ...] = ()
    """Kconfig fragments that every kernel of the suite is built with, over the engine's own."""

    bpf: str = ""
    """Folder of BPF programs (``*.bpf.c``, ``*.bpf.h``): each is loaded before the guest is saved, and a test takes it
    with ``guest.load("NAME")``."""

    features: Callable[[Btf], Any] | None = None
    """Finds out the features of a kernel from its BTF, once for each kernel; the result is ``target.features``."""

    operations: Mapping[str, Any] = field(default_factory=dict)
    """Operations that sweeps and fault plans (--faults) can do, by name. The engine does not use the values, but
    refuses a plan that names another operation."""

    plan_tests: str = ""
    """The test file that carries out the entries of --faults; it takes the fixture ``fault_plan``."""

    struct_ops: StructOps | None = None
    """The type of struct_ops programs that users may hand in with --bpf, and how these are compiled."""

    user_tests: str = ""
    """The test file for such programs; it takes the fixture ``user_scheduler``."""

    selftests: Selftests | None = None
    """The tests of the tree itself, if the suite runs them."""

    rules: tuple[Rule, ...] = ()
    """How reports of the subsystem begin in the kernel log; tried before the engine's own."""

    never_blamed: tuple[str, ...] = ()
    """Regular expressions of functions that only report for others: no finding is named after one."""

    oracles: tuple[Oracle, ...] = ()
    """Oracles of the suite's own, beside the engine's, at the end of each test."""

    readers: tuple[Callable[[Any], Reader | None], ...] = ()
    """Readers of the memory of a guest that hangs, to say where: each makes a reader for a target."""

    defects: tuple[Defect, ...] = ()
    """Defects that prove the suite's oracles alive."""

    allocates_once: Mapping[str, str] = field(default_factory=dict)
    """Functions that allocate once and keep it, with the reason: their objects are no leak."""

    fixtures: tuple[str, ...] = ()
    """Modules of pytest fixtures, as they are imported (``mysuite.fixtures``)."""

    describe: Callable[[Any], str] | None = None
    """An operation of a sequence that a search found, in words."""

    folder: Path = Path()
    """The suite's folder; set by the loader."""

    def path(self, name: str) -> Path:
        """A path of the suite's, made absolute."""
        return (self.folder / name).resolve()

    @property
    def fragments(self) -> tuple[Path, ...]:
        """The Kconfig fragments' paths."""
        return tuple(self.path(name) for name in self.kconfig)

    @property
    def programs(self) -> Path | None:
        """The folder of BPF programs."""
        return self.path(self.bpf) if self.bpf else None

    def tools(self, *, user_programs: bool) -> frozenset[str]:
        """The folders below tools/ of a tree that take part in a run. The suite's own programs need none of them."""
        of_users = self.struct_ops.tools if self.struct_ops and user_programs else frozenset()
        return of_users | (self.selftests.tools if self.selftests else frozenset())
