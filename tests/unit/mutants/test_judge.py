# SPDX-License-Identifier: GPL-2.0-only
"""Whether a finding names the function that was broken."""

from __future__ import annotations

import pytest

from harness.core.records import Finding, Frame
from harness.mutants.judge import _right, names

SITE = "prepare_alloc_pages < pcpu_populate_chunk < pcpu_alloc_noprof < init_dsq < create < bpf < __sys_bpf"


def finding(
    function: str | None = "work", kind: str = "panic", site: str | None = None, title: str = "it died"
) -> Finding:
    frames = tuple(Frame(name) for name in ("list_del", "entry", "work", "irq", "timer"))
    return Finding("crash", kind, title, "s", function, frames=frames, site=site)


@pytest.mark.parametrize(
    ("found", "function", "named"),
    [
        (finding(), "work", True),
        (finding(), "irq", True),
        (finding(), "timer", False),
        (finding(title="an object of init_dsq()"), "init_dsq", True),
        (finding(), "init_dsq", False),
        (finding(site=SITE), "init_dsq", True),
        (finding(site=SITE), "create", True),
        (finding(site=SITE), "bpf", False),
        (finding(site=SITE), "pcpu_alloc_noprof", False),
    ],
)
def test_who_is_named(found: Finding, function: str, named: bool) -> None:
    assert names(found, (function,)) is named


def test_who_allocated_is_right_of_a_leak_only() -> None:
    assert _right(finding("init_dsq", "percpu leak"), ("exit_dsq",), ("init_dsq",))
    assert not _right(finding("init_dsq", "oops"), ("exit_dsq",), ("init_dsq",))
