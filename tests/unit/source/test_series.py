# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the places that patches come from: files, packed or not, folders, maildirs, standard input."""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import HarnessError, UsageError
from harness.host import below
from harness.source import series
from harness.source.series import Wanted, gather

from .letters import NAME, box, diff, patch, reply

PLAIN = diff(2, "int second;")
THREAD = [
    patch("2", "[PATCH 2/2] core: two", diff(20, "int twenty;"), "1", day=2),
    patch("1", "[PATCH 1/2] core: one", PLAIN),
    reply("r", "[PATCH 1/2] core: one", diff(30, "int x;"), "1"),
]


def names(*places: Path, wanted: Wanted | None = None) -> list[str]:
    return [one.name for one in gather(map(str, places), wanted).patches]


def test_a_packed_thread(tmp_path: Path) -> None:
    packed = gzip.compress(box(THREAD[:2])) + gzip.compress(box(THREAD[2:]))
    (tmp_path / "t.mbox.gz").write_bytes(packed)
    assert names(tmp_path / "t.mbox.gz") == ["core: one", "core: two"]
    (tmp_path / "t.mbox.gz").write_bytes(packed[:-50])
    with pytest.raises(UsageError, match="packed with gzip, and"):
        gather([str(tmp_path / "t.mbox.gz")])


def test_a_packed_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MOST", 1 << 20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0" * (64 << 20)))
    with pytest.raises(UsageError, match="has more than the 1 MiB that are read"):
        gather([str(tmp_path / "bomb.gz")])


def test_other_packers_are_named(tmp_path: Path) -> None:
    (tmp_path / "p.xz").write_bytes(b"\xfd7zXZ\x00\x00")
    with pytest.raises(UsageError, match="is packed with xz"):
        gather([str(tmp_path / "p.xz")])


def test_a_maildir_is_a_thread(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="no mail in this maildir"):
        gather([str(tmp_path)])
    for number, mail in enumerate(THREAD):
        (tmp_path / ("new" if number else "cur") / f"{number}.host:2,S").write_text(mail.text())
    assert names(tmp_path) == ["core: one", "core: two"]


def test_a_mail_that_is_moved_while_its_maildir_is_read_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    for number, mail in enumerate(THREAD):
        (tmp_path / "new" / f"{number}.host").write_text(mail.text())
    walk = below.walk

    def moved(folder: Path, name: str) -> Iterator[tuple[str, os.stat_result]]:
        yield from walk(folder, name)
        if (folder / "new/0.host").exists():
            (folder / "new/0.host").rename(folder / "cur/0.host:2,S")

    monkeypatch.setattr(below, "walk", moved)
    with pytest.raises(HarnessError, match="changes while it is read"):
        gather([str(tmp_path)])


def test_a_folder_of_a_threads_mails_is_the_thread(tmp_path: Path) -> None:
    for number, mail in enumerate(THREAD):
        (tmp_path / f"{number}.eml").write_text(mail.text())
    assert names(tmp_path) == ["core: one", "core: two"]
    # As git format-patch writes two versions into one folder.
    (tmp_path / "3.eml").write_text(patch("", "[PATCH v2 1/1] core: new", PLAIN, day=9).text())
    assert names(tmp_path) == ["core: new"]
    assert names(tmp_path, wanted=Wanted(version=1)) == ["core: one", "core: two"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO(box(THREAD))

    monkeypatch.setattr(sys, "stdin", Standard)
    assert [one.name for one in gather(["-"]).patches] == ["core: one", "core: two"]
    # --each and a bisection read their series for each architecture, and for what identifies it.
    assert [one.name for one in gather(["-"]).patches] == ["core: one", "core: two"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("-", True),
        ("<20240101.1@example.org>", True),
        ("20240101.1@example.org", True),
        ("https://example.org/r/20240101.1@example.org", True),
        ("a.patch", False),
        ("folder/a@b", False),
    ],
)
def test_what_is_no_file(place: str, told: bool) -> None:
    assert series.no_file(place) is told


def test_a_file_of_such_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a@b.patch").write_text(PLAIN)
    assert not series.no_file("a@b.patch")


# --- quilt ----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["one.patch -R  # out again", "one.patch -p1 -R", "one.patch -R -p 1"])
def test_a_series_file_turns_a_patch(tmp_path: Path, line: str) -> None:
    (tmp_path / "one.patch").write_text(PLAIN)
    (tmp_path / "series").write_text(f"# ours\n\n{line}\n")
    (found,) = gather([str(tmp_path)]).patches
    assert b"\n-int second;\n" in found.data and b"\n+int line_2;\n" in found.data


def test_a_series_file_says_how_many_folders(tmp_path: Path) -> None:
    (tmp_path / "one.patch").write_text("Why.\n\n" + PLAIN.replace(f"a/{NAME}", NAME).replace(f"b/{NAME}", NAME))
    (tmp_path / "two.patch").write_text(PLAIN.replace("a/kernel", "x/y/kernel").replace("b/kernel", "x/z/kernel"))
    (tmp_path / "series").write_text("one.patch -p0\ntwo.patch -p2\n")
    assert [one.paths for one in gather([str(tmp_path)]).patches] == [(NAME,), (NAME,)]


def test_an_unknown_option_of_a_series_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.patch").write_text(PLAIN)
    (tmp_path / "series").write_text("one.patch --fuzz=3\n")
    with pytest.raises(UsageError, match="series, line 1: '--fuzz=3' is no option that is known"):
        gather([str(tmp_path)])


def test_a_damaged_mail_of_a_mailbox_is_named(tmp_path: Path) -> None:
    bad = patch("2", "[PATCH 2/2] core: two", diff(20, "int twenty;").replace(" int line_21;\n", "in the way\n"), "1")
    (tmp_path / "t.mbox").write_bytes(box([THREAD[1], bad]))
    told = r"t.mbox, mail 2 \('core: two'\) is damaged: line \d+: "
    # The tree may know what it was; where lines are missing nothing does.
    assert re.search(told + "'in the way'", gather([str(tmp_path / "t.mbox")]).patches[1].damage)
    bad = patch("2", "[PATCH 2/2] core: two", diff(20, "int twenty;").partition("+int")[0], "1")
    (tmp_path / "t.mbox").write_bytes(box([THREAD[1], bad]))
    with pytest.raises(UsageError, match=told):
        gather([str(tmp_path / "t.mbox")])
