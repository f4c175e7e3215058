# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the comparison with b4's command, and a few threads that are compared in every run of the suite."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
from pathlib import Path

import pytest

from . import as_b4, letters
from .as_b4 import Letter, grouped, letter
from .letters import box, diff, patch, reply

ONE = patch("1", "[PATCH 1/2] core: one", diff(2, "int second;"))
TWO = patch("2", "[PATCH 2/2] core: two", diff(20, "int twenty;"), "1", day=2)
ALONE = patch("9", "[PATCH] mm: alone", diff(30, "int mm;"), day=3)
TALK = reply("r", "[PATCH 2/2] core: two", "Why?\n", "2", day=4)


def read(*mails: letters.Letter) -> list[Letter]:
    return [letter(one.text().encode()) for one in mails]


def test_mails_are_grouped_by_the_ids_that_they_refer_to() -> None:
    threads = grouped(read(TALK, ALONE, ONE, TWO, ALONE))
    assert [[one.id.partition("@")[0] for one in thread] for thread in threads] == [["r", "1", "2"], ["9"]]


@pytest.mark.parametrize("packed", [False, True])
def test_a_mailbox_is_read(tmp_path: Path, packed: bool) -> None:
    data = box([ONE, TWO])
    (tmp_path / "box").write_bytes(gzip.compress(data) if packed else data)
    found = [letter(one) for one in as_b4.collected(tmp_path / "box", range(9))]
    assert [one.id for one in found] == ["1@example.org", "2@example.org"]


def test_a_part_of_an_archive_is_read(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(tmp_path)]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([*git, "init", "--quiet"], check=True, env=env)
    for one in (ONE, TWO, TALK):
        (tmp_path / "m").write_text(one.text())
        subprocess.run([*git, "add", "m"], check=True, env=env)
        subprocess.run([*git, "commit", "--quiet", "-m", one.subject], check=True, env=env)
    found = [letter(one) for one in as_b4.collected(tmp_path / ".git", range(1, 9))]
    assert [one.id for one in found] == ["2@example.org", "r@example.org"]


@pytest.mark.parametrize("seed", range(100, 104))
def test_random_threads_are_read_as_b4_reads_them(seed: int) -> None:
    mails, expected = letters.random_thread(random.Random(seed))
    said = as_b4.compare(read(*mails))
    assert said == ("refused: parts of the series are missing" if expected.missing else as_b4.SAME)


def test_what_has_no_reason_makes_it_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "box").write_bytes(box([ONE, reply("r", "[PATCH 1/2] core: one", "Why?\n", "1"), ALONE]))
    assert as_b4.main([str(tmp_path / "box"), "--least", "2"]) == 0
    assert "2 mails, 1 threads" in capsys.readouterr().out
    monkeypatch.setattr(as_b4, "REASONS", {})
    assert as_b4.main([str(tmp_path / "box"), "--least", "2"]) == 1
    assert "lacks 2/2; b4: reads it" in capsys.readouterr().out
