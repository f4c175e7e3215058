# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what lies below a folder that is not trusted: nothing outside of it is read, written or waited for."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.host import below
from harness.host.below import Unsafe
from tests.unit.host.untrusted import SECRET, WAYS, by, seen


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__, autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    with by(request.param):
        yield


def test_what_is_asked_for_is_read(top: Path) -> None:
    assert below.read_bytes(top, "a/b/file") == b"own\n"
    assert below.read_text(top, "./a//b/file") == "own\n"
    assert below.read_link(top, "a/near") == b"b/file"
    assert below.is_file(top, "a/b/file") and not below.is_file(top, "a/b") and not below.is_file(top, "a/none")
    assert below.inspect(top, "a/none") is None and below.inspect(top, "a/b/file/none") is None
    found = below.inspect(top, "nowhere")
    assert found is not None and stat.S_ISLNK(found.st_mode)


@pytest.mark.parametrize("name", ["a/near", "a/up", "folder/file"])
def test_links_within_are_followed_where_that_is_asked_for_only(top: Path, name: str) -> None:
    assert below.read_bytes(top, name, links=True) == b"own\n"
    with pytest.raises(Unsafe, match="is a symbolic link|leads through the link folder"):
        below.read_bytes(top, name)


@pytest.mark.parametrize("name", ["out/id", "out-file", "a/out/id", "a/out/inner/id", "round", "round/x"])
@pytest.mark.parametrize("links", [False, True])
def test_no_link_leads_out(top: Path, home: Path, name: str, links: bool) -> None:
    for act in (below.read_bytes, below.inspect, below.take):
        if act is below.inspect and not links and "/" not in name:
            continue  # the link itself is no secret
        more = (top.parent / "taken",) if act is below.take else ()
        with pytest.raises(Unsafe, match="link") as raised:
            act(top, name, *more, links=links)
        assert "\n" not in raised.value.line()
    assert not (top.parent / "taken").exists()
    assert not below.is_file(top, name, links=links) and below.text_of(top, name) == ""


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../home/id", "a/../../home/id", "a/b/..", "x\0y", "\ud800", "d/" * 200]
)
def test_names_that_say_they_lead_out(top: Path, name: str) -> None:
    acts: list[Callable[[], object]] = [
        lambda: below.read_bytes(top, name),
        lambda: below.write(top, name, b""),
        lambda: below.unlink(top, name),
        lambda: below.link(top, name, b"x"),
        lambda: list(below.walk(top, name)),
        lambda: below.touch(top, name),
    ]
    for act in acts:
        with pytest.raises(Unsafe):
            act()


def test_a_name_that_is_too_long(top: Path) -> None:
    with pytest.raises(Unsafe, match="too long"):
        below.read_bytes(top, "a/" + "n" * 300)
    assert below.text_of(top, "n" * 5000) == ""


def test_nothing_is_waited_for_and_no_device_read(top: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(top / "socket"))
    (top / "zero").symlink_to("/dev/zero")
    with pytest.raises(Unsafe, match="fifo is a FIFO, no regular file"):
        below.read_bytes(top, "fifo")
    with pytest.raises(Unsafe, match="socket is a socket"):
        below.take(top, "socket", top.parent / "taken")
    with pytest.raises(Unsafe, match="a is a folder, no regular file"):
        below.read_bytes(top, "a")
    with pytest.raises(Unsafe, match="zero is a link that leads out"):
        below.read_bytes(top, "zero", links=True)
    with pytest.raises(Unsafe, match="is a device"):
        below.read_bytes(Path("/dev"), "zero")
    with pytest.raises(FileNotFoundError):
        below.read_bytes(top, "none")


