# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures of folders that are not trusted, and of what lies beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.host.untrusted import SECRET


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of the user's, beside the one that is not trusted."""
    home = tmp_path / "home"
    (home / "inner").mkdir(parents=True)
    (home / "id").write_bytes(SECRET)
    (home / "inner/id").write_bytes(SECRET)
    return home


@pytest.fixture
def top(tmp_path: Path, home: Path) -> Path:
    """An untrusted folder with a bit of everything."""
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_bytes(b"own\n")
    (top / "a/near").symlink_to("b/file")
    (top / "a/up").symlink_to("../a/b/../b/file")
    (top / "folder").symlink_to("a/b")
    (top / "out").symlink_to(home)
    (top / "a/out").symlink_to("../../home")
    (top / "out-file").symlink_to(home / "id")
    (top / "round").symlink_to("round")
    (top / "nowhere").symlink_to("not/there")
    os.mkfifo(top / "fifo")
    return top
