# SPDX-License-Identifier: GPL-2.0-only
"""Tests of random folders and random operations below them: what lies beside is neither read nor changed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.host import below, removal, resolve
from harness.host.below import Unsafe
from tests.unit.host.untrusted import REAL, SECRET, WAYS, by, seen

NAMES = st.sampled_from(["a", "b", "c", "out", "hard"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
TARGETS = st.one_of(
    PATHS,
    PATHS.map("../".__add__),
    PATHS.map("../../".__add__),
    st.just("/HOME"),
    st.just("/HOME/id"),
    st.just("../../home"),
    st.just("../home/inner"),
    st.just("."),
    st.just(".."),
)
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["file", "link", "fifo", "folder", "sparse"]), PATHS, TARGETS), max_size=12
)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["read", "write", "link", "unlink", "take", "take_folder", "touch", "walk", "inspect", "remove"]
        ),
        st.one_of(PATHS, PATHS.map(lambda path: f"{path}/../../home/id"), st.just("../home/id")),
        st.booleans(),
    ),
    max_size=12,
)


def grown(top: Path, home: Path, entries: list[tuple[str, str, str]]) -> None:
    """A tree of these entries, as far as they fit beside each other."""
    for what, path, target in entries:
        place = top / path
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a loop of links, from resolve()
            if not place.parent.resolve().is_relative_to(top.resolve()):
                continue  # the test itself must not be what writes outside
            place.parent.mkdir(parents=True, exist_ok=True)
            if what == "file":
                place.write_bytes(b"own\n") if not os.path.lexists(place) else None
            elif what == "link":
                place.symlink_to(target.replace("/HOME", str(home)))
            elif what == "fifo":
                os.mkfifo(place)
            elif what == "sparse" and not os.path.lexists(place):
                with open(place, "xb") as file:
                    file.truncate(1 << 40)
            elif what == "folder":
                place.mkdir()


@given(entries=ENTRIES, acts=ACTS)
@settings(max_examples=60, deadline=None)
def test_nothing_outside_is_read_or_changed(
    entries: list[tuple[str, str, str]], acts: list[tuple[str, str, bool]]
) -> None:
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder, by(way):
            top, home = Path(folder) / "top", Path(folder) / "home"
            top.mkdir()
            (home / "inner").mkdir(parents=True)
            for name in ("id", "inner/id", "a"):
                (home / name).write_bytes(SECRET)
            grown(top, home, entries)
            was = seen(home)
            got = []
            for number, (act, path, links) in enumerate(acts):
                target = Path(folder) / f"taken-{number}"
                with contextlib.suppress(
                    Unsafe, FileNotFoundError, NotADirectoryError, IsADirectoryError, HarnessError
                ):
                    got.append(one(top, act, path, links, target))
            assert seen(home) == was
            assert SECRET not in got
            taken = [file for file in Path(folder).glob("taken-*/**/*") if file.is_file() and not file.is_symlink()]
            assert all(file.read_bytes() != SECRET for file in taken)
            assert {entry.name for entry in Path(folder).iterdir()} <= {
                "top",
                "home",
                *(f"taken-{n}" for n in range(12)),
            }


def one(top: Path, act: str, path: str, links: bool, target: Path) -> object:
    """One operation; what it gave."""
    if act == "read":
        return below.read_bytes(top, path, links=links)
    if act == "take":
        below.take(top, path, target, links=links, most=1000)
        return target.read_bytes()
    if act == "walk":
        return [name for name, _ in below.walk(top, path)]
    if act == "inspect":
        return below.inspect(top, path, links=links)
    acts: dict[str, Callable[[], object]] = {
        "take_folder": lambda: below.take_folder(top, path, target, most=1000, count=100),
        "write": lambda: below.write(top, path, b"new\n"),
        "link": lambda: below.link(top, path, os.fsencode(target.parent / "home")),
        "unlink": lambda: below.unlink(top, path, prune=links),
        "touch": lambda: below.touch(top, path),
        "remove": lambda: None if ".." in path else removal.remove(top / path.partition("/")[0]),
    }
    return acts[act]()


@given(
    entries=ENTRIES, path=st.one_of(PATHS, TARGETS.filter(lambda path: not path.startswith("/"))), links=st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_both_ways_come_to_the_same(entries: list[tuple[str, str, str]], path: str, links: bool) -> None:
    if REAL is not resolve.by_openat2:
        pytest.skip("this kernel has no openat2, or does not let us call it")
    with tempfile.TemporaryDirectory() as folder:
        top, home = Path(folder) / "top", Path(folder) / "home"
        top.mkdir()
        (home / "inner").mkdir(parents=True)
        (home / "id").write_bytes(SECRET)
        grown(top, home, entries)
        found = []
        for way in WAYS:
            with by(way):
                try:
                    shown = below.inspect(top, path, links=links)
                    found.append((shown.st_ino, shown.st_mode) if shown else None)
                except Unsafe as error:
                    found.append(error.why)  # type: ignore[arg-type]
        assert found[0] == found[1]
