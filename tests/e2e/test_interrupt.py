# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C (and SIGTERM) at any phase: exit status 130, nothing left behind, and the next run works."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import Done, Kharness, Running
from tests.e2e.conftest import QUICK, place
from tests.e2e.leaks import below
from tests.e2e.trees import UserTree

BOTH = pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)], ids=["ctrl-c", "sigterm"]
)


def interrupted(running: Running, number: int) -> Done:
    done = running.interrupt(number).expect(130)
    assert "interrupted" in done.error
    assert "Traceback" not in done.stderr
    results = done.results
    assert results["verdict"] == "inconclusive"
    assert "interrupted" in " ".join(results["why"])
    return done


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Kharness]:
    """kharness on an empty cache."""
    yield from place(tmp_path)


def test_while_the_toolchain_is_made(bare: Kharness, tmp_path: Path, cache_home: Path) -> None:
    running = bare.start_run()
    running.wait_for(r"toolchain root[^\n]*: started")
    # mmdebstrap has begun to unpack: that is where mounts and half a system lie about.
    staging = tmp_path / "kharness/.staging"
    running.wait_until("packages are unpacked", lambda: any(staging.glob("toolchain@*/root/usr/bin/dpkg")))
    interrupted(running, signal.SIGINT)
    assert not (tmp_path / "kharness/toolchain").exists()
    assert not list(staging.iterdir())


def test_while_the_tree_is_read(kharness: Kharness, user_tree: UserTree, cache: Path) -> None:
    before, sources = user_tree.state(), sorted((cache / "source").iterdir())
    running = kharness.start("run", "--tree", str(user_tree.folder))
    running.wait_for(r"reading [^\n]*: started")
    running.wait_until("git reads", lambda: bool(below(running.process.pid, "git")))
    interrupted(running, signal.SIGTERM)
    assert user_tree.state() == before
    assert sorted((cache / "source").iterdir()) == sources


@BOTH
def test_while_the_kernel_is_built(kharness: Kharness, passed: Done, cache: Path, number: int) -> None:
    (kharness.cwd / "my.config").write_text(f'CONFIG_LOCALVERSION="-e2e-{number}"\n')
    kernels = sorted((cache / "kernel").iterdir())
    running = kharness.start_run("--kconfig", "my.config")
    running.wait_for(r"build of x86_64[^\n]*: started")
    running.wait_until("a compiler runs", lambda: bool(below(running.process.pid, "cc1")))
    interrupted(running, number)
    assert sorted((cache / "kernel").iterdir()) == kernels


@BOTH
def test_while_booting_and_testing(kharness: Kharness, passed: Done, cache: Path, number: int) -> None:
    """One after the other; the third try comes to its end."""
    args = ["-k", QUICK, "--cmdline", f"kharness_e2e={number}"]
    snapshots = sorted((cache / "snapshot").iterdir())
    running = kharness.start_run(*args)
    running.wait_for(r"boot x86_64[^\n]*: started")
    running.wait_until("QEMU runs", lambda: bool(below(running.process.pid, "qemu-system")))
    interrupted(running, number)
    assert sorted((cache / "snapshot").iterdir()) == snapshots

    running = kharness.start_run(*args)
    log = kharness.cwd / "out/latest/events.jsonl"
    running.wait_until("a test runs", lambda: '"test-start"' in log.read_text() if log.exists() else False)
    interrupted(running, number)
    assert kharness.run(*args).expect(0).verdict.startswith("verdict: PASS")
