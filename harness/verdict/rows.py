# SPDX-License-Identifier: GPL-2.0-only
"""The shape of OUT/results.json: a run, row by row.

A test's row has every field of its result in the event log: one more there is one more in the file. The other rows are
types of their own, for records.py holds more of kernels and machines than users should parse. Fields may be added,
never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.core.plan import Allowed
from harness.core.records import (
    Canary,
    Comparison,
    FaultSite,
    MachineSpec,
    Outcome,
    Patches,
    Protection,
    Role,
    TestResult,
    Verdict,
)
from harness.coverage.coverage import Coverage

BUILD, BOOT = "build", "boot"
"""Ids of the pseudo-tests that stand for a kernel that does not compile or does not boot."""

PATCH = "patch"
"""Whether the patch changes what is built: passed, or skipped where it does not."""
BATCH = "batch::"
"""Prefix of the ids of leak batches."""
SELFTESTS_BUILD = "selftests-build"
"""Whether the tree's own selftests compile; inconclusive where it has none."""
PSEUDO = (BUILD, SELFTESTS_BUILD, BOOT, PATCH)


@dataclass(frozen=True)
class RunRow:
    """How the run was requested; `started` is seconds since the epoch, `seconds` its wall time; `protection` is the
    sandbox's protection as probed, empty in a run that ended before that."""

    argv: tuple[str, ...] = ()
    seed: int | None = None
    plan: Any = None
    version: str = ""
    id: str = ""
    started: float = 0.0
    seconds: float = 0.0
    protection: Protection = field(default_factory=Protection)


@dataclass(frozen=True)
class KernelRow:
    """One kernel; `tree` and `config_sha256` are content hashes, `build_seconds` wall time. `compiler` and `fragments`
    tell what made its code and its configuration."""

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
    compiler: str = ""
    fragments: tuple[str, ...] = ()


@dataclass(frozen=True)
class MachineRow:
    """One machine that a kernel ran on; seconds are wall time, `why` says why this accelerator."""

    arch: str
    spec: MachineSpec
    accelerator: str
    why: str
    boot_seconds: float
    restore_seconds: float
    kernel: str = ""


@dataclass(frozen=True)
class EvidenceRow:
    """Whether an oracle watched a test to its end; `lost` counts records that it never saw."""

    oracle: str
    watched: bool = True
    lost: int = 0
    why: str = ""


@dataclass(frozen=True)
class TestRow(TestResult):
    """One test on one kernel and machine, as judged: its result in the event log without the oracles' payloads.

    `excused` says why a failure speaks against nothing that is under test; empty if it does.
    """

    evidence: tuple[EvidenceRow, ...] = ()  # type: ignore[assignment]  # less than an Evidence
    excused: str = ""

    @property
    def flaky(self) -> bool:
        """Whether it passed, but not at the first attempt."""
        return self.outcome is Outcome.PASS and self.attempts > 1

    @property
    def bad(self) -> bool:
        """Whether it failed, or passed but not at the first attempt."""
        return self.outcome is Outcome.FAIL or self.flaky

    def describe(self) -> str:
        """Say in one line what went wrong."""
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

    `findings` is how many it allowed or, if it is `expired`, would have. `could`: it could be used, as tests ran on an
    architecture that it is about.
    """

    findings: int = 0
    could: bool = True


@dataclass(frozen=True)
class Results:
    """OUT/results.json. `why` are one-line reasons, the verdict's own first; `next` is a command.

    `remarks` are lines that do not count, such as declarations that no test needed.
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
    patches: Patches = field(default_factory=Patches)

    def role(self, row: TestRow | SiteRow) -> Role:
        """The role of the kernel a test ran on; one the log does not describe counts as the tree."""
        return next((kernel.role for kernel in self.kernels if kernel.id == row.kernel), Role.TREE)

    def under_test(self) -> tuple[TestRow, ...]:
        """The tests of the kernels that the verdict is about."""
        return tuple(test for test in self.tests if self.role(test) is not Role.BASE)
