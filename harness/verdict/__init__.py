# SPDX-License-Identifier: GPL-2.0-only
"""The verdict: results from the event log, base against patched; never prints."""

from harness.verdict.judge import judge
from harness.verdict.rows import (
    BOOT,
    BUILD,
    PATCH,
    AllowedRow,
    EvidenceRow,
    KernelRow,
    MachineRow,
    Results,
    RunRow,
    SiteRow,
    TestRow,
)

__all__ = [
    "BOOT",
    "BUILD",
    "PATCH",
    "AllowedRow",
    "EvidenceRow",
    "KernelRow",
    "MachineRow",
    "Results",
    "RunRow",
    "SiteRow",
    "TestRow",
    "judge",
]
