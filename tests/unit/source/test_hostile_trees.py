# SPDX-License-Identifier: GPL-2.0-only
"""Tests of trees whose links, FIFOs and names are meant to do harm, and of our own git folder when the disk lost it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.local import snapshot
from harness.source.plain import products
from harness.source.tree import kernel_version

from . import kernel_trees as trees

PRODUCTS = ("config/precious", "generated/keys", "include/config/x", "include/generated/x", "x86/include/generated/x")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of the user's with all the names that a build's products have."""
    home = tmp_path / "home"
    for name in (*PRODUCTS, ".config"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine\n")
    return home


def made(folder: Path, git: bool, spoil: Callable[[Path], object]) -> Path:
    """A kernel tree, then spoilt, in git or not."""
    trees.write_tree(folder)
    (folder / ".gitignore").write_text("*.o\n")
    spoil(folder)
    if git:
        trees.git(folder, "init", "-q", "-b", "main")
        trees.git(folder, "add", "-A", "-f")
        trees.git(folder, "commit", "-q", "-m", "one")
    return folder


def into(place: str, home: Path, target: str = "") -> Callable[[Path], object]:
    """Spoils a tree by a link at this place into the user's folder."""

    def spoil(tree: Path) -> None:
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).symlink_to(home / target)

    return spoil


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("include", ""),
        ("include", "include"),
        ("arch", ""),
        ("arch/x86", "x86"),
        ("arch/x86", ""),
        ("arch/x86/include", ""),
        ("arch/x86/include", "x86/include"),
        ("include/config", "config"),
        ("include/generated", "generated"),
        ("arch/arm/include/generated", "generated"),
        (".config", ".config"),
        ("everything", "../../../../../../.."),
    ],
)
def test_products_behind_a_link_are_not_ours_to_remove(
    tmp_path: Path, cache: Cache, progress: Progress, home: Path, place: str, target: str, git: bool
) -> None:
    tree = made(tmp_path / "linux", git, into(place, home, target))
    was, before = trees.fingerprint(home), trees.fingerprint(tree)
    taken = snapshot(tree, cache, progress).path
    assert trees.fingerprint(home) == was and trees.fingerprint(tree) == before
    assert not products(taken)
    if not place.endswith(("config", "generated")):
        assert os.readlink(taken / place) == os.readlink(tree / place)
    else:
        assert not os.path.lexists(taken / place)


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
def test_a_near_snapshot_with_links_in_the_place_of_folders(
    tmp_path: Path, cache: Cache, progress: Progress, home: Path, git: bool
) -> None:
    """It is made of the old one, in which the link still leads to the user's folder."""
    tree = made(tmp_path / "linux", git, into("lib", home))
    was = trees.fingerprint(home)
    first = snapshot(tree, cache, progress).path
    (tree / "lib").unlink()
    for name in PRODUCTS:
        (tree / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "lib" / name).write_text("the tree's\n")
    second = snapshot(tree, cache, progress).path
    assert (second / "lib" / PRODUCTS[0]).read_text() == "the tree's\n" and not (second / "lib").is_symlink()
    shutil.rmtree(tree / "lib")
    (tree / "lib").symlink_to(home)
    (tree / "kernel/new.c").write_text("int x;\n")
    third = snapshot(tree, cache, progress).path
    assert os.readlink(third / "lib") == str(home) and third not in (first, second)
    assert trees.fingerprint(home) == was


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
def test_what_is_neither_file_nor_link_is_no_part_of_a_tree(
    tmp_path: Path, cache: Cache, progress: Progress, git: bool
) -> None:
    tree = made(tmp_path / "linux", git, lambda tree: None)
    os.mkfifo(tree / "kernel/fifo.c")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(tree)  # the name of a socket is short
        try:
            bound.bind("socket.c")
        finally:
            os.chdir(here)
        assert set(trees.contents(snapshot(tree, cache, progress).path)) == set(trees.FILES)


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
@pytest.mark.parametrize("name", [".gitignore", "kernel/.gitignore", "kernel/sched/.gitattributes"])
def test_nobody_waits_for_a_fifo_with_rules_for_git(
    tmp_path: Path, cache: Cache, progress: Progress, name: str, git: bool
) -> None:
    tree = made(tmp_path / "linux", git, lambda tree: None)
    (tree / name).unlink(missing_ok=True)
    os.mkfifo(tree / name)
    with pytest.raises(UsageError, match=f"{name} is no file: git would wait for it"):
        snapshot(tree, cache, progress)


