# SPDX-License-Identifier: GPL-2.0-only
"""Owns the shape of OUT/results.json: what a run is told to have been, row by row.

The rows are types of their own where records.py holds more than users should parse, so that the file
stays as it is when the harness's inner types grow. Fields may be added, never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.oracles.coverage import Coverage
from harness.plan import Allowed
from harness.records import (
    Canary,
    Comparison,
    Dump,
    FaultSite,
    FaultSummary,
    Finding,
    Kept,
    MachineSpec,
    ModelSummary,
    Outcome,
    Role,
    SearchSummary,
    Verdict,
)

BUILD, BOOT = "build", "boot"
"""Ids of the pseudo-tests that stand for a kernel that does not compile or does not boot."""

PATCH = "patch"
"""Whether the patch changes what is built: passed, or skipped where it does not."""
BATCH = "batch::"
"""Ids of the leak batch begin so."""
SELFTESTS_BUILD = "selftests-build"
"""Whether the tree's own selftests compile; inconclusive where it has none."""
PSEUDO = (BUILD, SELFTESTS_BUILD, BOOT, PATCH)


@dataclass(frozen=True)
class RunRow:
    """How the run was asked for; `started` is seconds since the epoch, `seconds` its wall time."""

    argv: tuple[str, ...] = ()
    seed: int | None = None
    plan: Any = None
    version: str = ""
    id: str = ""
    started: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class KernelRow:
    """One kernel; `tree` and `config_sha256` are content hashes, `build_seconds` wall time."""

    id: str
    role: Role
    arch: str
    release: str
    commit: str
    tree: str
    dirty: bool
    patches: tuple[str, ...]
    config: str
    config_sha256: str
    build_seconds: float
    cached: bool
    source: str = ""
    toolchain: str = ""


@dataclass(frozen=True)
class MachineRow:
    """One machine a kernel ran on; seconds are wall time, `why` tells why this accelerator."""

    arch: str
    spec: MachineSpec
    accelerator: str
    why: str
    boot_seconds: float
    restore_seconds: float
    kernel: str = ""


@dataclass(frozen=True)
class EvidenceRow:
    """That an oracle watched a test to its end; `lost` counts records it never saw."""

    oracle: str
    watched: bool = True
    lost: int = 0
    why: str = ""


@dataclass(frozen=True)
class TestRow:
    """One test on one kernel and machine, as judged.

    `excused` tells why a failure speaks against nothing that is under test; empty if it does.
    """

    __test__ = False  # not a test class for pytest to collect

    id: str
    arch: str
    kernel: str
    machine: str
    outcome: Outcome
    seconds: float = 0.0
    attempts: int = 1
    why: str = ""
    replay: str | None = None
    step: str = ""
    faults: FaultSummary = field(default_factory=FaultSummary)
    model: ModelSummary = field(default_factory=ModelSummary)
    evidence: tuple[EvidenceRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    excused: str = ""
    kept: Kept | None = None
    dump: Dump | None = None
    search: SearchSummary | None = None

    @property
    def flaky(self) -> bool:
        """Whether it passed, but not at once."""
        return self.outcome is Outcome.PASS and self.attempts > 1

    @property
    def bad(self) -> bool:
        """Whether it failed, or passed but not at once."""
        return self.outcome is Outcome.FAIL or self.flaky

    def told(self) -> str:
        """What went wrong, in one line."""
        lines = self.why.splitlines() or [f.title for f in self.findings if f.counts] or [str(self.outcome)]
        return f"passed only at attempt {self.attempts}" if self.flaky else lines[0]


@dataclass(frozen=True)
class SiteRow(FaultSite):
    """One fault site of one kernel, over all tests and machines: counts are sums, `outcome` is the worst."""

    kernel: str = ""
    arch: str = ""
    machines: tuple[str, ...] = ()


@dataclass(frozen=True)
class AllowedRow(Allowed):
    """One entry of the allow-list, and its use.

    `findings` is how many it allowed or, if it is `expired`, would have. It is used at all only where it `could` be:
    tests ran on an architecture of its.
    """

    findings: int = 0
    could: bool = True


@dataclass(frozen=True)
class Results:
    """OUT/results.json. `why` are one-line reasons, the verdict's own first; `next` is a command.

    `remarks` are lines that do not count: what somebody declared and no test needed.
    """

    schema: int
    verdict: Verdict
    run: RunRow
    kernels: tuple[KernelRow, ...] = ()
    machines: tuple[MachineRow, ...] = ()
    canaries: tuple[Canary, ...] = ()
    tests: tuple[TestRow, ...] = ()
    comparison: tuple[Comparison, ...] = ()
    why: tuple[str, ...] = ()
    next: str = ""
    sites: tuple[SiteRow, ...] = ()
    remarks: tuple[str, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    allowed: tuple[AllowedRow, ...] = ()

    def role(self, row: TestRow | SiteRow) -> Role:
        """The role of the kernel a test ran on; one the log does not describe counts as the tree."""
        return next((kernel.role for kernel in self.kernels if kernel.id == row.kernel), Role.TREE)

    def under_test(self) -> tuple[TestRow, ...]:
        """The tests of the kernels that the verdict is about."""
        return tuple(test for test in self.tests if self.role(test) is not Role.BASE)
