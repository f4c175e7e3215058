# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the sources of a run: one that was read before stays what it was, whatever becomes of the tree."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UsageError
from harness.core.plan import KernelRequest, Pinned, Plan, SourceRequest, requests
from harness.core.records import PatchHow, Role
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.run.trees import Sources
from harness.source import local, series
from harness.source.tree import Tree
from tests.unit.source import letters
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
    assert "bring the old content back, or start again" in raised.value.line()


# --- base-commit ------------------------------------------------------------------------------


def sources_of(folder: Path, note: str, cache: Cache, out: Path, said: io.StringIO, base: str = "") -> list[Tree]:
    """Base and patched, as they are tested with a mail that ends in `note`."""
    mail = letters.patch("1", "[PATCH] core: one", letters.diff(2, "int second;"), note=note)
    (out / "p.mbox").write_bytes(letters.box([mail]))
    kernels = requests(SourceRequest(tree=str(folder)), ["x86_64"], [str(out / "p.mbox")], base)
    sources = Sources(Plan(kernels, seed=1), UNUSED, cache, Progress(cache.folder("durations"), said), out)
    sources.take()
    return [sources.tree(request) for request in kernels]


def test_the_base_commit_of_a_series_is_the_base(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    (folder / CORE).write_text(letters.CORE)
    git(folder, "commit", "-q", "-a", "-m", "two")
    commit = git(folder, "rev-parse", "HEAD")
    (folder / CORE).write_text("int edited;\n")
    said = io.StringIO()
    base, patched = sources_of(folder, f"base-commit: {commit}\n", cache, tmp_path, said)
    assert base.commit == commit and contents(base.path)[CORE] == letters.CORE
    assert contents(patched.path)[CORE] == letters.CORE.replace("line_2;", "second;")
    assert f"base-commit {commit[:12]} of the series is the base" in said.getvalue()
    assert (folder / CORE).read_text() == "int edited;\n"


def test_a_base_commit_that_the_tree_lacks_is_said(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    (folder / CORE).write_text(letters.CORE)
    said = io.StringIO()
    base, _ = sources_of(folder, f"base-commit: {'1' * 40}\n", cache, tmp_path, said)
    assert base.dirty and f"does not have base-commit {'1' * 12}: the series goes on what is there" in said.getvalue()


def test_a_base_that_was_named_is_the_base(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    first = git(folder, "rev-parse", "HEAD")
    (folder / CORE).write_text(letters.CORE)
    git(folder, "commit", "-q", "-a", "-m", "two")
    base, _ = sources_of(folder, f"base-commit: {first}\n", cache, tmp_path, io.StringIO(), "HEAD")
    assert contents(base.path)[CORE] == letters.CORE


def test_the_copy_of_a_patch_has_its_message_and_is_read_as_the_same(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    (folder / CORE).write_text(letters.CORE)
    sources_of(folder, "", cache, tmp_path, io.StringIO())
    (copy,) = (tmp_path / "patches").iterdir()
    assert copy.read_text().startswith("Why.\n\nSigned-off-by: A Person <a@example.org>\n---\n kernel/sched")
    (again,) = series.read([str(copy)])
    assert again.paths == (CORE,) and again.data.decode() in copy.read_text()


# --- in the tree already ----------------------------------------------------------------------


def settled(folder: Path, text: str, cache: Cache, out: Path) -> Sources:
    (out / "p.diff").write_text(text)
    kernels = requests(SourceRequest(tree=str(folder)), ["x86_64", "arm64"], [str(out / "p.diff")])
    sources = Sources(Plan(kernels, seed=1), UNUSED, cache, Progress(cache.folder("durations"), io.StringIO()), out)
    sources.take()
    return sources


def test_a_tree_that_has_the_patch_is_compared_with_itself_without(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    now = letters.CORE.replace("line_2;", "second;")
    (folder / CORE).write_text(now)
    sources = settled(folder, letters.diff(2, "int second;"), cache, tmp_path)
    base, patched = (sources.tree(request) for request in sources.plan.kernels[:2])
    assert (contents(base.path)[CORE], contents(patched.path)[CORE]) == (letters.CORE, now)
    assert [fate.how for fate in sources.fates.fates] == [PatchHow.TAKEN_OUT]
    # A replay of what was tested needs no patch; the reader has it all the same.
    assert sources.patches() == () and len(list((tmp_path / "patches").iterdir())) == 1


def test_a_tree_that_cannot_do_without_is_tested_alone(tmp_path: Path, cache: Cache) -> None:
    folder = git_tree(tmp_path / "linux")
    text = (
        letters.diff(2, "int second;")
        + letters.diff(20, "int twenty_and_more;").partition("+++ ")[2].partition("\n")[2]
    )
    (folder / CORE).write_text(
        letters.CORE.replace("line_2;", "second;").replace("int line_20;", "int scx_twenty_and_more;")
    )
    sources = settled(folder, text, cache, tmp_path)
    assert [(one.arch, one.role, one.patches) for one in sources.plan.kernels] == [
        ("x86_64", Role.TREE, ()),
        ("arm64", Role.TREE, ()),
    ]
    assert sources.fates.alone and sources.added("x86_64") == {CORE: (2, 20)}
    assert contents(sources.tree(sources.plan.kernels[0]).path)[CORE] == (folder / CORE).read_text()
