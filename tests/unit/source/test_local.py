# SPDX-License-Identifier: GPL-2.0-only
"""Tests of snapshots: what lies in the tree now is taken, and not a byte of the user's changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import Exit, HarnessError, UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source import local
from harness.source.local import snapshot
from harness.source.tree import kernel_version

from . import kernel_trees as trees


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return trees.git_tree(tmp_path / "linux")


def test_clean_git_tree(tree: Path, cache: Cache, progress: Progress) -> None:
    before = trees.fingerprint(tree)
    taken = snapshot(tree, cache, progress)
    assert trees.fingerprint(tree) == before
    assert trees.contents(taken.path) == dict(trees.FILES)
    assert os.access(taken.path / "scripts/tool.sh", os.X_OK)
    assert taken.tree == trees.git(tree, "rev-parse", "HEAD^{tree}")
    assert taken.commit == trees.git(tree, "rev-parse", "HEAD")
    assert (taken.dirty, taken.version, taken.origin) == (False, "7.2.13", str(tree))
    assert not (taken.path / ".git").exists()


def test_uncommitted_and_untracked_are_tested_ignored_not(tree: Path, cache: Cache, progress: Progress) -> None:
    (tree / "kernel/sched/core.c").write_text("int edited;\n")
    (tree / "kernel/sched/new.c").write_text("int new;\n")
    (tree / "kernel/sched/staged.c").write_text("int staged;\n")
    trees.git(tree, "add", "kernel/sched/staged.c")
    (tree / "kernel/sched/staged.c").write_text("int then_edited;\n")
    (tree / "kernel/sched/core.o").write_text("object")
    (tree / "vmlinux").write_text("object")
    (tree / "Kbuild").unlink()
    (tree / "Kbuild").symlink_to("Kconfig")
    (tree / ".git/info/exclude").write_text("private.c\n")
    (tree / "private.c").write_text("secret")
    before = trees.fingerprint(tree)
    taken = snapshot(tree, cache, progress)
    assert trees.fingerprint(tree) == before
    assert taken.dirty
    seen = trees.contents(taken.path)
    assert seen["kernel/sched/core.c"] == "int edited;\n"
    assert seen["kernel/sched/new.c"] == "int new;\n"
    assert seen["kernel/sched/staged.c"] == "int then_edited;\n"
    assert not {"kernel/sched/core.o", "vmlinux", "private.c"} & set(seen)
    assert os.readlink(taken.path / "Kbuild") == "Kconfig"
    (tree / "kernel/sched/new.c").unlink()
    assert "kernel/sched/new.c" not in trees.contents(snapshot(tree, cache, progress).path)


def test_same_content_is_one_entry(tree: Path, cache: Cache, progress: Progress, tmp_path: Path) -> None:
    first = snapshot(tree, cache, progress)
    (tree / "kernel/sched/core.c").write_text("int edited;\n")
    second = snapshot(tree, cache, progress)
    (tree / "kernel/sched/core.c").write_text(trees.FILES["kernel/sched/core.c"])
    third = snapshot(tree, cache, progress)
    assert first.tree == third.tree != second.tree
    assert first.path == third.path != second.path
    plain = snapshot(trees.write_tree(tmp_path / "plain"), cache, progress)
    assert plain.path == first.path
    assert (plain.commit, plain.dirty) == ("", False)


def test_edit_of_same_size_and_time_is_seen(tree: Path, cache: Cache, progress: Progress) -> None:
    file = tree / "kernel/sched/core.c"
    index = (tree / ".git/index").stat()
    os.utime(file, ns=(index.st_mtime_ns, index.st_mtime_ns))
    trees.git(tree, "update-index", "--refresh")
    os.utime(tree / ".git/index", ns=(index.st_mtime_ns, index.st_mtime_ns))
    file.write_text("int CORE;\n")  # as long as before
    os.utime(file, ns=(index.st_mtime_ns, index.st_mtime_ns))
    assert trees.contents(snapshot(tree, cache, progress).path)["kernel/sched/core.c"] == "int CORE;\n"


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_edits_hidden_from_git_are_tested(tree: Path, cache: Cache, progress: Progress, flag: str) -> None:
    trees.git(tree, "update-index", flag, "kernel/sched/core.c")
    (tree / "kernel/sched/core.c").write_text("int hidden_edit;\n")
    taken = snapshot(tree, cache, progress)
    assert trees.contents(taken.path)["kernel/sched/core.c"] == "int hidden_edit;\n"
    assert taken.dirty


def _worktree(tree: Path, tmp_path: Path) -> Path:
    trees.git(tree, "worktree", "add", "-q", str(tmp_path / "linked"))
    return tmp_path / "linked"


def _shallow(tree: Path, tmp_path: Path) -> Path:
    trees.git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    trees.git(tmp_path, "clone", "-q", "--depth=1", f"file://{tree}", "shallow")
    return tmp_path / "shallow"


def _shared(tree: Path, tmp_path: Path) -> Path:
    trees.git(tmp_path, "clone", "-q", "--shared", str(tree), "shared")
    return tmp_path / "shared"


def _split_index(tree: Path, tmp_path: Path) -> Path:
    trees.git(tree, "update-index", "--split-index")
    return tree


def _no_index(tree: Path, tmp_path: Path) -> Path:
    (tree / ".git/index").unlink()
    return tree


def _odd_name(tree: Path, tmp_path: Path) -> Path:
    return tree.rename(tmp_path / "a tree: with 'odd' \"name\"")


@pytest.mark.parametrize("make", [_worktree, _shallow, _shared, _split_index, _no_index, _odd_name])
def test_shapes_of_repositories(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress, make: Callable[[Path, Path], Path]
) -> None:
    folder = make(tree, tmp_path)
    before = trees.fingerprint(folder), trees.fingerprint(tmp_path / "linux")
    clean = snapshot(folder, cache, progress)
    assert (clean.dirty, clean.commit) == (False, trees.git(folder, "rev-parse", "HEAD"))
    assert (trees.fingerprint(folder), trees.fingerprint(tmp_path / "linux")) == before
    (folder / "kernel/sched/core.c").write_text("int edited;\n")
    before = trees.fingerprint(folder), trees.fingerprint(tmp_path / "linux")
    dirty = snapshot(folder, cache, progress)
    assert dirty.dirty
    assert trees.contents(dirty.path)["kernel/sched/core.c"] == "int edited;\n"
    assert (trees.fingerprint(folder), trees.fingerprint(tmp_path / "linux")) == before


def test_sha256_repository(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    folder = trees.write_tree(tmp_path / "linux")
    trees.git(folder, "init", "-q", "--object-format=sha256")
    trees.git(folder, "add", "-A")
    trees.git(folder, "commit", "-q", "-m", "one")
    taken = snapshot(folder, cache, progress)
    assert len(taken.tree) == 64
    assert not taken.dirty


def test_before_the_first_commit(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    folder = trees.write_tree(tmp_path / "linux")
    trees.git(folder, "init", "-q")
    taken = snapshot(folder, cache, progress)
    assert (taken.commit, taken.dirty) == ("", True)


def test_nothing_of_the_users_is_run(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trap = tmp_path / "trap"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {trap}\ncat\n")
    script.chmod(0o755)
    for name in ("pre-commit", "post-index-change", "post-checkout"):
        (tree / ".git/hooks").mkdir(exist_ok=True)
        (tree / ".git/hooks" / name).symlink_to(script)
    for key in ("filter.x.clean", "filter.x.smudge", "core.fsmonitor", "core.hooksPath"):
        trees.git(tree, "config", key, str(script))
    (tree / ".gitattributes").write_text("*.c filter=x text eol=crlf ident export-ignore\n")
    (tree / "kernel/sched/core.c").write_text("/* $Id$ */\r\nint edited;\n")
    before = trees.fingerprint(tree)
    taken = snapshot(tree, cache, progress)
    assert not trap.exists()
    assert (taken.path / "kernel/sched/core.c").read_bytes() == b"/* $Id$ */\r\nint edited;\n"
    assert trees.fingerprint(tree) == before


def test_environment_of_a_git_hook_does_not_mislead(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert not snapshot(tree, cache, progress).dirty


def test_tree_of_another_user(tree: Path, cache: Cache, progress: Progress) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a tree away")
    for path in (tree, *tree.rglob("*")):
        os.lchown(path, 12345, 12345)
    before = trees.fingerprint(tree)
    assert snapshot(tree, cache, progress).commit
    assert trees.fingerprint(tree) == before


def test_read_only_tree(tree: Path, cache: Cache, progress: Progress) -> None:
    for path in (*tree.rglob("*"), tree):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = trees.fingerprint(tree)
    try:
        assert trees.contents(snapshot(tree, cache, progress).path)
        assert trees.fingerprint(tree) == before
    finally:
        for path in (tree, *tree.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


# --- plain folders ----------------------------------------------------------------------------


def test_plain_folder_without_its_objects(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    folder = trees.write_tree(tmp_path / "plain")
    (folder / "kernel/sched/core.o").write_text("object")
    (folder / ".config").write_text("CONFIG_X=y")
    (folder / "kernel/.gitignore").write_text("made.c\n")
    (folder / "kernel/made.c").write_text("made")
    before = trees.fingerprint(folder)
    first = snapshot(folder, cache, progress)
    assert trees.fingerprint(folder) == before
    assert trees.contents(first.path) == {**trees.FILES, "kernel/.gitignore": "made.c\n"}
    (folder / "kernel/sched/core.c").unlink()
    (folder / "kernel/sched/other.c").write_text("int other;\n")
    seen = trees.contents(snapshot(folder, cache, progress).path)
    assert "kernel/sched/core.c" not in seen
    assert seen["kernel/sched/other.c"] == "int other;\n"


def test_plain_folder_inside_another_repository(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("plain\n")
    folder = trees.write_tree(tmp_path / "plain")
    taken = snapshot(folder, cache, progress)
    assert taken.commit == ""
    assert trees.contents(taken.path) == dict(trees.FILES)


def test_top_ignore_file_of_debians_tarball(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    blanket = trees.FILES[".gitignore"] + "/*\n!/debian/\n"
    folder = trees.write_tree(tmp_path / "plain", {**trees.FILES, ".gitignore": blanket})
    (folder / "kernel/sched/core.o").write_text("object")
    (folder / "vmlinux").write_text("object")
    (folder / "odd[1]*").write_text("kept")
    seen = trees.contents(snapshot(folder, cache, progress).path)
    assert seen == {**trees.FILES, ".gitignore": blanket, "odd[1]*": "kept"}


def test_newly_ignored_file_leaves_the_snapshot(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    folder = trees.write_tree(tmp_path / "plain")
    (folder / "extra.c").write_text("x")
    assert "extra.c" in trees.contents(snapshot(folder, cache, progress).path)
    (folder / ".gitignore").write_text("extra.c\n")
    assert "extra.c" not in trees.contents(snapshot(folder, cache, progress).path)


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["Makefile", "Kconfig", "kernel/sched/core.c"])
def test_not_a_kernel_tree(tmp_path: Path, cache: Cache, progress: Progress, missing: str) -> None:
    folder = trees.write_tree(tmp_path / "x", {k: v for k, v in trees.FILES.items() if k != missing})
    with pytest.raises(UsageError) as caught:
        snapshot(folder, cache, progress)
    assert missing.removesuffix("/core.c") in caught.value.line()
    assert "--tree" in caught.value.line()
    assert caught.value.exit is Exit.USAGE
    assert cache.entries() == []


def test_no_folder_and_some_other_makefile(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        snapshot(tmp_path / "none", cache, progress)
    folder = trees.write_tree(tmp_path / "x", {**trees.FILES, "Makefile": "all:\n\techo\n"})
    with pytest.raises(UsageError, match="VERSION and PATCHLEVEL"):
        snapshot(folder, cache, progress)


def test_broken_repository_is_not_taken_for_a_plain_folder(tree: Path, cache: Cache, progress: Progress) -> None:
    (tree / ".git/HEAD").write_text("garbage")
    with pytest.raises(UsageError, match="git cannot read the repository"):
        snapshot(tree, cache, progress)


def test_unreadable_file_is_named(tree: Path, cache: Cache, progress: Progress) -> None:
    (tree / "kernel/empty-repository/.git").mkdir(parents=True)
    trees.git(tree / "kernel/empty-repository", "init", "-q")
    with pytest.raises(UsageError, match="empty-repository"):
        snapshot(tree, cache, progress)


def test_tree_that_keeps_changing(
    tree: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(100))
    real = local._Private._read

    def busy(self: local._Private) -> str:
        (tree / "kernel/sched/core.c").write_text(f"int edit_{next(count)};\n")
        return real(self)

    monkeypatch.setattr(local._Private, "_read", busy)
    with pytest.raises(HarnessError, match="keeps changing"):
        snapshot(tree, cache, progress)


def test_tree_that_changes_once_is_read_again(
    tree: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    real = local._Private._read

    def once(self: local._Private) -> str:
        reads.append(1)
        if len(reads) == 2:
            (tree / "kernel/sched/core.c").write_text("int edited;\n")
        return real(self)

    monkeypatch.setattr(local._Private, "_read", once)
    assert trees.contents(snapshot(tree, cache, progress).path)["kernel/sched/core.c"] == "int edited;\n"
    assert len(reads) == 3


def test_leftovers_of_a_killed_run_do_no_harm(tree: Path, cache: Cache, progress: Progress) -> None:
    snapshot(tree, cache, progress)
    (place,) = cache.folder("git").iterdir()
    (place / "index.lock").write_text("")
    (tree / "kernel/sched/core.c").write_text("int edited;\n")
    assert snapshot(tree, cache, progress).dirty


RUN = """
import io, sys
from pathlib import Path
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.local import snapshot
print(snapshot(Path(sys.argv[1]), Cache(Path(sys.argv[2]), 0), Progress(None, io.StringIO())).tree)
"""


def test_two_runs_at_once(tree: Path, cache: Cache, progress: Progress) -> None:
    (tree / "kernel/sched/core.c").write_text("int edited;\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", RUN, str(tree), str(cache.root)]
    runs = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {one.communicate(timeout=120)[0].strip() for one in runs}
    assert said == {snapshot(tree, cache, progress).tree}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 0\nEXTRAVERSION = -rc2\n", "7.3.0-rc2"),
        ("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 107\nEXTRAVERSION =\n\nVERSION = 1\n", "6.12.107"),
    ],
)
def test_kernel_version(tmp_path: Path, text: str, version: str) -> None:
    assert kernel_version(trees.write_tree(tmp_path, {**trees.FILES, "Makefile": text})) == version


def test_a_near_snapshot_is_made_of_links(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    """Commit after commit: only what differs is written anew, and no snapshot changes with another."""
    folder = trees.git_tree(tmp_path / "linux")
    first = trees.git(folder, "rev-parse", "HEAD")
    (folder / "kernel/sched/core.c").write_text("int other;\n")
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/new.c").write_text("int new;\n")
    (folder / "link").symlink_to("Makefile")
    (folder / "scripts/tool.sh").chmod(0o644)
    trees.git(folder, "add", "-A", "-f")
    trees.git(folder, "commit", "-q", "-m", "two")
    second = trees.git(folder, "rev-parse", "HEAD")
    trees.git(folder, "rm", "-q", "-r", "deep", "link")
    (folder / "link").mkdir()
    (folder / "link/file").write_text("a folder now\n")
    trees.git(folder, "add", "-A", "-f")
    trees.git(folder, "commit", "-q", "-m", "three")
    third = trees.git(folder, "rev-parse", "HEAD")
    taken = [local.snapshot(folder, cache, progress, revision) for revision in (first, second, third, first)]
    assert taken[0].path == taken[3].path
    for tree, revision in zip(taken, (first, second, third), strict=False):
        plain = Cache(tmp_path / f"fresh-{revision}", 0)
        fresh = local.snapshot(folder, plain, progress, revision)
        assert (tree.tree, trees.contents(tree.path)) == (fresh.tree, trees.contents(fresh.path))
        shapes = [
            {
                str(path.relative_to(it.path)): (
                    path.is_dir() and not path.is_symlink(),
                    path.lstat().st_mode & 0o111,
                    path.is_symlink(),
                )
                for path in it.path.rglob("*")
            }
            for it in (tree, fresh)
        ]
        assert shapes[0] == shapes[1]
    assert (taken[0].path / "Makefile").samefile(taken[1].path / "Makefile")
    assert not (taken[0].path / "kernel/sched/core.c").samefile(taken[1].path / "kernel/sched/core.c")


@pytest.mark.parametrize("left", [b"", b"\0" * 50, b"\xff\xfe", b"../../etc x\n", b"abc"])
def test_the_list_of_what_was_taken_may_be_torn(tree: Path, cache: Cache, progress: Progress, left: bytes) -> None:
    snapshot(tree, cache, progress)
    (file,) = cache.folder("git").glob(f"*/{local.TAKEN}")
    file.write_bytes(left)
    (tree / "kernel/sched/core.c").write_text("int edited;\n")
    assert (snapshot(tree, cache, progress).path / "kernel/sched/core.c").read_text() == "int edited;\n"


def test_a_snapshot_that_a_power_cut_tore_is_taken_again(tree: Path, cache: Cache, progress: Progress) -> None:
    first = snapshot(tree, cache, progress)
    (first.path / "kernel/sched/core.c").write_text("")
    assert snapshot(tree, cache, progress) == first
    assert trees.contents(first.path) == dict(trees.FILES)
