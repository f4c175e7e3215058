# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the doctor: each missing thing is seen and comes with a command."""

from __future__ import annotations

import io
import os
import shutil
import stat
from pathlib import Path

import pytest

from harness.core.definition import architectures, load
from harness.core.errors import HarnessError
from harness.core.options import DEFAULT_ARCHES
from harness.host import doctor, listing
from harness.host.cache import Cache


def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **tools: str) -> Cache:
    """A host that has only the named tools, each with what it prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    setpriv = shutil.which("setpriv")
    assert setpriv
    (folder / "setpriv").symlink_to(setpriv)
    for name, text in tools.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    return Cache(tmp_path / "cache", 0)


def rows(kind: str, cache: Cache, *arches: str) -> dict[str, doctor.Row]:
    return {row.tool: row for row in doctor.check(kind, cache, arches or DEFAULT_ARCHES)}


def test_bare_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    table = rows("root", cache)
    for tool in ("make", "git", "mmdebstrap", "bwrap"):
        assert not table[tool].ok
        assert table[tool].packages
    assert not table["root or sudo"].ok
    assert all(row.step or row.packages for row in table.values() if not row.ok)


def test_what_is_missing_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host(tmp_path, monkeypatch, pahole="v1.25")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = doctor.check("host", cache)
    shown = io.StringIO()
    assert not listing.show_doctor(found, shown)
    fixes = [line for line in shown.getvalue().splitlines() if line.startswith("to fix: ")]
    (command,) = [line for line in fixes if "apt-get" in line]
    start = "to fix: sudo apt-get update && sudo apt-get install -y "
    assert command.startswith(start)
    names = command.removeprefix(start).split()
    assert len(names) == len(set(names))
    assert {"make", "git", "flex", "pahole", "libelf-dev"} <= set(names)
    assert [line for line in fixes if "pahole is no newer than 1.25" in line]


def test_needs_of_an_architecture_are_those_of_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cache = host(tmp_path, monkeypatch, qemu_system_aarch64="QEMU emulator version 10.0.2")
    table = rows("host", cache)
    assert not table["qemu-system-x86_64"].ok
    assert table["qemu-system-aarch64"].ok
    assert table["aarch64-linux-gnu-gcc"].packages[0] == "gcc-aarch64-linux-gnu"
    assert "x86_64-linux-gnu-gcc" not in table
    for arch in architectures():
        known = load(arch)
        alone = rows("host", cache, arch)
        assert [tool for tool in alone if tool.startswith("qemu-system-")] == [known.qemu.binary]
        assert (f"{known.kernel.cross}gcc" in alone) is not known.native
    with pytest.raises(HarnessError, match="aarch64-linux-gnu-gcc is missing") as raised:
        doctor.require_host_tools(["arm64"])
    assert "gcc-aarch64-linux-gnu" in raised.value.step
    assert "qemu-system-x86" not in raised.value.step


def test_old_pahole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows("host", host(tmp_path, monkeypatch, pahole="v1.25", gcc="gcc (Debian 12.2.0-14+deb12u1) 12.2.0"))
    assert (table["pahole"].found, table["pahole"].ok) == ("1.25", False)
    assert table["pahole"].packages == ("pahole",)
    assert "--toolchain host" in table["pahole"].step
    assert table["gcc"].ok


def test_new_enough_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows("host", host(tmp_path, monkeypatch, pahole="v1.30", bpftool="bpftool v7.5.0"))
    assert table["pahole"].ok
    assert table["bpftool"].ok
    assert table["cores"].ok
    assert "KVM" not in table["memory"].found


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("GNU Make 4.3", (4, 3)),
        ("v1.26", (1, 26)),
        ("This is perl 5, version 36 (v5.36.0)", (5, 36, 0)),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", (10, 0, 2)),
        ("nothing", ()),
        ("BusyBox v1.37.0 (Debian 1:1.37.0-6)", (1, 37, 0)),
        ("Dropbear v2025.88", (2025, 88)),
    ],
)
def test_parse_version(text: str, version: tuple[int, ...]) -> None:
    assert doctor.parse_version(text) == version


def test_full_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_BYTES", 1 << 60)
    table = rows("root", host(tmp_path, monkeypatch))
    assert not table["disk space"].ok
    assert "cache prune" in table["disk space"].step
