# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what `kharness bisect` refuses, of ends that do not do, and of what it leaves as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.bisect import rows, steps
from harness.bisect.child import Answer
from harness.core.errors import GuestError, HarnessError, UsageError
from harness.core.plan import Plan
from harness.host.progress import Progress
from tests.unit.bisect.commanding import CORE, PATCH, ends, history, invoke, start
from tests.unit.source.kernel_trees import fingerprint, git, git_tree


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--good", "v9", "--bad", "HEAD"), r"--good v9: .*linux has no such revision; see 'git -C .* log --oneline'"),
        (("--good", "HEAD~1", "--bad", "nope"), r"--bad nope: .*linux has no such revision"),
        (
            ("--good", "HEAD", "--bad", "HEAD~1"),
            r"--good HEAD \(\w{12}\) is no ancestor of --bad HEAD~1 \(\w{12}\); "
            r"exchange them, or search the other way with --find fixed",
        ),
        (
            ("--good", "other", "--bad", "HEAD"),
            r"--good other \(\w{12}\) is no ancestor of .*; they have no commit in common: name two",
        ),
        (
            ("--good", "side", "--bad", "HEAD"),
            r"--good side \(\w{12}\) is no ancestor of --bad HEAD \(\w{12}\); "
            r"give their merge base if it passes too: --good \w{12}$",
        ),
        (("--bad", "side", "--good", "HEAD", "--find", "fixed"), r"--bad side .*if it fails too: --bad \w{12}$"),
        (("--good", "HEAD", "--bad", "main"), r"--good HEAD and --bad main are the same commit"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--find", "fixd"), r"--find: unknown word 'fixd'; near it: fixed"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--follow", "bild"), r"--follow: unknown word 'bild'; near it: build"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--confidence", "1"), r"--confidence 1 is no chance to stop at"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--fixup", "no.patch"), r"no.patch: no such file; check --fixup"),
        (("--good", "HEAD~1"), r"bisect needs --good REV and --bad REV"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(
    tree: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], says: str
) -> None:
    history(tree, ["fine", "fine", "BUG"])
    git(tree, "checkout", "-q", "--orphan", "other")
    git(tree, "commit", "-q", "-m", "elsewhere")
    git(tree, "checkout", "-q", "-b", "side", "main~1")
    git(tree, "commit", "-q", "--allow-empty", "-m", "side")
    git(tree, "checkout", "-q", "main")
    it = start(tree, monkeypatch)
    with pytest.raises(UsageError) as raised:
        invoke("--tree", str(tree), *args)
    assert re.match(says, raised.value.line()), raised.value.line()
    assert not it.plans and not Path("out").exists()


def test_what_is_no_repository(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.mkdir()
    with pytest.raises(UsageError, match="is no git tree: it has no history"):
        invoke("--tree", str(tree), "--good", "a", "--bad", "b")
    with pytest.raises(UsageError, match="bisect needs --tree: a Debian source has no history"):
        invoke("--good", "a", "--bad", "b")


def test_edits_in_the_tree_do_not_matter(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    (tree / CORE).write_text("BUG in an edit\n")
    start(tree, monkeypatch)
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[2][:12] in said.splitlines()[-1]
    assert (tree / CORE).read_text() == "BUG in an edit\n"


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["fine", "fine"], UsageError, r"--bad .* does not fail: it passed in 10 runs"),
        (["BUG", "BUG"], UsageError, r"--good .* fails as --bad .* does: WARNING in destroy_dsq"),
        (["ODD", "BUG"], UsageError, r"--good .* does not pass, it fails in another way: .*test_create_and_destroy"),
        (["LAME", "BUG"], GuestError, r"--good .* cannot be judged: "),
        (["fine", "LAME"], GuestError, r"--bad .* cannot be judged: "),
    ],
)
def test_ends_that_do_not_do(
    tree: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], error: type[Exception], says: str
) -> None:
    ids = history(tree, texts)
    start(tree, monkeypatch)
    with pytest.raises(error) as raised:
        invoke("--tree", str(tree), "--good", ids[1], "--bad", ids[2])
    assert re.match(says, str(raised.value)), str(raised.value)


