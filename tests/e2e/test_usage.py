# SPDX-License-Identifier: GPL-2.0-only
"""Mistakes of the caller's: one line that names the thing and the next step, exit status 2, nothing done."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.e2e.command import Done, Kharness


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--tre", "x"], ["--tre", "--tree"]),
        (["rum"], ["rum", "run"]),
        (["run", "--jobs", "0"], ["--jobs", "1"]),
        (["run", "--seed", "seven"], ["--seed", "integer"]),
        (["replay"], ["file"]),
    ],
    ids=["flag", "command", "jobs", "seed", "no-file"],
)
def test_mistyped(kharness: Kharness, args: list[str], words: list[str]) -> None:
    done = kharness(*args, timeout=30).expect(2)
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (kharness.cwd / "out").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--arch", "sparc"], ["sparc", "x86_64"]),
        (["run", "--machine", "huge"], ["huge", "default"]),
        (["run", "--machine", "cpu1,huge"], ["huge", "default"]),
        (["run", "--tree", ".", "--kernel", "7.2"], ["--tree", "--kernel"]),
        (["run", "--tree", "no/such"], ["no/such", "--tree"]),
        (["run", "--suite", "no/such"], ["no/such"]),
        (["run", "--kconfig", "no/such"], ["no/such", "--kconfig"]),
        (["run", "--toolchain", "hosts"], ["hosts", "root", "host"]),
        (["replay", "no/such"], ["no/such", "replay folder"]),
        (["report", "no/such"], ["no/such"]),
    ],
    ids=["arch", "machine", "one-machine", "both", "tree", "suite", "kconfig", "toolchain", "replay", "report"],
)
def test_no_such_thing(kharness: Kharness, args: list[str], words: list[str]) -> None:
    done = kharness(*args, timeout=30).expect(2)
    for word in words:
        assert word in done.error
    assert ";" in done.error, "no next step"
    assert not (kharness.cwd / "out/latest").exists()


def test_not_a_kernel_tree(kharness: Kharness) -> None:
    folder = kharness.cwd / "project"
    folder.mkdir()
    (folder / "Makefile").write_text("all:\n\techo hello\n")
    done = kharness("run", "--tree", "project", timeout=60).expect(2)
    assert str(folder) in done.error
    assert [path.name for path in folder.iterdir()] == ["Makefile"]
    assert not (kharness.cwd / "out/latest").exists()


def test_a_file_is_no_tree(kharness: Kharness) -> None:
    (kharness.cwd / "bzImage").write_bytes(b"MZ")
    assert "bzImage" in kharness("run", "--tree", "bzImage", timeout=60).expect(2).error


def test_unknown_symbol(kharness: Kharness, passed: Done) -> None:
    """Names file and line, the symbol, and what may have been meant."""
    fragment = kharness.cwd / "my.config"
    fragment.write_text("# mine\nCONFIG_PERCPU_STATZ=y\n")
    done = kharness.run("--kconfig", "my.config", timeout=120).expect(2)
    assert "my.config:2" in done.error
    assert "PERCPU_STATZ" in done.error
    assert "PERCPU_STATS" in done.error


def test_foreign_folder(kharness: Kharness) -> None:
    mine = kharness.cwd / "thesis"
    mine.mkdir()
    (mine / "chapter1").write_text("precious")
    done = kharness.run("--out", "thesis", timeout=60).expect(2)
    assert "thesis" in done.error
    assert "--out" in done.error
    assert [path.name for path in mine.iterdir()] == ["chapter1"]


def test_folder_in_use(kharness: Kharness) -> None:
    """By a run that lives: its lock is what counts."""
    (kharness.cwd / "busy").mkdir()
    lock = os.open(kharness.cwd / "busy/.kharness-out", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = kharness.run("--out", "busy", timeout=60).expect(2)
    finally:
        os.close(lock)
    assert "another run" in done.error
    assert [path.name for path in (kharness.cwd / "busy").iterdir()] == [".kharness-out"]


def test_not_a_replay_file(kharness: Kharness) -> None:
    (kharness.cwd / "notes.json").write_text('{"schema": 1, "note": "not a replay"}')
    done = kharness("replay", "notes.json", timeout=30).expect(2)
    assert "notes.json" in done.error
    (kharness.cwd / "noise").write_bytes(os.urandom(64))
    assert "noise" in kharness("replay", "noise", timeout=30).expect(2).error


def test_report_of_a_run(kharness: Kharness, passed: Done) -> None:
    """Says what the run said, with its exit status."""
    done = kharness("report", str(passed.cwd / "out/latest"), timeout=30).expect(0)
    assert done.verdict.startswith("verdict: PASS")
    assert Path(passed.cwd / "out/latest/report.html").is_file()


@pytest.mark.parametrize("name", ["mail", "json", "kcidb"])
def test_report_of_a_run_for_others(kharness: Kharness, passed: Done, name: str) -> None:
    """stdout is for it alone."""
    done = kharness("report", str(passed.cwd / "out/latest"), "--format", name, timeout=30).expect(0)
    if name == "mail":
        assert done.stdout.startswith("Subject: PASS on Linux ")
    else:
        assert isinstance(json.loads(done.stdout), dict)


def test_doctor_and_cache(kharness: Kharness, passed: Done) -> None:
    table = kharness("doctor", timeout=60).expect(0).stdout
    for tool in ("python", "bwrap", "mmdebstrap", "/dev/kvm", "disk space"):
        assert tool in table
    listed = kharness("cache", "list", timeout=60).expect(0).stdout
    for kind in ("toolchain", "source", "kernel", "snapshot"):
        assert kind in listed
