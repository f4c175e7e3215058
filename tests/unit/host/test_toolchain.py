# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the toolchain: what is seen inside, what cannot be changed, what is said when tools lack."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from harness.core import definition
from harness.core.errors import HarnessError, UsageError
from harness.host import rootfs, sandbox
from harness.host.cache import Cache
from harness.host.process import Expired, how_ended
from harness.host.progress import Progress
from harness.host.toolchain import Bind, HostToolchain, open_toolchain


@pytest.fixture
def tools(tmp_path: Path) -> HostToolchain:
    """The host's tools."""
    return HostToolchain(Cache(tmp_path / "cache", 0))


def test_inside_are_the_binds_and_nothing_else_can_be_written(tools: HostToolchain, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "file").write_text("content\n")
    script = "cat /src/file; cp /src/file /build/copy; for f in /src/x /usr/x /x; do touch $f 2>/dev/null && echo $f; done; pwd; id -u"
    binds = [Bind(source, "/src"), Bind(out, "/build", writable=True)]
    done = tools.run(["sh", "-c", script], what="looking", binds=binds, cwd="/build")
    assert done.stdout == f"content\n/build\n{sandbox.UID}\n"
    assert (out / "copy").read_text() == "content\n"
    assert list(source.iterdir()) == [source / "file"]


def test_bind_at_the_same_path(tools: HostToolchain, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert tools.run(["cat", str(tmp_path / "f")], what="cat", binds=[Bind(tmp_path)]).stdout == "x"
    with pytest.raises(HarnessError, match="does not exist"):
        tools.argv(["true"], binds=[Bind(tmp_path / "none")])


def test_environment_is_clean(tools: HostToolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-j9")
    monkeypatch.setenv("https_proxy", "proxy:1")
    seen = tools.run(["env"], what="env", env={"MINE": "1"}).stdout.splitlines()
    names = {line.partition("=")[0] for line in seen}
    assert {"MINE", "PATH", "HOME"} <= names
    assert not {"MAKEFLAGS", "https_proxy"} & names


def test_input_status_and_signals(tools: HostToolchain) -> None:
    assert tools.run(["cat"], what="cat", input="hello").stdout == "hello"
    assert tools.run(["sh", "-c", "exit 3"], what="x", check=False).status == 3
    killed = tools.run(["sh", "-c", "kill -9 $$"], what="x", check=False)
    assert how_ended(killed.status) == "killed by SIGKILL"


def test_nothing_inside_outlives_the_deadline(tools: HostToolchain, tmp_path: Path) -> None:
    # A process that left our group: only the process namespace can end it. It holds the fifo open.
    os.mkfifo(tmp_path / "held")
    script = "setsid sh -c 'exec > /b/held; echo up; sleep 100' & wait"
    with subprocess.Popen(["cat", str(tmp_path / "held")], stdout=subprocess.PIPE) as reader:
        with pytest.raises(Expired):
            tools.run(["sh", "-c", script], what="x", binds=[Bind(tmp_path, "/b", True)], deadline=5.0)
        out, _ = reader.communicate(timeout=60)
    assert out == b"up\n"


def test_no_mount_is_left_behind(tools: HostToolchain, tmp_path: Path) -> None:
    def changed() -> bool:
        before = Path("/proc/mounts").read_text()
        tools.run(["true"], what="true", binds=[Bind(tmp_path, "/b")])
        return Path("/proc/mounts").read_text() != before

    assert not all(changed() for _ in range(3)), "once or twice it may have been another program of this machine"


def test_id_is_stable(tools: HostToolchain, tmp_path: Path) -> None:
    assert tools.id == HostToolchain(Cache(tmp_path / "other", 0)).id
    assert len(tools.id) == 16


def test_no_sandbox_says_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "enter", lambda *_: ["sh", "-c", "echo refused >&2; exit 1"])
    command(tmp_path, "bwrap", "exit 1")  # a bare host has none yet
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HarnessError) as caught:
        HostToolchain(Cache(tmp_path / "cache", 0))
    how = "bubblewrap as root" if os.geteuid() == 0 else "bubblewrap in a user namespace"
    assert f"{how}: refused" in caught.value.what
    assert "SYS_ADMIN" in caught.value.step


def test_unknown_kind_is_the_callers_mistake(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 0)
    with pytest.raises(UsageError, match="nix"):
        open_toolchain("nix", "x86_64", cache, Progress(None, io.StringIO()))


# --- making the root ------------------------------------------------------------------------


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_missing_tools_without_root_or_sudo_name_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "apt-get", "touch called")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HarnessError) as caught:
        rootfs.install_missing(lambda line: None)
    assert caught.value.what.startswith("not installed: mmdebstrap, bubblewrap")
    assert caught.value.step.startswith("sudo apt-get update && sudo apt-get install -y mmdebstrap bubblewrap")
    assert not (tmp_path / "called").exists()


