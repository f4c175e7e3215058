# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness bisect` on what are no commits of the user: releases, a series of patches, two .config files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bisect import rows, steps
from harness.bisect.child import Answer
from harness.cli import main
from harness.core.errors import UsageError
from harness.core.plan import Plan
from harness.core.records import Role
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.run.trees import Sources
from tests.unit.bisect.commanding import CORE, PATCH, invoke, start
from tests.unit.source.kernel_trees import FILES, MAKEFILE, git, git_tree, write_tree


def test_the_release_that_mended_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history imported from four folders; the failure is gone from the third on."""
    texts = {6: "BUG", 9: "BUG", 11: "fine", 13: "fine"}
    for point, text in texts.items():
        makefile = MAKEFILE.replace("SUBLEVEL = 13", f"SUBLEVEL = {point}")
        write_tree(Path(f"linux-7.2.{point}"), {**FILES, "Makefile": makefile, CORE: f"/* {text} */\n"})
    done = CliRunner().invoke(
        main.app, ["source", "import", *(f"linux-7.2.{point}" for point in texts), "--into", str(tree)]
    )
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"next: kharness bisect --tree {tree} --good v7.2.6 --bad v7.2.13"
    start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--bad", "v7.2.6", "--good", "v7.2.13", "--find", "fixed")
    assert status == 0
    assert "FIXED BY" in said.splitlines()[-1] and "'Linux 7.2.11'" in said.splitlines()[-1]
    with pytest.raises(UsageError, match=r"--good v7.2.11 .* passes|--bad v7.2.13 .* does not fail"):
        invoke("--tree", str(tree), "--good", "v7.2.11", "--bad", "v7.2.13")


def test_a_patch_of_a_series(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_tree(tree)
    Path("series").mkdir()
    for number in range(1, 13):
        Path(f"series/{number:04}.patch").write_text(PATCH.format("BUG" if number >= 8 else "fine"))
    it = start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--patch", "series")
    assert status == 0
    assert "BROUGHT IN BY p0008 '0008.patch'" in said.splitlines()[-1]
    report = rows.read(Path("out/latest"))
    assert report.searches[0].names == ("the base", "all 12 patches")
    assert "+/* BUG */" in report.searches[0].candidates[0].diff
    assert all(plan.kernels[0].role is Role.TREE for plan in it.plans)
    assert {len(plan.kernels[0].patches) for plan in it.plans} >= {0, 7, 8, 12}
    (tree / CORE).write_text("int core;\nint edited;\n")
    assert invoke("--tree", str(tree), "--patch", "series")[0] == 0
    assert len(list(Path("out").glob("bisect-*"))) == 2, "another base is another bisection"
    with pytest.raises(UsageError, match="0001.patch is one patch: there is nothing to search"):
        invoke("--tree", str(tree), "--patch", "series/0001.patch")
    with pytest.raises(UsageError, match="--good and --bad, --patch and --kconfig exclude each other"):
        invoke("--tree", str(tree), "--patch", "series", "--good", "HEAD")
    with pytest.raises(UsageError, match="no.patch: no such file; check --patch"):
        try:
            invoke("--tree", str(tree), "--patch", "no.patch")
        except UsageError as error:
            raise UsageError(error.line()) from error


def test_edits_meanwhile_do_not_change_the_base_of_a_series(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lay in the tree when the command was given is the base of all steps, committed or not."""
    git_tree(tree)
    for number in range(1, 9):
        Path(f"{number}.patch").write_text(PATCH.format("BUG" if number >= 5 else "fine"))
    (tree / CORE).write_text("int core;\nint edited;\n")
    it = start(tree, monkeypatch)
    real = it.__call__
    bases: list[str] = []

    def edited(plan: Plan, log: Path) -> Answer:
        cache = Cache.default(0)
        sources = Sources(plan, None, cache, Progress(cache.folder("durations")), log.parent)  # type: ignore[arg-type]
        base = sources.tree(replace(plan.kernels[0], patches=()))
        bases.append((base.path / CORE).read_text())
        (tree / CORE).write_text(f"int core;\nint edited_{len(bases)};\n")
        git(tree, "commit", "-q", "-a", "-m", f"edit {len(bases)}")
        return real(plan, log)

    monkeypatch.setattr(steps, "conduct", edited)
    words = [word for number in range(1, 9) for word in ("--patch", f"{number}.patch")]
    status, said = invoke("--tree", str(tree), *words)
    assert status == 0 and "BROUGHT IN BY p0005" in said.splitlines()[-1]
    assert len(bases) > 8 and set(bases) == {"int core;\nint edited;\n"}
