# SPDX-License-Identifier: GPL-2.0-only
"""A patch or a revision against its base: what applies, what changes nothing, what regressed. Builds of minutes."""

from __future__ import annotations

import difflib
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.command import Kharness
from tests.e2e.trees import UserTree

LEAK = ("exit_dsq", "\tfree_percpu(dsq->pcpu);", "\tif (nr_cpu_ids > 4096)\n\t\tfree_percpu(dsq->pcpu);")
"""No DSQ's percpu data is freed on a machine that can be had."""


SHORT = ("--arch", "x86_64", "--machine", "default", "-k", "lifecycle")


def patch(tree: UserTree, to: Path, file: str, function: str, old: str, new: str) -> str:
    """A patch of that edit; the tree is left as it was."""
    before = (tree.folder / file).read_text()
    with tree.edited(file, function, old, new):
        after = (tree.folder / file).read_text()
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{file}", f"b/{file}")
    to.write_text("".join(lines))
    return str(to)


def git(folder: Path, *argv: str) -> None:
    """Git as nobody, without any configuration of this machine's."""
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **names, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    # A commit of so many files would start a gc in the background, which writes into .git while the tree is watched.
    quiet = ["-c", "gc.auto=0", "-c", "maintenance.auto=false"]
    subprocess.run(["git", "-C", str(folder), *quiet, *argv], env=env, check=True)


def said(folder: Path, *argv: str, data: str = "") -> str:
    """What git answers, in one line."""
    done = subprocess.run(["git", "-C", str(folder), *argv], check=True, capture_output=True, text=True, input=data)
    return done.stdout.strip()


def test_what_does_not_apply_is_named_before_anything_is_built(kharness: Kharness, user_tree: UserTree) -> None:
    file = user_tree.scheduler
    given = patch(user_tree, kharness.cwd / "a.patch", file, *LEAK)
    with user_tree.edited(file, LEAK[0], LEAK[1], "\tfree_percpu(READ_ONCE(dsq->pcpu));"):
        done = kharness("run", "--tree", str(user_tree.folder), "--patch", given).expect(2)
    assert "'a.patch', does not apply" in done.error
    assert f"{file}, hunk 1 of 1" in done.error
    assert "build of" not in done.stderr
    assert not (kharness.cwd / "out/latest").exists()


@pytest.mark.full
def test_a_patch_that_leaks_has_regressed(kharness: Kharness, user_tree: UserTree) -> None:
    file = user_tree.scheduler
    given = patch(user_tree, kharness.cwd / "leak.patch", file, *LEAK)
    before = user_tree.state()
    done = kharness("run", "--tree", str(user_tree.folder), "--patch", given, "-k", "lifecycle").expect(1)
    assert user_tree.state() == before
    assert done.verdict.startswith("verdict: REGRESSED")
    kernels = {kernel["role"]: kernel for kernel in done.results["kernels"]}
    assert kernels["patched"]["patches"] == ["leak.patch"] and kernels["base"]["patches"] == []
    assert kernels["patched"]["tree"] != kernels["base"]["tree"]
    assert done.test("patch")["outcome"] == "pass"
    bad = [row for row in done.results["tests"] if row["outcome"] == "fail"]
    assert {row["kernel"] for row in bad} == {kernels["patched"]["id"]}
    found = [finding for row in bad for finding in row["findings"]]
    assert any("init_dsq" in [frame["function"] for frame in finding["frames"]] for finding in found)
    changes = {row["id"]: row["change"] for row in done.results["comparison"]}
    assert {changes[row["id"]] for row in bad} == {"regressed"}
    assert changes["build"] == "same"
    # The user's file may be gone or newer by then: what was tested lies with the results.
    Path(given).unlink()
    replay = next(row["replay"] for row in bad if row["replay"])
    assert "the same finding came back" in kharness("replay", replay).expect(1).stdout


@pytest.mark.full
def test_a_fix_is_fixed_and_what_is_neutral_the_same(kharness: Kharness, user_tree: UserTree) -> None:
    file, (function, clean, broken) = user_tree.scheduler, LEAK
    with user_tree.edited(file, *LEAK):
        whole = (user_tree.folder / file).read_text()
        fixed = difflib.unified_diff(
            whole.splitlines(True), whole.replace(broken, clean).splitlines(True), f"a/{file}", f"b/{file}"
        )
        (kharness.cwd / "fix.patch").write_text("".join(fixed))
        done = kharness("run", "--tree", str(user_tree.folder), "--patch", "fix.patch", *SHORT).expect(0)
    changes = {row["id"]: row["change"] for row in done.results["comparison"]}
    assert "fixed" in changes.values() and set(changes.values()) <= {"fixed", "same"}
    neutral = patch(user_tree, kharness.cwd / "neutral.patch", file, function, clean, f"\tbarrier();\n{clean}")
    done = kharness("run", "--tree", str(user_tree.folder), "--patch", neutral, *SHORT).expect(0)
    assert {row["change"] for row in done.results["comparison"]} == {"same"}


