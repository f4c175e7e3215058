# SPDX-License-Identifier: GPL-2.0-only
"""The golden logs: every folder of golden/ holds a log and the findings that it must give, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.core.records import Finding
from harness.oracles import dmesg
from harness.oracles.splat.log import parse_console
from tests.unit.oracles.logs import GOLDEN, NAMES, records


def wanted(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((GOLDEN / name / "expected.json").read_text())
    return found


def shown(finding: Finding) -> dict[str, Any]:
    keys = ("kind", "title", "function", "file", "line", "signature", "count")
    frames = [f.function for f in finding.frames if f.reliable][:3]
    stacks = {stack.name: [f.function for f in stack.frames if f.reliable] for stack in finding.stacks}
    return {k: getattr(finding, k) for k in keys} | {"frames": frames} | ({"stacks": stacks} if stacks else {})


ON_BOTH = (
    "warn",
    "bug",
    "null deref",
    "page fault",
    "kasan",
    "ubsan",
    "lockdep",
    "suspicious rcu",
    "atomic sleep",
    "rcu stall",
    "soft lockup",
    "hard lockup",
    "hung task",
    "list corruption",
    "refcount",
    "allocation failure",
    "sched_ext",
    "panic",
    "percpu use-after-free",
    "percpu double free",
)


@pytest.mark.parametrize("arm64", [False, True])
def test_every_kind_has_a_golden_log_on_both_architectures(arm64: bool) -> None:
    names = [name for name in NAMES if name.endswith("_arm64") == arm64 and not name.endswith("_riscv64")]
    kinds = {finding["kind"] for name in names for finding in wanted(name)}
    # arm64 has no such exception: it says page fault.
    assert not {*ON_BOTH, *(() if arm64 else ("general protection fault",))} - kinds


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    found = dmesg.findings(records(name))
    assert [shown(f) for f in found] == wanted(name)
    for one in found:
        assert one.log, "a finding shows its log"
        assert not one.expected and one.counts


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("clean")])
def test_console_and_kmsg_say_the_same(name: str) -> None:
    """The same records through the other format give the same findings."""
    ours = records(name)
    lines = [f"[{r.time or 0:12.6f}][{r.caller:>6}] {r.text}" for r in ours if r.time is not None]
    assert [shown(f) for f in dmesg.findings(parse_console(lines))] == [shown(f) for f in dmesg.findings(ours)]
