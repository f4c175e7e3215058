# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the patches of a series that b4 tracks, read from its copy of the thread."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.source import series, tracked

COVER = "Subject: [PATCH v2 0/2] x\nMessage-ID: <0@x>\n\nWhat it is about.\n"
DIFF = "diff --git a/a.c b/a.c\n--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-1\n+{}\n"


def patch(number: int, version: int = 2) -> str:
    subject = f"Subject: [PATCH v{version} {number}/2] part {number} of v{version}"
    return f"{subject}\nFrom: A <a@b>\nMessage-ID: <{number}.{version}@x>\n\nWhy.\n>From here on.\n---\n{DIFF.format(number)}"


REPLY = f"Subject: Re: [PATCH v2 1/2] part 1\nMessage-ID: <r@x>\n\nRather:\n\n{DIFF.format(9)}"
THREAD = (COVER, patch(2), REPLY, patch(1), patch(1, version=1))


class World:
    """A repository with a thread in a blob, and b4's file about it."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.out, self.file = folder / "linux", folder / "series", folder / "tracking.json"
        self.out.mkdir()
        subprocess.run(["git", "init", "-q", str(self.tree)], check=True)

    def keep(
        self, mails: tuple[str, ...] = THREAD, wanted: tuple[str, ...] = ("1.2@x", "2.2@x"), blob: str = "stored"
    ) -> None:
        box = "".join(f"From mboxrd@z Thu Jan  1 00:00:00 1970\n{mail}\n" for mail in mails)
        store = ["git", "-C", str(self.tree), "hash-object", "-w", "--stdin"]
        stored = subprocess.run(store, input=box.encode(), capture_output=True, check=True).stdout.decode().strip()
        named = stored if blob == "stored" else blob
        patches = [{"title": "x", "header-info": {"msgid": name}} for name in wanted]
        self.file.write_text(json.dumps({"series": {"thread-blob": named}, "patches": patches}))

    def write(self) -> int:
        return tracked.write(self.file, self.tree, self.out)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_patches_of_this_version_come_in_their_order_and_nothing_else(world: World) -> None:
    world.keep()
    assert world.write() == 2
    assert [file.name for file in sorted(world.out.iterdir())] == ["0001.patch", "0002.patch"]
    assert [found.name for found in series.read([str(world.out)])] == ["part 1 of v2", "part 2 of v2"]
    assert "\nFrom here on.\n" in (world.out / "0001.patch").read_text(), "as it was before it lay in a mailbox"


@pytest.mark.parametrize("blob", ["", "HEAD", "--help", "0" * 39])
def test_what_is_no_blob_is_never_asked_for(world: World, blob: str) -> None:
    world.keep(blob=blob)
    assert world.write() == 0


def test_a_thread_that_is_gone_is_one_line(world: World) -> None:
    world.keep(blob="1" * 40)
    with pytest.raises(UsageError, match="git cannot read b4's copy of the thread, 111111111111"):
        world.write()


def test_a_patch_that_the_thread_lacks_is_named(world: World) -> None:
    world.keep(wanted=("1.2@x", "3.2@x"))
    with pytest.raises(UsageError, match=r"b4's copy of the thread lacks 3\.2@x"):
        world.write()


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"series": {}, "patches": [{}]}', "[" * 100_000])
def test_what_is_no_tracking_file_is_one_line(world: World, text: str) -> None:
    world.file.write_text(text)
    with pytest.raises(UsageError, match=r"tracking\.json") as caught:
        world.write()
    assert "use b4 0.16" in caught.value.line()


def test_outside_a_repository_it_is_one_line(world: World, tmp_path: Path) -> None:
    world.keep()
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="is no git repository"):
        tracked.write(world.file, tmp_path / "plain", world.out)
