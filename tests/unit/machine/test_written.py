# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what QEMU leaves in its folder: links, pipes, folders and files of any size, put there by a guest."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import MachineLost
from harness.machine import written
from harness.machine.vm import LAST_WORDS
from tests.unit.machine.test_vm import machine

Plant = Callable[[Path, Path], None]
"""Puts something at the first path; the second is a file of the user's."""


def link(at: Path, secret: Path) -> None:
    at.symlink_to(secret)


def dangling(at: Path, secret: Path) -> None:
    at.symlink_to(secret.with_name("not-there"))


def device(at: Path, secret: Path) -> None:
    at.symlink_to("/dev/zero")


def pipe(at: Path, secret: Path) -> None:
    os.mkfifo(at)


def folder(at: Path, secret: Path) -> None:
    (at / "inside").mkdir(parents=True)


def sock(at: Path, secret: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(at))


def huge(at: Path, secret: Path) -> None:
    with open(at, "wb") as file:
        file.truncate(1 << 40)


def short(at: Path, secret: Path) -> None:
    at.write_bytes(b"xyz")


PLANTS = (link, dangling, device, pipe, folder, sock, huge, short)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "secret"
    path.parent.mkdir()
    path.write_bytes(b"SECRET!!")
    return path


@pytest.mark.parametrize("plant", PLANTS)
def test_only_a_plain_file_of_the_size_is_read(plant: Plant, secret: Path, tmp_path: Path) -> None:
    at = tmp_path / "memory"
    plant(at, secret)
    with pytest.raises(MachineLost, match="QEMU wrote (no|a) memory"):
        written.read(at, 8)
    written.clear(at)
    written.clear(at)
    at.write_bytes(b"12345678")
    assert written.read(at, 8) == b"12345678"
    assert secret.read_bytes() == b"SECRET!!"


@pytest.mark.parametrize("plant", [one for one in PLANTS if one is not short])
@pytest.mark.parametrize("across", [False, True])
def test_only_a_plain_file_is_taken(
    plant: Plant, across: bool, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, target = tmp_path / "state", tmp_path / "cache"
    if across:
        monkeypatch.setattr(Path, "rename", elsewhere)
    plant(at, secret)
    with pytest.raises(MachineLost, match="QEMU wrote (no|a) state"):
        written.take(at, target, 1 << 20)
    assert not os.path.lexists(target) and secret.read_bytes() == b"SECRET!!"
    written.clear(at)
    at.write_bytes(b"the state")
    written.take(at, target, 1 << 20)
    assert target.read_bytes() == b"the state" and not at.exists()


def elsewhere(self: Path, target: Path) -> None:
    raise OSError(errno.EXDEV, "another file system")


def test_what_is_put_in_its_place_meanwhile_is_not_taken(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, target, rename = tmp_path / "state", tmp_path / "cache", Path.rename
    at.write_bytes(b"the state")

    def swapped(self: Path, target: Path) -> None:
        self.unlink()
        self.symlink_to(secret)
        rename(self, target)

    monkeypatch.setattr(Path, "rename", swapped)
    with pytest.raises(MachineLost, match="QEMU wrote no state"):
        written.take(at, target, 1 << 20)
    assert not os.path.lexists(target) and secret.read_bytes() == b"SECRET!!"


def test_a_link_to_a_socket_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "server"))
        server.listen(1)
        written.connect(tmp_path / "server").close()
        (tmp_path / "qmp.sock").symlink_to(tmp_path / "server")
        for what in ("qmp.sock", "nothing"):
            with pytest.raises(OSError):
                written.connect(tmp_path / what)
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="socket"):
            written.connect(tmp_path / "file")


@pytest.mark.parametrize("plant", [link, device, folder])
def test_memory_is_qemu_s_own_file_whatever_lay_there(plant: Plant, secret: Path) -> None:
    with machine("silent") as fake:
        plant(fake.sockets.folder / "memory", secret)
        assert fake.peek(0, 16, 0) == bytes(16)
    assert secret.read_bytes() == b"SECRET!!"


def test_qemu_s_last_words_are_not_read_from_a_file_that_it_may_exchange(secret: Path) -> None:
    fake = machine("refuse")
    link(fake.sockets.folder / "qemu.stderr", secret)
    with pytest.raises(MachineLost, match="fake-qemu: no such machine"):
        fake.__enter__()
    assert secret.read_bytes() == b"SECRET!!"


def test_a_qemu_that_complains_for_ever_neither_stops_nor_fills_a_disk() -> None:
    with machine("grumble") as fake:  # it has said a MiB before it opened its sockets
        assert sum(path.lstat().st_size for path in fake.sockets.folder.iterdir()) == 0
        assert fake._last_words() == "fake-qemu: " + "x" * (LAST_WORDS - len("fake-qemu: "))
        assert fake._last_words().startswith("fake-qemu")