def test_no_more_than_the_cap_is_taken(top: Path) -> None:
    with open(top / "sparse", "wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(Unsafe, match=r"sparse has 107374182400 bytes, more than the \d+ that are taken"):
        below.take(top, "sparse", top.parent / "taken")
    with pytest.raises(Unsafe, match="more than the 3 that"):
        below.read_bytes(top, "a/b/file", most=3)
    assert below.read_bytes(top, "a/b/file", most=4) == b"own\n"


def test_what_is_taken_is_ours_and_as_it_was(top: Path) -> None:
    source = top / "made"
    with open(source, "wb") as file:
        file.write(b"head")
        file.seek(3 << 20)
        file.write(b"tail")
        file.truncate(5 << 20)
    source.chmod(0o6755)
    below.take(top, "made", top.parent / "taken")
    taken = (top.parent / "taken").stat()
    assert (top.parent / "taken").read_bytes() == source.read_bytes()
    assert stat.S_IMODE(taken.st_mode) == 0o755 and taken.st_uid == os.geteuid()
    assert taken.st_ino != source.stat().st_ino, "another name of it in the folder would still lead to what was taken"
    source.chmod(0o604)
    below.take(top, "made", top.parent / "again")
    assert stat.S_IMODE((top.parent / "again").stat().st_mode) == 0o644
    with pytest.raises(FileExistsError):
        below.take(top, "made", top.parent / "again")


def test_a_folder_is_taken_with_links_that_stay_in_it(top: Path) -> None:
    (top / "a/out").unlink()
    (top / "a/up").unlink()
    (top / "a/b/back").symlink_to("../near")
    below.take_folder(top, "a", top.parent / "taken", most=100, count=10)
    taken = top.parent / "taken"
    assert sorted(str(path.relative_to(taken)) for path in taken.rglob("*")) == ["b", "b/back", "b/file", "near"]
    assert (taken / "b/back").read_bytes() == b"own\n" and os.readlink(taken / "b/back") == "../near"


@pytest.mark.parametrize(
    ("spoil", "shown"),
    [
        (lambda a: (a / "x").symlink_to("/etc/passwd"), "a/x is a link that leads out of a"),
        (lambda a: (a / "x").symlink_to("../folder"), "a/x is a link that leads out of a"),
        (lambda a: (a / "x").symlink_to("b/../../../home"), "a/x is a link that leads out of a"),
        (lambda a: os.mkfifo(a / "b/x"), "a/b/x is a FIFO"),
        (lambda a: (a / "big").write_bytes(b"x" * 200), "a/big has 200 bytes"),
        (lambda a: [(a / f"{n}").touch() for n in range(20)], "a has too many files"),
        (lambda a: None, None),
    ],
)
def test_a_folder_that_is_not_taken(top: Path, spoil: Callable[[Path], object], shown: str | None) -> None:
    (top / "a/out").unlink()
    (top / "a/up").unlink()
    spoil(top / "a")
    with pytest.raises(Unsafe, match=shown) if shown else contextlib.nullcontext():
        below.take_folder(top, "a", top.parent / "taken", most=100, count=10)


def test_a_folder_that_is_a_link_is_not_taken(top: Path, home: Path) -> None:
    for name in ("out", "folder", "out/inner"):
        with pytest.raises(Unsafe, match="link"):
            below.take_folder(top, name, top.parent / "taken", most=100, count=10)
    assert (home / "id").exists() and not (top.parent / "taken").exists()


@pytest.mark.parametrize(
    ("name", "target", "good"),
    [
        ("x", b"y", True),
        ("x", b"../y", False),
        ("a/x", b"../y", True),
        ("a/x", b"../../y", False),
        ("a/x", b"./../y", True),
        ("a/x", b"b/../y", False),
        ("x", b"/y", False),
        ("x", b"", False),
        ("x", b".", False),
    ],
)
def test_which_links_stay(name: str, target: bytes, good: bool) -> None:
    """``b/..`` may be anywhere, for b may be a link."""
    assert below.stays(name, target) == good


def test_writing_takes_the_place_of_what_lay_there(top: Path, home: Path) -> None:
    was = seen(home)
    os.link(home / "id", top / "hard")
    os.unlink(home / "id")
    os.link(top / "hard", home / "id")
    for name in ("hard", "out-file", "fifo", "nowhere", "a/b/file", "new/er/file"):
        below.write(top, name, b"new\n", 0o600)
        assert (top / name).lstat().st_mode == stat.S_IFREG | 0o600 and (top / name).read_bytes() == b"new\n"
    below.link(top, "a/b/file", b"/etc/passwd")
    assert os.readlink(top / "a/b/file") == "/etc/passwd"
    for name in ("out/new", "out/id", "folder/new", "a/out/new", "out/new/er"):
        with pytest.raises(Unsafe, match="link"):
            below.write(top, name, b"evil\n")
        with pytest.raises(Unsafe, match="link"):
            below.link(top, name, b"evil")
    with pytest.raises(Unsafe, match="is a folder"):
        below.write(top, "a/b", b"")
    assert {Path(path).name for path in seen(home)} == {Path(path).name for path in was}
    assert (home / "id").read_bytes() == SECRET


def test_removing_files_prunes_what_is_empty(top: Path, home: Path) -> None:
    was = seen(home)
    assert below.unlink(top, "out-file") and not below.unlink(top, "out-file") and not below.unlink(top, "x/y")
    with pytest.raises(Unsafe, match="leads through the link out"):
        below.unlink(top, "out/id")
    with pytest.raises(Unsafe, match="is a folder"):
        below.unlink(top, "a")
    below.write(top, "p/q/r", b"")
    below.write(top, "p/s", b"")
    assert below.unlink(top, "p/q/r", prune=True)
    assert not (top / "p/q").exists() and (top / "p/s").exists()
    assert below.unlink(top, "p/s", prune=True) and not (top / "p").exists() and top.is_dir()
    assert seen(home) == was


def test_a_walk_sees_links_and_goes_through_none(top: Path) -> None:
    found = dict(below.walk(top))
    assert {"a", "a/b", "a/b/file", "a/near", "out", "folder", "fifo"} <= found.keys()
    assert not any(name.startswith(("out/", "folder/", "a/out/")) for name in found)
    assert list(dict(below.walk(top, "a/b"))) == ["a/b/file"]


def test_touching(top: Path, home: Path) -> None:
    was = seen(home)
    os.utime(top / "a/b/file", (1, 1))
    below.touch(top, "a/near")
    assert (top / "a/b/file").stat().st_mtime > 1
    for name in ("out-file", "out/id", "fifo"):
        with pytest.raises(Unsafe):
            below.touch(top, name)
    assert seen(home) == was