def test_trouble_of_the_host_ends_it_and_is_not_a_skip(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["fine"] * 4, *["BUG"] * 4])
    it = start(tree, monkeypatch)
    it.raises = [Answer(4, "DiskFull", "no space left on device in /cache", "free space")]
    with pytest.raises(HarnessError, match="no space left on device"):
        invoke(*ends(tree, ids))
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[5][:12] in said.splitlines()[-1]


def test_the_failure_that_is_asked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    start(tree, monkeypatch)
    assert invoke(*ends(tree, ids), "--signature", "dmesg:*destroy*")[0] == 0
    with pytest.raises(UsageError) as raised:
        invoke(*ends(tree, ids), "--signature", "kmemleak:*")
    assert raised.value.line().endswith("it has: dmesg:warn:destroy_dsq")


def test_a_build_break_may_be_what_is_looked_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, [*["fine"] * 6, *["SLIP"] * 6])
    start(tree, monkeypatch)
    status, said = invoke(*ends(tree, ids))
    assert status == 0 and ids[7][:12] in said.splitlines()[-1]


def test_the_report_is_json(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    start(tree, monkeypatch)
    invoke(*ends(tree, ids), "--out", "here")
    data = json.loads(Path("here/bisect.json").read_text())
    assert data["schema"] == 1
    assert data["searches"][0]["candidates"][0]["id"] == ids[2]
    with pytest.raises(UsageError, match="holds another bisection"):
        invoke(*ends(tree, ids[:2]), "--bad", ids[2], "--out", "here", "--seed", "3")


def test_a_folder_that_holds_something_else_stays_as_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    Path("mine").mkdir()
    Path("mine/letter").write_text("")
    with pytest.raises(UsageError, match=r"mine is not empty and holds no bisection \(there is letter\)"):
        invoke(*ends(tree, ids), "--out", "mine")
    assert [path.name for path in Path("mine").iterdir()] == ["letter"] and not it.plans
    Path("mine/letter").unlink()
    Path("mine/x86_64").mkdir()  # as one leaves it that was killed before it wrote anything
    assert invoke(*ends(tree, ids), "--out", "mine")[0] == 0


def test_a_series_is_not_written_over_the_copies_of_another(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_tree(tree)
    for name, word in (("one", "BUG"), ("two", "BUG again")):
        Path(name).mkdir()
        for number in range(1, 4):
            Path(f"{name}/{number}.patch").write_text(PATCH.format(word if number >= 2 else "fine"))
    start(tree, monkeypatch)
    assert invoke("--tree", str(tree), "--patch", "one", "--out", "here")[0] == 0
    before = fingerprint(Path("here"))
    with pytest.raises(UsageError, match="here/x86_64 holds another bisection"):
        invoke("--tree", str(tree), "--patch", "two", "--out", "here")
    assert fingerprint(Path("here")) == before


def test_a_patch_that_is_not_utf_8(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_tree(tree)
    for number in (1, 2):
        text = PATCH.format(f"J\xfcrgen: {'BUG' if number == 2 else 'fine'}")
        Path(f"{number}.patch").write_bytes(text.encode("latin-1"))
    it = start(tree, monkeypatch)
    status, said = invoke("--tree", str(tree), "--patch", "1.patch", "--patch", "2.patch")
    assert status == 0 and "BROUGHT IN BY p0002" in said.splitlines()[-1]
    copies = next(plan.kernels[0].patches for plan in it.plans if plan.kernels[0].patches)
    assert b"J\xfcrgen" in Path(copies[0]).read_bytes()


def test_what_the_first_architecture_gave_is_said_though_the_second_gives_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = history(tree, ["fine", "BUG", "BUG"])
    it = start(tree, monkeypatch)
    real = it.__call__

    def one_alone(plan: Plan, log: Path) -> Answer:
        return real(plan, log) if plan.kernels[0].arch == "x86_64" else Answer(4, "DiskFull", "disk full")

    monkeypatch.setattr(steps, "conduct", one_alone)
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, line: said.append(line))
    with pytest.raises(HarnessError, match="disk full"):
        invoke(*ends(tree, ids), "--arch", "x86_64,arm64", "--out", "here")
    assert any(f"x86_64 BROUGHT IN BY {ids[2][:12]}" in line and line.endswith("; arm64 to come") for line in said)
    assert len(rows.read(Path("here")).searches) == 1
