# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the source tree of a build folder: what changed has a mtime of now, what did not has its old one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.kbuild import mirror

LONG_AGO = 1_000_000_000


def write(tree: Path, name: str, text: str, mode: int = 0o644) -> Path:
    """A file of its own inode, of long ago."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    tree = tmp_path / "snapshot"
    write(tree, "Makefile", "all:\n")
    write(tree, "kernel/fork.c", "int fork;\n")
    write(tree, "scripts/run.sh", "true\n", 0o755)
    (tree / "link").symlink_to("kernel")
    return tree


@pytest.fixture
def ours(snapshot: Path, tmp_path: Path) -> Path:
    mirror.fill(snapshot, tmp_path / "src")
    return tmp_path / "src"


def content(tree: Path) -> dict[str, object]:
    """Of each file its text and executable bit, of each symlink where it leads."""
    return {
        path: os.readlink(tree / path)
        if (tree / path).is_symlink()
        else ((tree / path).read_text(), os.access(tree / path, os.X_OK))
        for path in mirror.files(tree)
    }


def fresh(path: Path) -> bool:
    return os.lstat(path).st_mtime > LONG_AGO + 1


def test_it_is_links_at_first_and_nothing_differs(snapshot: Path, ours: Path) -> None:
    assert (ours / "kernel/fork.c").samefile(snapshot / "kernel/fork.c")
    assert mirror.update(snapshot, ours) == mirror.Changes()
    assert (ours / "link").is_symlink() and content(ours) == content(snapshot)


def test_another_content_is_a_file_of_its_own_written_now(snapshot: Path, ours: Path) -> None:
    write(snapshot, "kernel/fork.c", "int knife;\n")
    assert mirror.update(snapshot, ours) == mirror.Changes(changed={"kernel/fork.c"})
    assert fresh(ours / "kernel/fork.c") and not fresh(ours / "Makefile")
    assert not (ours / "kernel/fork.c").samefile(snapshot / "kernel/fork.c")
    assert not fresh(snapshot / "kernel/fork.c"), "the snapshot was written to"
    assert content(ours) == content(snapshot)
    assert sorted(os.listdir(ours.parent)) == ["snapshot", "src"]


def test_the_same_content_in_another_inode_keeps_its_mtime(snapshot: Path, ours: Path) -> None:
    path = write(snapshot, "kernel/fork.c", "int fork;\n")
    os.utime(path)
    assert mirror.update(snapshot, ours) == mirror.Changes()
    assert not fresh(ours / "kernel/fork.c")


def test_a_content_of_the_same_length_is_another_one(snapshot: Path, ours: Path) -> None:
    write(snapshot, "kernel/fork.c", "int f0rk;\n")
    assert mirror.update(snapshot, ours).changed == {"kernel/fork.c"}


def test_the_executable_bit_counts(snapshot: Path, ours: Path) -> None:
    write(snapshot, "scripts/run.sh", "true\n", 0o644)
    assert mirror.update(snapshot, ours).changed == {"scripts/run.sh"}
    assert content(ours) == content(snapshot)


def test_what_comes_and_goes(snapshot: Path, ours: Path) -> None:
    (snapshot / "kernel/fork.c").unlink()
    (snapshot / "kernel").rmdir()
    (snapshot / "link").unlink()
    write(snapshot, "mm/slab.c", "int slab;\n")
    changes = mirror.update(snapshot, ours)
    assert changes == mirror.Changes(new={"mm/slab.c"}, gone={"kernel/fork.c", "link"}, links={"link"})
    assert fresh(ours / "mm/slab.c") and not (ours / "kernel").exists()
    assert content(ours) == content(snapshot)


def test_a_symlink_that_leads_elsewhere(snapshot: Path, ours: Path) -> None:
    (snapshot / "link").unlink()
    (snapshot / "link").symlink_to("scripts")
    assert mirror.update(snapshot, ours) == mirror.Changes(changed={"link"}, links={"link"})
    assert content(ours) == content(snapshot)


def test_a_folder_becomes_a_file_and_a_file_a_folder(snapshot: Path, ours: Path) -> None:
    (snapshot / "kernel/fork.c").unlink()
    (snapshot / "kernel").rmdir()
    write(snapshot, "kernel", "no folder any more\n")
    (snapshot / "Makefile").unlink()
    write(snapshot, "Makefile/in", "all:\n")
    changes = mirror.update(snapshot, ours)
    assert changes == mirror.Changes(new={"kernel", "Makefile/in"}, gone={"kernel/fork.c", "Makefile"})
    assert content(ours) == content(snapshot)


def test_a_symlink_to_a_folder_becomes_that_folder(snapshot: Path, ours: Path) -> None:
    """What lies behind the link is not touched."""
    (snapshot / "link").unlink()
    write(snapshot, "link/fork.c", "another\n")
    changes = mirror.update(snapshot, ours)
    assert changes == mirror.Changes(new={"link/fork.c"}, gone={"link"}, links={"link"})
    assert (ours / "kernel/fork.c").read_text() == "int fork;\n"
    assert content(ours) == content(snapshot)


def test_a_file_becomes_a_symlink(snapshot: Path, ours: Path) -> None:
    (snapshot / "Makefile").unlink()
    (snapshot / "Makefile").symlink_to("scripts/run.sh")
    assert mirror.update(snapshot, ours) == mirror.Changes(changed={"Makefile"}, links={"Makefile"})
    assert content(ours) == content(snapshot)
