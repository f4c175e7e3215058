# SPDX-License-Identifier: GPL-2.0-only
"""What every end-to-end test stands on: a private cache, the command, and the search for what it left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.clone import cloned
from tests.e2e.command import CHECKOUT, Done, Kharness
from tests.e2e.leaks import Before, adopt_orphans
from tests.e2e.trees import UserTree

QUICK = "test_duplicate_is_refused"
"""A test of the kernel that takes a second."""


@pytest.fixture(scope="session")
def cache_home() -> Iterator[Path]:
    """XDG_CACHE_HOME of every command; the session's own."""
    adopt_orphans()
    with cloned() as base:
        yield base


@pytest.fixture(scope="session")
def cache(cache_home: Path) -> Path:
    """The root of the cache that every command uses."""
    return cache_home / "kharness"


def place(cache_home: Path) -> Iterator[Kharness]:
    """One folder with a working folder, a home and a TMPDIR. Short names: sockets have at most 108 characters."""
    folder = Path(tempfile.mkdtemp(prefix="kh-"))
    for name in ("cwd", "home", "tmp"):
        (folder / name).mkdir()
    before = Before.now()
    crashes = cache_home / "kharness/folder/crashes"
    known = set(crashes.glob("*"))
    more = {"XDG_CACHE_HOME": str(cache_home), "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    started = Kharness(folder / "cwd", more, os.environ.get("KHARNESS_TREE", ""))
    try:
        yield started
        started.kill()
        left = before.left_behind(cache_home / "kharness", folder / "tmp", folder / "home")
        assert not left, "left behind:\n" + "\n".join(left)
        broke = set(crashes.glob("*")) - known
        assert not broke, "\n".join(path.read_text() for path in broke)
    finally:
        started.kill()
        shutil.rmtree(folder)


@pytest.fixture
def kharness(cache_home: Path) -> Iterator[Kharness]:
    """The command, in an empty folder of its own; when the test ends, nothing of it may be left."""
    yield from place(cache_home)


@pytest.fixture(scope="session")
def passed(cache_home: Path) -> Iterator[Done]:
    """A run that ended well, before any other: the kernel that it built is what the other tests start from."""
    for started in place(cache_home):
        yield started.run("-k", QUICK).expect(0)


@pytest.fixture(scope="session")
def user_tree(passed: Done, cache_home: Path) -> Iterator[UserTree]:
    """The default kernel's source as a folder of the user's; a test edits it for as long as it needs."""
    source = cache_home / "kharness/source" / passed.results["kernels"][0]["tree"]
    tree = UserTree(source, cache_home / "linux")
    yield tree
    shutil.rmtree(tree.folder)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Copies a suite of tests/e2e/suites to a folder of its own and gives that folder, for --suite."""

    def copy(name: str) -> str:
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(CHECKOUT / "tests/e2e/suites" / f"{name}.py", folder / f"test_{name}.py")
        return str(folder)

    return copy
