# SPDX-License-Identifier: GPL-2.0-only
"""Tests of whose the cache is: one that somebody else can write to is refused before anything from it is run."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.host import whose
from harness.host.cache import Cache

CHECKOUT = Path(__file__).resolve().parents[3]
SOMEBODY = os.geteuid() + 60321
root = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away, for which one has to be root")


def make(path: Path) -> subprocess.CompletedProcess[str]:
    """What every target of the Makefile does before it runs a program from the cache."""
    env = {**os.environ, "XDG_CACHE_HOME": str(path)}
    return subprocess.run(
        ["make", "-s", "-C", str(CHECKOUT), "ours"], env=env, text=True, capture_output=True, check=False
    )


def test_it_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Cache(tmp_path / "a/b/kharness", 0)
    finally:
        os.umask(old)
    assert {name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "a/b", "a/b/kharness")} == {
        "a": 0o700,
        "a/b": 0o700,
        "a/b/kharness": 0o700,
    }
    assert make(tmp_path / "c").returncode == 0
    assert (tmp_path / "c/kharness").stat().st_mode & 0o7777 == 0o700


def test_what_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    """An older version made it so; in it lies the source of kernels that may be nobody else's business."""
    (tmp_path / "kharness").mkdir(mode=0o755)
    (tmp_path / "kharness").chmod(0o755)
    Cache(tmp_path / "kharness", 0)
    assert (tmp_path / "kharness").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702, 0o757])
def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    cache = tmp_path / "kharness"
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(HarnessError) as caught:
        Cache(cache, 0)
    line = caught.value.line()
    assert str(cache) in line and f"(mode {mode:04o})" in line and f"chmod go-w {cache}" in line and "\n" not in line
    assert os.listdir(cache) == []
    refused = make(tmp_path)
    assert refused.returncode == 2
    assert f"kharness: {line}" in refused.stderr.splitlines()


def test_a_parent_that_others_may_write_to_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    parent = tmp_path / "shared"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(HarnessError, match=f"others may write into {parent} "):
        Cache(parent / "mine/kharness", 0)
    assert os.listdir(parent) == []
    parent.chmod(0o1777)
    Cache(parent / "mine/kharness", 0)


def test_a_link_is_followed_and_where_it_leads_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "big/kharness").mkdir(parents=True)
    (tmp_path / "kharness").symlink_to(tmp_path / "big/kharness")
    Cache(tmp_path / "kharness", 0)
    (tmp_path / "big").chmod(0o777)
    with pytest.raises(HarnessError, match=f"others may write into {tmp_path / 'big'} "):
        Cache(tmp_path / "kharness", 0)


@root
@pytest.mark.parametrize("given", ["a/b/kharness", "a/b", "a"])
def test_what_belongs_to_somebody_else_is_refused_before_anything_is_run(tmp_path: Path, given: str) -> None:
    """Root with the cache of a user, who may have put anything there; or a user with what somebody prepared."""
    cache = tmp_path / "a/b/kharness"
    planted = cache / "venv/x/bin/python"
    planted.parent.mkdir(parents=True)
    planted.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    planted.chmod(0o755)
    os.chown(tmp_path / given, SOMEBODY, SOMEBODY)
    with pytest.raises(HarnessError) as caught:
        Cache(cache, 0)
    line = caught.value.line()
    assert f"{tmp_path / given} belongs to uid {SOMEBODY}" in line and "sudo -H" in line and "you are root" in line
    assert not (cache / ".staging").exists()
    refused = make(tmp_path / "a/b")
    assert refused.returncode == 2 and f"kharness: {line}" in refused.stderr.splitlines()
    started = subprocess.run(
        [CHECKOUT / "kharness", "doctor"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "a/b")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert started.returncode == 4 and f"kharness: {line}" in started.stderr.splitlines()
    assert not (tmp_path / "ran").exists()


@root
def test_a_link_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "mine").mkdir()
    (shared / "kharness").symlink_to(tmp_path / "mine")
    os.chown(shared / "kharness", SOMEBODY, SOMEBODY, follow_symlinks=False)
    with pytest.raises(HarnessError, match=f"{shared}/kharness belongs to uid {SOMEBODY}"):
        Cache(shared / "kharness", 0)


def test_root_is_trusted_and_nobody_else_is(tmp_path: Path) -> None:
    (tmp_path / "kharness").mkdir()
    found = whose.trouble(tmp_path / "kharness", SOMEBODY)
    assert (found is None) == (os.geteuid() == 0)
    assert found is None or "XDG_CACHE_HOME" in found.step


@root
def test_a_cache_that_a_sudo_left_to_root_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kharness").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(HarnessError, match=f"{tmp_path / 'kharness'} belongs to"):
        Cache(tmp_path / "kharness", 0)


def test_the_users_own_group_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each user has a group, umask is 002."""
    group = os.stat(tmp_path).st_gid
    tmp_path.chmod(0o770)
    members: list[str] = []
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("me", "x", gid, members)))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("me", "x", uid, group, "", "/", "/bin/sh")))
    Cache(tmp_path / "kharness", 0)
    members.append("somebody")
    with pytest.raises(HarnessError, match="others may write into"):
        Cache(tmp_path / "kharness", 0)


@pytest.mark.parametrize("name", ["with blanks", "a:b", "100%"])
def test_names_that_make_cannot_have_are_refused_by_it(tmp_path: Path, name: str) -> None:
    refused = make(tmp_path / name)
    assert refused.returncode == 2
    assert "kharness: make cannot have blanks, : or % in the name of the cache" in refused.stderr
    assert os.listdir(tmp_path) == []


def test_folders_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "file/kharness", "loop", "loop/kharness"):
        with pytest.raises(HarnessError, match="cannot use the cache folder") as caught:
            Cache(tmp_path / name, 0)
        assert "XDG_CACHE_HOME" in caught.value.step


@pytest.mark.parametrize("name", ["with blanks", "it's", 'a "quote"', "gr\u00fcn", "$HOME", "new\nline", "%s"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    cache = Cache(tmp_path / name / "kharness", 0)
    path, _ = cache.produce("kind", "key", lambda folder: None, what="x", say=print)
    assert Cache(tmp_path / name / "kharness", 0).get("kind", "key") == path
