# SPDX-License-Identifier: GPL-2.0-only
"""Tests of lock files: what stands in the way of one is shown in a line, and no link is followed."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.host.locks import acquire
from harness.host.process import DiskFull


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(HarnessError, match=f"cannot lock {tmp_path / 'lock'}: ") as caught:
        acquire(tmp_path / "lock")
    assert caught.value.step == "remove it: a lock is a file, and no link is followed"
    assert (tmp_path / "precious").read_text() == "text"


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: os.mkfifo(path)])
def test_what_is_no_file(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "lock")
    with pytest.raises(HarnessError, match="cannot lock"):
        acquire(tmp_path / "lock", wait=False)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HarnessError, match=f"cannot lock {tmp_path / 'lock'}: ") as caught:
        acquire(tmp_path / "lock")
    assert caught.value.step == "put the folder on a local file system: this one has no locks"


def test_a_lock_is_had_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing could be pruned there."""

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = acquire(tmp_path / "lock", wait=False)
    assert lock is not None
    assert acquire(tmp_path / "lock", wait=False) is None
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(DiskFull):
        acquire(tmp_path / "other")


def test_one_that_is_not_to_be_made(tmp_path: Path) -> None:
    assert acquire(tmp_path / "a/lock", make=False) is None
    assert not (tmp_path / "a").exists()
