# SPDX-License-Identifier: GPL-2.0-only
"""Tests of ranges of commits: what git tells of them, and which need no run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.bisect import commits, ranges, show
from harness.bisect.commits import Change, Repository
from harness.bisect.history import History, Point, line
from harness.bisect.ranges import Commits, Range, dull, taking_part
from harness.bisect.state import Outcome, Run
from harness.core.errors import HarnessError, UsageError
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.host.cache import Cache
from harness.host.process import spawn
from harness.kbuild.inputs import Inputs
from tests.unit.source.kernel_trees import git, git_tree

PART = Inputs("x86", frozenset({"kernel/fork.c", "include/a.h"}), frozenset({"fork"}))


def changes(*paths: str) -> tuple[tuple[Change, ...], ...]:
    return (tuple(Change(path) for path in paths),)


def shown(history: History, touched: Mapping[str, tuple[tuple[Change, ...], ...]], built: str) -> set[str]:
    return set(dull(history, touched, PART, built))


def test_commits_that_change_nothing_that_is_built() -> None:
    history = line([(f"c{place}", "") for place in range(6)])
    touched = {
        "c0": changes("Documentation/x.rst"),
        "c1": changes("kernel/fork.c"),
        "c2": changes("net/core.c"),
        "c3": changes("net/core.c", "include/a.h"),
        "c4": ((),),
        "c5": changes("arch/arm64/kernel/setup.c", "MAINTAINERS"),
    }
    for built in ("c5", "far"):
        found = dull(history, touched, PART, built)
        assert dict(found) == {
            "c0": "documentation",
            "c2": "not compiled",
            "c4": "it changes no file",
            "c5": "not of x86, documentation",
        }


def test_beyond_a_makefile_nothing_is_known_of_what_is_compiled() -> None:
    history = line([(f"c{place}", "") for place in range(5)])
    touched = {
        "c0": changes("net/core.c"),
        "c1": changes("net/Makefile"),
        "c2": changes("net/core.c"),
        "c3": changes("Documentation/x.rst"),
        "c4": changes("net/core.c"),
    }
    assert shown(history, touched, "c4") == {"c2", "c3", "c4"}
    assert shown(history, touched, "far") == {"c0", "c3"}
    assert shown(history, touched, "c0") == {"c0", "c3"}
    assert shown(history, touched, "c2") == {"c2", "c3", "c4"}


def test_beside_a_branch_that_steers() -> None:
    """A makefile that changed on one branch says nothing of the other, before they meet."""
    history = History((Point("a"), Point("b"), Point("m", ("a", "b"))))
    touched = {"a": changes("net/core.c"), "b": changes("Kconfig"), "m": (*changes("Kconfig"), *changes("net/core.c"))}
    assert shown(history, touched, "far") == {"a"}
    assert shown(history, touched, "m") == {"m"}, "it is what b is"


def test_a_header_that_is_new_counts() -> None:
    history = line([("c0", ""), ("c1", "")])
    touched = {"c0": ((Change("net/new.h", new=True),),), "c1": ((Change("net/old.c", gone=True),),)}
    assert shown(history, touched, "c1") == {"c1"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(git_tree(tmp_path / "linux"))


def test_what_commits_change(repository: Repository) -> None:
    folder = repository.folder
    base = git(folder, "rev-parse", "HEAD")
    (folder / "kernel/new file.c").write_bytes(b"\xff\xfe not UTF-8 \xe4\n")
    (folder / "kernel/sched/core.c").write_text("int more;\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", 'with "quotes" and ümlauts')
    one = git(folder, "rev-parse", "HEAD")
    git(folder, "rm", "-q", "kernel/new file.c")
    git(folder, "commit", "-q", "-m", "gone")
    git(folder, "commit", "-q", "--allow-empty", "-m", "empty")
    history = repository.between(base, git(folder, "rev-parse", "HEAD"), ("--good x", "--bad y"))
    assert [point.title for point in history.points] == ['with "quotes" and ümlauts', "gone", "empty"]
    found = repository.changes([point.id for point in history.points])
    both, gone, empty = (found[point.id][0] for point in history.points)
    assert [(change.path, change.new, change.gone) for change in both] == [
        ("kernel/new file.c", True, False),
        ("kernel/sched/core.c", False, False),
    ]
    assert [(change.path, change.gone) for change in gone] == [("kernel/new file.c", True)]
    assert empty == ()
    texts = repository.texts([change.blob for change in both] + ["0" * 40])
    assert texts[both[1].blob] == "int more;\n" and len(texts) == 2
    assert "+int more;" in repository.diff(one, ["kernel/sched/core.c"])
    assert "new file" not in repository.diff(one, ["kernel/sched/core.c"])


def test_merges_have_a_side_for_each_parent(repository: Repository) -> None:
    folder = repository.folder
    base = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-q", "-b", "side")
    (folder / "side").write_text("")
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "side")
    git(folder, "checkout", "-q", "main")
    (folder / "mine").write_text("")
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "mine")
    git(folder, "merge", "-q", "-m", "merge", "side")
    tip = git(folder, "rev-parse", "HEAD")
    history = repository.between(base, tip, ("", ""))
    assert [point.title for point in history.points][-1] == "merge" and len(history) == 3
    assert history.contained[2] == 0b111 and {history.contained[0], history.contained[1]} == {0b001, 0b010}
    assert [[change.path for change in side] for side in repository.changes([tip])[tip]] == [["side"], ["mine"]]
    assert "side" in repository.diff(tip, ["side"]) and repository.diff(tip, ["mine"]) == ""


def test_what_this_process_keeps_stays_kept(tmp_path: Path) -> None:
    """The base of a series is held in the cache for as long as a bisection lives; looking at its kernel changes nothing."""
    cache = Cache(tmp_path / "cache", 0)

    def made(kind: str, **files: str) -> None:
        def maker(staging: Path) -> None:
            for name, text in files.items():
                (staging / name).write_text(text)

        cache.produce(kind, "key", maker, what="x", say=print)

    made("source", Makefile="VERSION = 7\n")
    made("kernel", objects="", **{"meta.json": json.dumps({"tree": "key"})})
    cache.release("kernel", "key")
    plan = Plan((KernelRequest(SourceRequest(version="7.2"), "x86_64"),), seed=1)
    assert taking_part(Run(Outcome.PASSES, kernel="key"), plan, "x86_64", cache, lambda path: ()) is not None
    assert [(entry.kind, entry.live) for entry in cache.entries()] == [("kernel", False), ("source", True)]
    cache.release("source", "key")
    cache.prune(cap=0)
    assert taking_part(Run(Outcome.PASSES, kernel="key"), plan, "x86_64", cache, lambda path: ()) is None


def test_the_change_of_a_commit_is_told_as_far_as_it_may_take_part(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository.folder
    base = git(folder, "rev-parse", "HEAD")
    for name in ("kernel/sched/core.c", "drivers/md/dm.c", "Documentation/x.rst"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("int more;\n")
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "release")
    tip = git(folder, "rev-parse", "HEAD")
    plan = Plan((KernelRequest(SourceRequest(tree=str(folder)), "x86_64"),), seed=1)
    commits = Commits(Range(repository, (base, tip), ("", "")), plan, "x86_64", Cache(folder / ".cache", 0))
    gone, there = Run(Outcome.PASSES, kernel="gone"), Run(Outcome.PASSES, kernel="there")
    part = Inputs("x86", frozenset({"kernel/sched/core.c"}), frozenset())
    monkeypatch.setattr(ranges, "taking_part", lambda run, *_: part if run is there else None)
    assert show.changed(commits.candidate(tip, 1.0, (gone, there)).diff) == ["kernel/sched/core.c"]
    assert show.changed(commits.candidate(tip, 1.0, (gone,)).diff) == ["drivers/md/dm.c", "kernel/sched/core.c"]


def test_what_is_told_of_a_commit(repository: Repository) -> None:
    folder = repository.folder
    root = git(folder, "rev-parse", "HEAD")
    subject = "odd \u2028 subject \x0b\x85 of one line"
    (folder / "kernel/new file.c").write_text("int new;\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", subject)
    one = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-q", "-b", "side", root)
    (folder / "side").write_text("")
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "side")
    git(folder, "checkout", "-q", "main")
    git(folder, "merge", "-q", "-m", "merge", "side")
    tip = git(folder, "rev-parse", "HEAD")
    history = repository.between(root, tip, ("", ""))
    assert {point.title for point in history.points} == {subject, "side", "merge"}
    shown = repository.describe(one)
    assert (shown.subject, shown.author, shown.paths) == (subject, "t@t", ("kernel/new file.c",))
    assert shown.date == git(folder, "log", "-1", "--format=%ai", one)
    assert repository.describe(tip).paths == ("side",), "a merge against its first parent"
    assert (repository.describe(root).subject, repository.describe(root).paths) == ("one", ()), "not the whole tree"


def test_of_several_merge_bases_one_is_named(repository: Repository) -> None:
    """A criss-cross: two branches that each merged the other."""
    folder = repository.folder
    git(folder, "checkout", "-q", "-b", "side")
    git(folder, "commit", "-q", "--allow-empty", "-m", "s1")
    side = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-q", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "m1")
    main = git(folder, "rev-parse", "HEAD")
    git(folder, "merge", "-q", "-m", "main takes side", side)
    git(folder, "checkout", "-q", "side")
    git(folder, "merge", "-q", "-m", "side takes main", main)
    git(folder, "commit", "-q", "--allow-empty", "-m", "s2")
    ends = git(folder, "rev-parse", "main"), git(folder, "rev-parse", "side")
    with pytest.raises(UsageError) as raised:
        repository.between(*ends, ("--good main", "--bad side"))
    found = raised.value.step.partition(": --good ")
    assert found[0] == "give their merge base, one of 2, if it passes too"
    assert found[2] in (side[:12], main[:12])
    history = repository.between(side, ends[1], ("", ""))
    assert [point.title for point in history.points] == ["m1", "side takes main", "s2"]


def test_a_git_that_dies_is_not_taken_for_one_that_knows_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = spawn
    monkeypatch.setattr(commits, "spawn", lambda argv, **more: real(["sh", "-c", "kill -9 $$"], **more))
    with pytest.raises(HarnessError, match=r"git cat-file of .*linux failed \(killed by SIGKILL\)"):
        repository.texts(["0" * 40])
