# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what the sandbox's user id is given, and may read, where it is not the caller's: as root."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.host import access
from harness.host.cache import Cache
from harness.host.sandbox import UID, Bind
from harness.host.toolchain import HostToolchain

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a user's sandbox has the user's own id outside"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 0)


@pytest.fixture
def tools(cache: Cache) -> HostToolchain:
    return HostToolchain(cache)


def test_a_folder_is_given_and_nothing_outside_it(tmp_path: Path, tools: HostToolchain) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "build"
    (outside / "below").mkdir(parents=True)
    (folder / "sub").mkdir(parents=True)
    for file in (outside / "secret", outside / "twin", folder / "sub/own"):
        file.write_text("x")
        file.chmod(0o600)
    (folder / "folder").symlink_to(outside)
    (folder / "sub/file").symlink_to(outside / "secret")
    os.link(outside / "twin", folder / "sub/twin")
    script = "echo y > /b/sub/own && cat /b/sub/own; echo z > /b/sub/twin; mv /b/sub/own /b/top; touch /b/new"
    done = tools.run(["sh", "-c", script], what="x", binds=[Bind(folder, "/b", True)], check=False)
    assert done.stdout == "y\n"
    assert {p.lstat().st_uid for p in (folder, folder / "sub", folder / "top", folder / "new")} == {UID}
    assert {p.lstat().st_uid for p in (outside, outside / "below", outside / "secret", outside / "twin")} == {0}
    assert (outside / "twin").read_text() == "x"


def test_what_comes_later_is_given_where_it_lies_on_top(tmp_path: Path, tools: HostToolchain) -> None:
    access.give(tmp_path)
    (tmp_path / ".config").write_text("CONFIG_A=y\n")
    (tmp_path / ".config").chmod(0o600)
    done = tools.run(["cat", "/b/.config"], what="x", binds=[Bind(tmp_path, "/b", True)])
    assert done.stdout == "CONFIG_A=y\n"


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(HarnessError, match="cannot be given"):
        access.give(tmp_path / "link")
    assert (tmp_path / "real").stat().st_uid == 0


def test_what_the_cache_holds_is_read_whatever_the_umask_was(cache: Cache, tools: HostToolchain) -> None:
    old = os.umask(0o077)
    try:
        folder = cache.root / "kernel" / "one"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/script").write_text("#!/bin/sh\necho ran\n")
        (folder / "sub/script").chmod(0o700)
        (folder / "link").symlink_to("/etc/shadow")
        shadow = Path("/etc/shadow").stat().st_mode
        done = tools.run(["/k/sub/script"], what="x", binds=[Bind(folder, "/k")])
    finally:
        os.umask(old)
    assert done.stdout == "ran\n"
    assert Path("/etc/shadow").stat().st_mode == shadow
    assert stat.S_IMODE((folder / "sub/script").stat().st_mode) == 0o755


def test_a_checkout_made_under_umask_077_is_read_and_stays_as_it_is(
    tmp_path: Path, tools: HostToolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "vm/agent").mkdir(parents=True)
    (checkout / "vm/agent/main.c").write_text("int main;\n")
    for path, mode in ((checkout, 0o700), (checkout / "vm/agent", 0o700), (checkout / "vm/agent/main.c", 0o600)):
        path.chmod(mode)
    monkeypatch.setattr(access, "CHECKOUT", checkout)
    binds = [Bind(checkout / "vm/agent", "/agent"), Bind(checkout / "vm/agent/main.c", "/one.c")]
    assert tools.run(["cat", "/agent/main.c", "/one.c"], what="x", binds=binds).stdout == "int main;\n" * 2
    assert stat.S_IMODE((checkout / "vm/agent/main.c").stat().st_mode) == 0o600


def test_of_a_users_closed_folder_the_sources_are_shown_and_secrets_are_not(
    tmp_path: Path, tools: HostToolchain
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / "include").mkdir()
    for name, mode in (
        (".ssh/id", 0o600),
        ("mine.bpf.c", 0o600),
        ("open.h", 0o644),
        ("include/a.h", 0o644),
        ("key", 0o600),
    ):
        (home / name).write_text(f"{name}\n")
        (home / name).chmod(mode)
    (home / ".ssh").chmod(0o700)
    home.chmod(0o700)
    script = "cat /user/mine.bpf.c /user/open.h /user/include/a.h; ls -A /user"
    done = tools.run(["sh", "-c", script], what="x", binds=[Bind(home, "/user")])
    assert done.stdout.split() == ["mine.bpf.c", "open.h", "include/a.h", "include", "mine.bpf.c", "open.h"]
    assert stat.S_IMODE((home / "mine.bpf.c").stat().st_mode) == 0o600