def test_missing_tools_are_installed_by_root_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/called')
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    rootfs.install_missing(said.append)
    calls = (tmp_path / "called").read_text().splitlines()
    assert calls[0].endswith("update")
    assert "install -y --no-install-recommends mmdebstrap bubblewrap" in calls[1]
    assert "mmdebstrap bubblewrap" in said[0]


def test_host_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match="no apt-get"):
        rootfs.install_missing(lambda line: None)


@pytest.mark.skipif(os.geteuid() != 0, reason="as root no tar file is needed")
def test_failed_mmdebstrap_leaves_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, "mmdebstrap", "echo 'E: no route' >&2; exit 25")
    monkeypatch.setattr(rootfs, "missing_packages", list)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cache = Cache(tmp_path / "cache", 0)
    with pytest.raises(HarnessError, match="E: no route"):
        open_toolchain("root", "x86_64", cache, Progress(None, io.StringIO()))
    assert cache.entries() == []
    assert os.listdir(cache.root / ".staging") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="as root no tar file is needed")
def test_a_mirror_half_way_through_its_updates_is_asked_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = (
        "echo 'E: Failed to fetch x  File has unexpected size (1 != 2)' >&2; echo 'E: mmdebstrap failed' >&2; exit 25"
    )
    script = f'umask >{tmp_path}/umask; case "$*" in *setup-hook*trixie-updates*) exit 0;; esac; {refuse}'
    command(tmp_path, "mmdebstrap", script)
    command(tmp_path, "dpkg-query", "echo 'gcc:amd64 14'")
    monkeypatch.setattr(rootfs, "missing_packages", list)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said: list[str] = []
    rootfs.make(tmp_path, rootfs.recipe("x86_64", "x86_64"), lambda line: None, said.append)
    assert (tmp_path / "packages").read_text() == "gcc:amd64 14\nwithout trixie-updates\n"
    assert len(said) == 1 and "without them (trixie-updates)" in said[0]
    assert (tmp_path / "umask").read_text().strip() == "0022"


@pytest.mark.skipif(os.geteuid() != 0, reason="as root no tar file is needed")
def test_a_mirror_that_has_no_whole_security_updates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'echo "$*" >> {tmp_path}/calls; echo "E: x  Hash Sum mismatch" >&2; exit 25'
    command(tmp_path, "mmdebstrap", script)
    monkeypatch.setattr(rootfs, "missing_packages", list)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HarnessError, match="does not fit its own lists") as caught:
        rootfs.make(tmp_path, rootfs.recipe("x86_64", "x86_64"), lambda line: None, lambda line: None)
    assert caught.value.step and not (tmp_path / "packages").exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and not [call for call in calls if "trixie-security" in call or "trixie-/d" in call]


def test_recipe_key_follows_its_content() -> None:
    base = rootfs.recipe("x86_64", "x86_64")
    assert base.key == rootfs.recipe("x86_64", "x86_64").key == rootfs.recipe("arm64", "x86_64").key
    assert base.key != rootfs.Recipe(base.suite, base.debian_arch, (*base.packages, "gdb")).key
    assert {"qemu-system-arm", "qemu-system-x86", "gcc-aarch64-linux-gnu"} <= set(base.packages)
    assert "gcc-x86-64-linux-gnu" not in base.packages
    assert "gcc-x86-64-linux-gnu" in rootfs.recipe("x86_64", "aarch64").packages
    assert len({base.key, rootfs.guest_recipe("amd64").key, rootfs.guest_recipe("arm64").key}) == 3
    with pytest.raises(HarnessError, match="s390x"):
        rootfs.recipe("x86_64", "s390x")


def test_a_further_architecture_changes_nobody_elses_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rootfs.recipe("x86_64", "x86_64")
    for file in definition.VM_FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    text = (tmp_path / "arm64.yaml").read_text().replace("arch: arm64", "arch: vax", 1)
    text = text.replace("aarch64", "vax").replace("qemu-system-arm", "qemu-system-vax")
    (tmp_path / "vax.yaml").write_text(text)
    monkeypatch.setattr(definition, "VM_FOLDER", tmp_path)
    assert rootfs.recipe("x86_64", "x86_64") == before
    own = rootfs.recipe("vax", "x86_64")
    assert own.key != before.key
    assert {"qemu-system-vax", "gcc-vax-linux-gnu"} <= set(own.packages)
    assert "gcc-aarch64-linux-gnu" not in own.packages
    assert "gcc-vax-linux-gnu" not in rootfs.recipe("vax", "vax").packages