@pytest.mark.parametrize(
    ("spoil", "shown"),
    [
        (lambda file: os.mkfifo(file), "its Makefile is a FIFO"),
        (lambda file: file.symlink_to("/dev/zero"), "its Makefile is a link that leads out"),
        (lambda file: file.symlink_to("../elsewhere/Makefile"), "its Makefile is a link that leads out"),
        (lambda file: file.symlink_to("Makefile"), "its Makefile is a link that leads out"),
        (lambda file: file.mkdir(), "its Makefile is a folder"),
        (
            lambda file: os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 40),
            "its Makefile has 1099511627776 bytes",
        ),
    ],
)
def test_a_version_is_read_out_of_a_file_of_the_tree_only(
    tmp_path: Path, cache: Cache, progress: Progress, spoil: Callable[[Path], object], shown: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/Makefile").write_text(trees.MAKEFILE)
    tree = trees.write_tree(tmp_path / "linux")
    (tree / "Makefile").unlink()
    spoil(tree / "Makefile")
    with pytest.raises(UsageError, match=shown):
        snapshot(tree, cache, progress)
    (tree / "Makefile").unlink() if not (tree / "Makefile").is_dir() else (tree / "Makefile").rmdir()
    (tree / "real").write_text(trees.MAKEFILE)
    (tree / "Makefile").symlink_to("real")
    assert kernel_version(tree) == "7.2.13"


def test_a_path_that_is_too_deep_for_others_is_named(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    def spoil(tree: Path) -> None:
        (tree / "/".join("d" * 130)).mkdir(parents=True)
        (tree / "/".join("d" * 130) / "file").write_text("")

    with pytest.raises(UsageError, match="d/d/d.* is a path that is too long or too deep"):
        snapshot(made(tmp_path / "linux", True, spoil), cache, progress)


def test_a_name_that_is_not_utf_8_is_taken_as_git_has_it(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    tree = made(tmp_path / "linux", True, lambda tree: (tree / "kernel/\udcff.c").write_text("int odd;\n"))
    assert (snapshot(tree, cache, progress).path / "kernel/\udcff.c").read_text() == "int odd;\n"
    (tree / "kernel/\udcff.c").write_text("int other;\n")
    assert (snapshot(tree, cache, progress).path / "kernel/\udcff.c").read_text() == "int other;\n"


# --- our own folder ---------------------------------------------------------------------------------


def objects(cache: Cache) -> list[Path]:
    return [path for path in cache.folder("git").rglob("*") if path.is_file() and "objects" in path.parts]


def cut(files: list[Path], part: float) -> None:
    for file in files:
        os.truncate(file, int(file.stat().st_size * part))


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
@pytest.mark.parametrize(
    "lose",
    [
        lambda place, objects: cut([path for path in objects if path.suffix in (".pack", "")], 0),
        lambda place, objects: [path.unlink() for path in objects],
        lambda place, objects: cut(objects, 0.5),
        lambda place, objects: (place / "HEAD").write_bytes(b"\0" * 20),
        lambda place, objects: (place / "index").write_bytes(b"\0" * 200),
        lambda place, objects: (place / "kharness-taken").write_bytes(b"\0" * 200),
        lambda place, objects: (place / "config").write_bytes(b"\0" * 200),
    ],
    ids=["empty", "gone", "half", "head", "index", "taken", "config"],
)
def test_what_the_disk_lost_of_our_own_folder_is_made_again(
    tmp_path: Path, cache: Cache, progress: Progress, git: bool, lose: Callable[[Path, list[Path]], object]
) -> None:
    """Git syncs nothing there: after a power cut that is no reason to blame the user's clone."""
    tree = made(tmp_path / "linux", git, lambda tree: None)
    (tree / "kernel/untracked.c").write_text("int untracked;\n")
    first = snapshot(tree, cache, progress)
    want = trees.contents(first.path)
    (place,) = (path for path in cache.folder("git").iterdir() if path.is_dir())
    for path in objects(cache):
        path.chmod(0o600)
    lose(place, objects(cache))
    cache.release("source", first.tree)
    cache.prune((), 0)
    assert not cache.has("source", first.tree)
    again = snapshot(tree, cache, progress)
    assert trees.contents(again.path) == want and again.tree == first.tree


def test_a_clone_that_is_not_whole_is_still_named(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    tree = made(tmp_path / "linux", True, lambda tree: None)
    first = snapshot(tree, cache, progress, "HEAD")
    cache.release("source", first.tree)
    cache.prune((), 0)
    blob = trees.git(tree, "rev-parse", "HEAD:kernel/sched/core.c")
    (tree / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(UsageError, match=f"{tree} lacks objects of"):
        snapshot(tree, cache, progress, "HEAD")
