# SPDX-License-Identifier: GPL-2.0-only
"""Known-good kernels that differ from upstream's in form only: nothing may be found, and no fault may miss its mark."""

from __future__ import annotations

import pytest

from tests.e2e.command import Kharness
from tests.e2e.trees import UserTree


@pytest.mark.full
def test_init_dsq_inlined_and_renamed(kharness: Kharness, user_tree: UserTree) -> None:
    """The k-th alloc_percpu() of a DSQ is found by who makes it, not by the name or the text of a function."""
    changes = [
        (r"\binit_dsq\(", "set_up_queue("),
        (r"^static s32 set_up_queue\(", "static __always_inline s32 set_up_queue("),
    ]
    with user_tree.rewritten(user_tree.scheduler, changes):
        done = kharness("run", "--arch", "x86_64", "--tree", str(user_tree.folder), "-k", "test_percpu_faults")
    done.expect(0)
    rows = {row["id"].rpartition("::")[2]: row for row in done.results["tests"] if row["machine"] == "default"}
    sites = [site for row in rows.values() for site in row["faults"]["sites"]]
    assert any("set_up_queue" in site["stack"] for site in sites)
    skipped = [name for name, row in rows.items() if row["outcome"] == "skip"]
    assert skipped == ["test_attach_by_fail_function"], (
        "its stack filter needs a function of its own, nothing else does"
    )
