# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the sources of a run: one that was read before stays what it was, whatever becomes of the tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.plan import KernelRequest, Pinned, Plan, SourceRequest
from harness.source import local
from harness.sources import Sources
from tests.unit.source.kernel_trees import contents, git, git_tree

CORE = "kernel/sched/core.c"
UNUSED: Any = None
"""A toolchain fetches Debian's sources alone."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 0)


def read(source: SourceRequest, cache: Cache, out: Path) -> Any:
    plan = Plan((KernelRequest(source, "x86_64"),), seed=1)
    return Sources(plan, UNUSED, cache, Progress(cache.folder("durations")), out).tree(plan.kernels[0])


def test_what_was_read_before_is_what_it_was(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    (folder / CORE).write_text("int edited;\n")
    before = local.snapshot(folder, cache, Progress(cache.folder("durations")))
    pinned = Pinned(before.tree, before.commit, before.dirty, before.origin)
    source = SourceRequest(tree=str(folder), pinned=pinned)
    (folder / CORE).write_text("int edited_once_more;\n")
    git(folder, "commit", "-q", "-a", "-m", "two")
    assert read(source, cache, tmp_path) == before
    assert contents(before.path)[CORE] == "int edited;\n"
    now = read(SourceRequest(tree=str(folder)), cache, tmp_path)
    assert (now.tree != before.tree, now.dirty, before.dirty) == (True, False, True)


def test_what_the_cache_has_no_more_is_read_again_if_it_lies_there_still(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    before = local.snapshot(folder, cache, Progress(cache.folder("durations")))
    source = SourceRequest(tree=str(folder), pinned=Pinned(before.tree))
    cache.release("source", before.tree)
    assert [entry.kind for entry in cache.prune(cap=0)] == ["source"]
    assert read(source, cache, tmp_path).tree == before.tree
    cache.release("source", before.tree)
    assert cache.prune(cap=0)
    (folder / CORE).write_text("int edited;\n")
    with pytest.raises(UsageError) as raised:
        read(source, cache, tmp_path)
    assert f"{folder} was {before.tree[:12]}, is now " in raised.value.line()
    assert "bring the old content back, or begin anew" in raised.value.line()