@pytest.mark.full
def test_a_patch_that_the_tree_has_is_taken_out_for_the_base(kharness: Kharness, user_tree: UserTree) -> None:
    file = user_tree.scheduler
    given = patch(user_tree, kharness.cwd / "leak.patch", file, *LEAK)
    with user_tree.edited(file, *LEAK):
        done = kharness("run", "--tree", str(user_tree.folder), "--patch", given, *SHORT).expect(1)
    assert "has all of it: base is without, patched as it is" in done.stderr
    assert done.verdict.startswith("verdict: REGRESSED")
    (fate,) = done.results["patches"]["fates"]
    assert [hunk["state"] for hunk in fate["hunks"]] == ["contained"]
    bad = {row["kernel"] for row in done.results["tests"] if row["outcome"] == "fail"}
    assert bad == {kernel["id"] for kernel in done.results["kernels"] if kernel["role"] == "patched"}


@pytest.mark.full
def test_a_series_is_put_on_its_base_commit(kharness: Kharness, user_tree: UserTree) -> None:
    """What was committed after it is left alone: here a leak that is not the patch's."""
    file, (function, clean, broken) = user_tree.scheduler, LEAK
    neutral = Path(patch(user_tree, kharness.cwd / "n.patch", file, function, clean, f"\tbarrier();\n{clean}"))
    git(user_tree.folder, "init", "-q", "-b", "main")
    try:
        git(user_tree.folder, "add", "-A", "-f")
        git(user_tree.folder, "commit", "-q", "-m", "base")
        base = said(user_tree.folder, "rev-parse", "HEAD")
        leaky = (user_tree.folder / file).read_text().replace(clean, broken)
        blob = said(user_tree.folder, "hash-object", "-w", "--stdin", data=leaky)
        git(user_tree.folder, "update-index", "--cacheinfo", f"100644,{blob},{file}")
        git(user_tree.folder, "commit", "-q", "-m", "leaks")
        mail = f"Subject: [PATCH] neutral\n\nWhy.\n\n---\n{neutral.read_text()}\nbase-commit: {base}\n"
        neutral.write_text(mail)
        done = kharness("run", "--tree", str(user_tree.folder), "--patch", str(neutral), *SHORT).expect(0)
    finally:
        subprocess.run(["rm", "-rf", str(user_tree.folder / ".git")], check=True)
    assert f"base-commit {base[:12]} of the series is the base" in done.stderr
    assert {kernel["commit"] for kernel in done.results["kernels"]} == {base}
    assert {row["change"] for row in done.results["comparison"]} == {"same"}


@pytest.mark.full
def test_a_patch_that_changes_nothing_names_the_symbol(kharness: Kharness, user_tree: UserTree) -> None:
    (kharness.cwd / "series").mkdir()
    file = "kernel/sched/core_sched.c"
    text = (user_tree.folder / file).read_text()
    lines = difflib.unified_diff(
        text.splitlines(True), ["/* first */\n", *text.splitlines(True)], f"a/{file}", f"b/{file}"
    )
    (kharness.cwd / "series/0001.patch").write_text("".join(lines))
    done = kharness("run", "--tree", str(user_tree.folder), "--patch", "series").expect(3)
    assert f"{file} is compiled at these lines only with CONFIG_SCHED_CORE" in " ".join(done.stdout.split())
    row = done.test("patch")
    assert (row["outcome"], row["step"].split()[0]) == ("skip", "--kconfig")
    fragment = Path(row["step"].split()[1])
    assert (kharness.cwd / fragment).read_text() == "CONFIG_SCHED_CORE=y\n"
    assert done.results["next"].endswith(row["step"])
    assert {test["id"] for test in done.results["tests"]} == {"build", "patch"}


@pytest.mark.full
def test_uncommitted_edits_against_a_revision(kharness: Kharness, user_tree: UserTree) -> None:
    """--base alone: what lies in the tree now is compared with the commit."""
    git(user_tree.folder, "init", "-q", "-b", "main")
    try:
        git(user_tree.folder, "add", "-A", "-f")  # Debian's .gitignore ignores everything
        git(user_tree.folder, "commit", "-q", "-m", "as it was")
        same = kharness("run", "--tree", str(user_tree.folder), "--base", "HEAD", timeout=300).expect(2)
        assert "base and patched are the same content" in same.error
        with user_tree.edited(user_tree.scheduler, *LEAK):
            done = kharness("run", "--tree", str(user_tree.folder), "--base", "HEAD", "-k", "lifecycle").expect(1)
    finally:
        subprocess.run(["rm", "-rf", str(user_tree.folder / ".git")], check=True)
    assert done.verdict.startswith("verdict: REGRESSED")
    kernels = {kernel["role"]: kernel for kernel in done.results["kernels"]}
    assert (kernels["base"]["dirty"], kernels["patched"]["dirty"]) == (False, True)
    assert kernels["base"]["commit"] == kernels["patched"]["commit"] != ""
