# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the folder of a kept guest, which somebody else may have made: nothing outside of it is shown to QEMU."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import UsageError
from harness.core.records import SCHEMA
from harness.guest import kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / kept.NAME).write_text(json.dumps({"schema": SCHEMA}))
    for name in kept.FILES:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_whole_folder_is_read_up_to_its_record(folder: Path) -> None:
    with pytest.raises(UsageError, match="not a valid KeptGuest"):
        kept.read(folder)


@pytest.mark.parametrize("name", kept.FILES)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.symlink_to("/etc/passwd"), "is a symbolic link"),
        (lambda file: file.symlink_to("kept.json"), "is a symbolic link"),
        (lambda file: os.mkfifo(file), "is a FIFO"),
        (lambda file: file.mkdir(), "is a folder"),
        (lambda file: None, "it has no"),
    ],
)
def test_what_is_no_file_of_the_folder_is_not_shown_to_qemu(
    folder: Path, name: str, spoil: Callable[[Path], object], said: str
) -> None:
    (folder / name).unlink()
    spoil(folder / name)
    with pytest.raises(UsageError, match=said):
        kept.read(folder)
    old = cast(Any, SimpleNamespace(tools="t", target=None))
    with pytest.raises(UsageError, match=said):
        kept.restore(folder, old, cast(Any, SimpleNamespace(id="t")))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.symlink_to("/etc/passwd"), "kept.json is a symbolic link"),
        (lambda file: os.mkfifo(file), "kept.json is a FIFO"),
        (lambda file: file.write_text("[" * 100_000), "is not JSON"),
        (lambda file: file.write_text("[]"), "has schema None"),
        (lambda file: file.symlink_to("/dev/zero"), "kept.json is a symbolic link"),
        (lambda file: None, "no kept guest in .*: No such file"),
    ],
)
def test_a_record_that_is_none(folder: Path, spoil: Callable[[Path], object], said: str) -> None:
    (folder / kept.NAME).unlink()
    spoil(folder / kept.NAME)
    with pytest.raises(UsageError, match=said) as raised:
        kept.read(folder)
    assert "\n" not in raised.value.line()
