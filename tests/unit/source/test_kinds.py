# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the kinds of trees that users have: bare, built in, sparse, partial, nested, linked, read-only."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import Exit, UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.local import snapshot

from . import kernel_trees as trees

IGNORED = ".*\n*.o\n*.cmd\nvmlinux\n/include/config/\n/include/generated/\n/arch/*/include/generated/\n!.gitignore\n"
"""As the kernel's own: what a build makes, where it makes it."""

PRODUCTS = (
    ".config",
    "vmlinux",
    "kernel/sched/core.o",
    "kernel/sched/.core.o.cmd",
    "include/config/auto.conf",
    "include/generated/autoconf.h",
    "arch/x86/include/generated/asm/unistd.h",
)
"""What an in-tree build leaves; kbuild refuses to build elsewhere from a tree with the likes of these."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return trees.git_tree(tmp_path / "linux")


def build_in(folder: Path) -> None:
    for name in PRODUCTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("made")


# --- bare -------------------------------------------------------------------------------------


def test_a_bare_clone_is_tested_at_its_head(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tmp_path, "clone", "-q", "--bare", str(tree), "repo.git")
    bare = tmp_path / "repo.git"
    before = trees.fingerprint(bare)
    taken = snapshot(bare, cache, progress)
    assert trees.fingerprint(bare) == before
    assert trees.contents(taken.path) == dict(trees.FILES)
    assert os.access(taken.path / "scripts/tool.sh", os.X_OK)
    assert (taken.commit, taken.dirty) == (trees.git(tree, "rev-parse", "HEAD"), False)
    assert taken.tree == snapshot(tree, cache, progress).tree


def test_a_bare_clone_follows_its_head(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tmp_path, "clone", "-q", "--mirror", str(tree), "repo.git")
    snapshot(tmp_path / "repo.git", cache, progress)
    (tree / "kernel/sched/core.c").write_text("int newer;\n")
    trees.git(tree, "commit", "-q", "-a", "-m", "two")
    trees.git(tmp_path / "repo.git", "fetch", "-q")
    taken = snapshot(tmp_path / "repo.git", cache, progress)
    assert trees.contents(taken.path)["kernel/sched/core.c"] == "int newer;\n"


def test_a_worktree_of_a_bare_clone(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tmp_path, "clone", "-q", "--bare", str(tree), "repo.git")
    trees.git(tmp_path / "repo.git", "worktree", "add", "-q", str(tmp_path / "linked"))
    (tmp_path / "linked/kernel/sched/core.c").write_text("int edited;\n")
    taken = snapshot(tmp_path / "linked", cache, progress)
    assert trees.contents(taken.path)["kernel/sched/core.c"] == "int edited;\n"
    assert taken.dirty


def test_a_bare_repository_without_a_kernel(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tmp_path, "init", "-q", "--bare", "empty.git")
    with pytest.raises(UsageError, match="has no commit at its HEAD"):
        snapshot(tmp_path / "empty.git", cache, progress)
    (tmp_path / "other").mkdir()
    trees.git(tmp_path / "other", "init", "-q")
    trees.git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "one")
    trees.git(tmp_path, "clone", "-q", "--bare", "other", "other.git")
    with pytest.raises(UsageError, match=r"other\.git is not a kernel tree: it has no Makefile") as caught:
        snapshot(tmp_path / "other.git", cache, progress)
    assert caught.value.exit is Exit.USAGE
    assert [entry.kind for entry in cache.entries()] == []


def test_the_git_folder_of_a_tree_is_no_bare_clone(tree: Path, cache: Cache, progress: Progress) -> None:
    with pytest.raises(UsageError) as caught:
        snapshot(tree / ".git", cache, progress)
    assert str(tree) in caught.value.step


# --- built in place ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["git", "plain", "without-gitignore", "debian"])
def test_what_a_build_in_the_tree_made_stays_out(tmp_path: Path, cache: Cache, progress: Progress, kind: str) -> None:
    ignored = {"debian": IGNORED + "/*\n!/debian/\n"}.get(kind, IGNORED)
    files = {**trees.FILES, ".gitignore": ignored}
    if kind == "without-gitignore":
        del files[".gitignore"]
    folder = trees.write_tree(tmp_path / "linux", files)
    if kind == "git":
        trees.git(folder, "init", "-q")
        trees.git(folder, "add", "-A")
        trees.git(folder, "commit", "-q", "-m", "one")
    build_in(folder)
    before = trees.fingerprint(folder)
    taken = snapshot(folder, cache, progress)
    assert trees.fingerprint(folder) == before
    assert trees.contents(taken.path) == files
    assert not taken.dirty


def test_a_config_that_was_committed_does_not_make_the_source_unclean(
    tree: Path, cache: Cache, progress: Progress
) -> None:
    (tree / ".config").write_text("CONFIG_X=y\n")
    trees.git(tree, "add", "-f", ".config")
    trees.git(tree, "commit", "-q", "-m", "ours")
    taken = snapshot(tree, cache, progress)
    assert not (taken.path / ".config").exists()
    assert (taken.dirty, taken.tree) == (False, trees.git(tree, "rev-parse", "HEAD^{tree}"))


# --- not whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("cone", ["--cone", "--no-cone", "--sparse-index"])
def test_a_sparse_checkout_names_what_is_not_there(tree: Path, cache: Cache, progress: Progress, cone: str) -> None:
    (tree / "drivers/net").mkdir(parents=True)
    (tree / "drivers/net/a.c").write_text("int a;\n")
    trees.git(tree, "add", "-A")
    trees.git(tree, "commit", "-q", "-m", "two")
    patterns = ["/*", "!/drivers/"] if cone == "--no-cone" else ["kernel", "scripts"]
    trees.git(tree, "sparse-checkout", "set", *({"--sparse-index": ["--cone", cone]}.get(cone, [cone])), *patterns)
    assert not (tree / "drivers").exists()
    before = trees.fingerprint(tree)
    with pytest.raises(UsageError) as caught:
        snapshot(tree, cache, progress)
    assert trees.fingerprint(tree) == before
    assert "sparse checkout" in caught.value.what
    assert "without drivers/" in caught.value.what
    assert "git sparse-checkout disable" in caught.value.step
    trees.git(tree, "sparse-checkout", "disable")
    assert "drivers/net/a.c" in trees.contents(snapshot(tree, cache, progress).path)


def test_a_sparse_checkout_that_has_everything(tree: Path, cache: Cache, progress: Progress) -> None:
    trees.git(tree, "sparse-checkout", "set", "--cone", "kernel", "scripts")
    assert not snapshot(tree, cache, progress).dirty


def partial(tree: Path, tmp_path: Path, *options: str) -> Path:
    """A clone that leaves objects behind, and cannot get them any more unseen: its origin is gone after that."""
    trees.git(tree, "config", "uploadpack.allowFilter", "true")
    trees.git(tree, "config", "uploadpack.allowAnySHA1InWant", "true")
    (tree / "kernel/sched/core.c").write_text("int two;\n")
    trees.git(tree, "commit", "-q", "-a", "-m", "two")
    trees.git(tmp_path, "clone", "-q", "--filter=blob:none", *options, f"file://{tree}", "partial")
    return tmp_path / "partial"


def test_a_partial_clone_asks_nobody(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    folder = partial(tree, tmp_path)
    before = trees.fingerprint(folder)
    taken = snapshot(folder, cache, progress)
    assert trees.fingerprint(folder) == before
    assert (taken.dirty, trees.contents(taken.path)["kernel/sched/core.c"]) == (False, "int two;\n")


def test_a_partial_clone_that_lacks_what_lies_in_it(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    """The files are there, git's objects of them are not: what counts is what lies on the disk."""
    folder = partial(tree, tmp_path, "--no-checkout")
    shutil.copytree(tree, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    trees.git(tree, "config", "uploadpack.allowFilter", "false")
    subprocess.run(["git", "-C", folder, "read-tree", "HEAD"], check=True, capture_output=True)
    before = trees.fingerprint(folder)
    taken = snapshot(folder, cache, progress)
    assert trees.fingerprint(folder) == before
    assert trees.contents(taken.path) == {**trees.FILES, "kernel/sched/core.c": "int two;\n"}
    assert not taken.dirty


def test_a_bare_partial_clone_is_refused_and_fetches_nothing(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress
) -> None:
    folder = partial(tree, tmp_path, "--bare")
    before = trees.fingerprint(folder)
    with pytest.raises(UsageError, match=f"lacks objects of {trees.git(folder, 'rev-parse', 'HEAD')[:12]}") as caught:
        snapshot(folder, cache, progress)
    assert trees.fingerprint(folder) == before
    assert "fetch" in caught.value.step
    assert cache.entries() == []


# --- repositories within ----------------------------------------------------------------------


def test_a_repository_within_is_left_out_and_said(
    tree: Path, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    trees.git_tree(tree / "tools/ltp")
    taken = snapshot(tree, cache, progress)
    assert trees.contents(taken.path) == dict(trees.FILES)
    assert (taken.dirty, taken.tree) == (False, trees.git(tree, "rev-parse", "HEAD^{tree}"))
    assert "tools/ltp" in said.getvalue()


def test_a_submodule_is_its_commit_and_no_more(
    tree: Path, tmp_path: Path, cache: Cache, progress: Progress, said: io.StringIO
) -> None:
    trees.git_tree(tmp_path / "other")
    allow = ["-c", "protocol.file.allow=always"]
    trees.git(tree, *allow, "submodule", "add", "-q", str(tmp_path / "other"), "tools/sub")
    trees.git(tree, "commit", "-q", "-m", "two")
    clean = snapshot(tree, cache, progress)
    assert not clean.dirty
    assert not [name for name in trees.contents(clean.path) if name.startswith("tools/sub/")]
    assert "tools/sub" in said.getvalue()


# --- where it lies ----------------------------------------------------------------------------


def test_through_a_symlink(tree: Path, tmp_path: Path, cache: Cache, progress: Progress) -> None:
    (tmp_path / "link").symlink_to(tree)
    taken = snapshot(tmp_path / "link", cache, progress)
    assert (taken.origin, taken.path) == (str(tree), snapshot(tree, cache, progress).path)


RUN = """
import io, sys
from pathlib import Path
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.local import snapshot
print(snapshot(Path(sys.argv[1]), Cache(Path(sys.argv[2]), 0), Progress(None, io.StringIO())).tree)
"""


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bwrap")
@pytest.mark.parametrize("kind", ["git", "plain", "bare"])
def test_on_a_read_only_file_system(tree: Path, tmp_path: Path, cache: Cache, kind: str) -> None:
    folder = tree
    if kind == "plain":
        folder = trees.write_tree(tmp_path / "plain")
    elif kind == "bare":
        trees.git(tmp_path, "clone", "-q", "--bare", str(tree), "repo.git")
        folder = tmp_path / "repo.git"
    argv = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(folder), str(folder), "--"]
    probe = subprocess.run([*argv, "touch", str(folder / "x")], capture_output=True, text=True)
    if "Read-only" not in probe.stderr:
        pytest.skip(f"bwrap cannot mount here: {probe.stderr}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*argv, sys.executable, "-c", RUN, str(folder), str(cache.root)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == trees.git(tree, "rev-parse", "HEAD^{tree}")
