# SPDX-License-Identifier: GPL-2.0-only
"""A build folder that stays, on a real kernel: two commits built one on the other, and from nothing, are the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.core.definition import load
from harness.core.options import DEFAULT_JOBS
from harness.core.records import Kernel, Role
from harness.host.cache import Cache, remove
from harness.host.progress import Progress
from harness.host.toolchain import open_toolchain
from harness.kbuild import build_folders, kbuild
from harness.kbuild.make import BuildRequest
from harness.kbuild.sections import differing
from harness.source import local
from harness.source.tree import Tree
from tests.e2e.trees import UserTree

pytestmark = pytest.mark.full

ARCH = os.environ.get("KHARNESS_ARCH", "x86_64")
CHANGED = ("destroy_dsq", "\trcu_read_lock();", "\tWARN_ON_ONCE(!sch);\n\trcu_read_lock();")
"""Of the scheduler."""


def entries_differ(one: Path, other: Path) -> list[str]:
    """What two entries of kernels differ in: loaded sections by name, other files by theirs, fields of meta.json."""
    found = list(differing(one / "vmlinux", other / "vmlinux"))
    names = {str(path.relative_to(top)) for top in (one, other) for path in top.rglob("*") if path.is_file()}
    # vmlinux has been compared; the image holds BTF too, which pahole numbers as its threads come.
    for name in sorted(names - {"vmlinux", "image", "meta.json"}):
        if not ((one / name).is_file() and (other / name).is_file()):
            found.append(f"{name} is in one only")
        elif (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    metas = [json.loads((top / "meta.json").read_text()) for top in (one, other)]
    for meta in metas:
        meta["warnings"].sort()
    return found + [
        key
        for key in metas[0].keys() | metas[1].keys()
        if key != "build_seconds" and metas[0].get(key) != metas[1].get(key)
    ]


def test_two_commits_one_on_the_other_and_from_nothing(user_tree: UserTree, cache_home: Path, cache: Path) -> None:
    steps, plain = Cache(cache, 0), Cache(cache_home / "plain", 0)
    (plain.root / "folder").mkdir()
    (plain.root / "folder/ccache").symlink_to(steps.folder("ccache"))
    progress = Progress(None)
    toolchain = open_toolchain("root", ARCH, steps, progress)

    def build(tree: Tree, where: Cache, incremental: bool) -> Kernel:
        request = BuildRequest(tree, load(ARCH), jobs=DEFAULT_JOBS, incremental=incremental)
        return kbuild.build(request, toolchain, where, progress, Role.TREE)

    try:
        with user_tree.edited(user_tree.scheduler, *CHANGED):
            trees = [local.snapshot(user_tree.folder, steps, progress)]
        with user_tree.rewritten("kernel/sched/sched.h", [(r"^struct rq \{$", "struct rq {\n\tlong first_of_all;")]):
            trees.append(local.snapshot(user_tree.folder, steps, progress))
        for number, tree in enumerate(trees):
            kernel = build(tree, steps, True)
            assert not kernel.cached
            assert entries_differ(Path(kernel.path), Path(build(tree, plain, False).path)) == [], f"commit {number}"
        assert len([entry for entry in steps.entries() if entry.kind == build_folders.KIND]) == 1
    finally:
        remove(plain.root)
