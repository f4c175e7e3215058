# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the removal of folders that are not trusted: no link is followed, nothing is too deep or locked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.host import below, removal
from harness.host.below import Unsafe
from tests.unit.host.untrusted import seen


def deep(top: Path, depth: int) -> None:
    """Folders within each other, deeper than any path can say."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d" * 20, dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        inner = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_a_tree_deeper_than_python_recurses_is_removed(tmp_path: Path) -> None:
    deep(tmp_path / "deep", 1200)
    with pytest.raises(Unsafe, match="is deeper than 128 folders"):
        list(below.walk(tmp_path / "deep"))
    removal.remove(tmp_path / "deep")
    assert not (tmp_path / "deep").exists()


def test_removal_follows_nothing(top: Path, home: Path) -> None:
    was = seen(home)
    removal.remove(top / "out")
    assert not os.path.lexists(top / "out")
    removal.remove(top)
    removal.remove(top)
    removal.remove(top / "a/b/c")
    assert not top.exists() and seen(home) == was


def test_removal_of_what_is_locked(top: Path) -> None:
    (top / "a/b").chmod(0o500)
    (top / "a").chmod(0)
    top.chmod(0o500)
    removal.remove(top)
    assert not top.exists()


def test_what_cannot_be_removed_is_named(monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(HarnessError, match=rf"cannot remove {top}: Device or resource busy"):
        removal.remove(top)
