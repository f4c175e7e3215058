# SPDX-License-Identifier: GPL-2.0-only
"""Tests of files into a guest and out of it: what is refused before a guest is there, and that nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.guest.files import Get, Put, get_of, put_of, store


def test_a_wish_is_understood(tmp_path: Path) -> None:
    odd = tmp_path / "a:b c"
    odd.write_text("x")
    assert put_of(f"{odd}:/tmp/") == Put(odd, "/tmp/")
    assert get_of(f"/tmp/x:{tmp_path}/new:1", force=False) == Get("/tmp/x", tmp_path / "new:1")
    assert get_of(f"/tmp/x:{tmp_path}", force=False) == Get("/tmp/x", tmp_path / "x"), "a folder takes it"
    assert get_of(f"/tmp/x:{odd}", force=True) == Get("/tmp/x", odd)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file", "not HOSTFILE:GUESTPATH"),
        (":/tmp", "not HOSTFILE:GUESTPATH"),
        ("{here}/file:tmp", "not HOSTFILE:GUESTPATH"),
        ("{here}:/tmp", "a folder"),
        ("{here}/none:/tmp", "no such file"),
    ],
)
def test_what_cannot_be_put_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=says) as raised:
        put_of(text.format(here=tmp_path))
    assert raised.value.step


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/tmp/x", "not GUESTPATH:HOSTFILE"),
        ("/tmp/x:", "not GUESTPATH:HOSTFILE"),
        ("x:{here}/new", "not GUESTPATH:HOSTFILE"),
        ("/tmp/:{here}/new", "not GUESTPATH:HOSTFILE"),
        ("/tmp/x:{here}/file", "is there already"),
        ("/tmp/x:{here}/dangling", "is there already"),
        ("/tmp/file:{here}", "file is there already"),
        ("/tmp/x:{here}/no/new", "no folder"),
    ],
)
def test_what_cannot_be_got_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match=says) as raised:
        get_of(text.format(here=tmp_path), force=False)
    assert raised.value.step
    assert (tmp_path / "file").read_text() == "precious"


def test_a_file_that_appeared_meanwhile_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("precious")
    with pytest.raises(FileExistsError):
        store(target, b"new", force=False)
    assert target.read_text() == "precious"
    store(target, b"new", force=True)
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "no draft is left"


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        store(tmp_path / "file", b"x", force=False)
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
