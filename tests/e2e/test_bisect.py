# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness bisect` on real kernels: 64 commits, one of which breaks destroy, two do not build, one panics."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import history
from tests.e2e.command import Done, Kharness
from tests.e2e.history import BROKEN, COMMITS, CULPRIT, DULL, PANICS, Made, git
from tests.e2e.trees import UserTree

pytestmark = pytest.mark.full

TEST = "test_create_and_destroy"
STEPS_SECONDS = 3600.0
RELEASES = ("7.2.9", "7.2.11", "7.2.12", "7.2.13")
ARCH = os.environ.get("KHARNESS_ARCH", "x86_64")


@pytest.fixture(scope="module")
def made(passed: Done, cache_home: Path) -> Iterator[Made]:
    """The history, in a tree of links to the default kernel's source."""
    source = cache_home / "kharness/source" / passed.results["kernels"][0]["tree"]
    tree = UserTree(source, cache_home / "linux-bisect")
    yield history.make(tree.folder, tree.scheduler)
    shutil.rmtree(tree.folder)


def state(folder: Path) -> dict[str, bytes]:
    """What of a repository is the user's: index, HEAD and refs."""
    paths = [folder / ".git" / name for name in ("index", "HEAD", "packed-refs")]
    paths += [path for path in (folder / ".git/refs").rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bisect.json").read_text())["searches"][0]
    return found


def arguments(made: Made, *more: str) -> list[str]:
    words = ["--tree", str(made.folder), "--good", made.base, "--bad", made.commit(COMMITS), "--arch", ARCH]
    return ["bisect", *words, "-k", TEST, *more]


def test_the_commit_is_found_and_a_kill_changes_nothing(kharness: Kharness, made: Made) -> None:
    before = state(made.folder)
    runs = kharness.cwd / "here" / ARCH / "state.jsonl"

    def lines(number: int) -> bool:
        return runs.exists() and runs.read_bytes().count(b"\n") >= number

    rng = random.Random(7)
    # Killed without warning, then interrupted, both somewhere in a run; each time the same command goes on.
    first = kharness.start(*arguments(made, "--out", "here"))
    first.wait_until("the first runs were written down", lambda: lines(3 + rng.randrange(4)), STEPS_SECONDS)
    first.kill()
    for left in (kharness.cwd.parent / "tmp").iterdir():  # nobody can clean up after a SIGKILL
        shutil.rmtree(left, ignore_errors=True)
    second = kharness.start(*arguments(made, "--out", "here"))
    second.wait_until("a commit between the ends was judged", lambda: lines(13), STEPS_SECONDS)
    second.interrupt().expect(130)
    done = kharness(*arguments(made, "--out", "here"), timeout=STEPS_SECONDS).expect(0)
    assert state(made.folder) == before
    assert git(made.folder, "status", "--porcelain", "--untracked-files=no") == ""
    culprit = made.commit(CULPRIT)
    assert f"BROUGHT IN BY {culprit[:12]} 'sched_ext: simplify destroy_dsq()'" in done.verdict
    found = report(kharness.cwd / "here")
    assert found["ending"] == "found"
    assert [candidate["id"] for candidate in found["candidates"]] == [culprit]
    assert "-\tif (!dsq)\n+\tif (dsq)" in found["candidates"][0]["diff"]
    assert found["interior"] <= math.log2(COMMITS) + 3
    assert found["failing"]["id"] == culprit and found["passing"]["id"] == made.commit(CULPRIT - 1)
    outcomes = {step["id"]: step["run"]["outcome"] for step in found["steps"]}
    for number in BROKEN:
        assert outcomes.get(made.commit(number), "build") == "build"
    assert outcomes.get(made.commit(PANICS), "boot") == "boot"
    dull = {made.commit(number) for number in range(1, COMMITS + 1) if number % 8 in DULL}
    special = {made.commit(number + more) for number in (*BROKEN, PANICS) for more in (0, 1)} | {culprit}
    assert dull - special <= set(found["dull"]), "what is not built needs no run"
    assert not set(found["dull"]) & set(outcomes) - {made.commit(COMMITS)}
    log = kharness.cwd / "here" / ARCH / "bisect.log"
    said = git(made.folder, "bisect", "replay", str(log))
    assert f"{culprit} is the first bad commit" in said
    git(made.folder, "bisect", "reset")
    again = kharness(*arguments(made, "--out", "here"), timeout=120).expect(0)
    assert again.verdict == done.verdict


def test_a_failure_of_one_guest_in_three(kharness: Kharness, passed: Done, cache_home: Path) -> None:
    """Seven commits around the culprit; some 40 runs, as many as it takes."""
    source = cache_home / "kharness/source" / passed.results["kernels"][0]["tree"]
    tree = UserTree(source, cache_home / "linux-flaky")
    try:
        flaky = history.make(tree.folder, tree.scheduler, commits=CULPRIT + 5, always=False)
        ends = ["--good", flaky.commit(CULPRIT - 2), "--bad", flaky.commit(CULPRIT + 5)]
        words = [
            "bisect",
            "--tree",
            str(tree.folder),
            *ends,
            "--arch",
            ARCH,
            "-k",
            TEST,
            "--tries",
            "20",
            "--out",
            "here",
        ]
        done = kharness(*words, timeout=2 * STEPS_SECONDS).expect(0)
    finally:
        shutil.rmtree(tree.folder)
    assert f"BROUGHT IN BY {flaky.commit(CULPRIT)[:12]}" in done.verdict
    found = report(kharness.cwd / "here")
    assert 0.1 < found["rate"] < 0.7


def test_the_release_that_fixed_it(kharness: Kharness, passed: Done) -> None:
    """From tarballs alone: a CPU that cannot go offline while tasks lie on a DSQ was mended in 7.2.12."""
    kharness("source", "import", *RELEASES, "--into", "stable", timeout=STEPS_SECONDS).expect(0)
    words = ["bisect", "--tree", "stable", "--find", "fixed", "--bad", f"v{RELEASES[0]}", "--good", f"v{RELEASES[-1]}"]
    words += ["--arch", ARCH, "-k", "test_hotplug", "--runs", "2", "--out", "here"]
    done = kharness(*words, timeout=2 * STEPS_SECONDS).expect(0)
    assert "FIXED BY" in done.verdict and "Linux 7.2.12" in done.verdict
    found = report(kharness.cwd / "here")
    assert found["wanted"]["title"].startswith("CPU 1 does not go offline within")


def test_git_bisect_run_understands_us(kharness: Kharness, made: Made) -> None:
    """Around the culprit alone: the rest is git's own."""
    clone = kharness.cwd / "clone"
    git(kharness.cwd, "clone", "-q", "--no-checkout", "--shared", str(made.folder), str(clone))
    git(clone, "checkout", "-q", made.commit(CULPRIT + 2))
    git(clone, "bisect", "start", made.commit(CULPRIT + 2), made.commit(CULPRIT - 2))
    python = [sys.executable, "-m", "harness", "run", "--bisect-exit", "--tree", str(clone), "--arch", ARCH, "-k", TEST]
    done = subprocess.run(
        ["git", "-C", str(clone), "bisect", "run", *python],
        env=kharness.environment(),
        cwd=kharness.cwd,
        capture_output=True,
        text=True,
        timeout=STEPS_SECONDS,
    )
    assert f"{made.commit(CULPRIT)} is the first bad commit" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
