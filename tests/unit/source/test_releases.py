# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness source import`: a history of releases from what lies at hand, and what cannot be had."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source import debian, local, releases
from harness.source.debian import Offer
from harness.source.releases import gather, order
from tests.unit.source.kernel_trees import FILES, MAKEFILE, contents, fingerprint, git, git_tree, write_tree

ROOT = Path(releases.__file__).resolve().parents[2]


def tree(folder: Path, point: int, core: str) -> Path:
    files = {**FILES, "Makefile": MAKEFILE.replace("SUBLEVEL = 13", f"SUBLEVEL = {point}"), "kernel/sched/core.c": core}
    return write_tree(folder, files)


def tarball(folder: Path, point: int, core: str) -> str:
    tree(folder / f"linux-7.2.{point}", point, core)
    file = folder / f"linux-7.2.{point}.tar.xz"
    subprocess.run(["tar", "-cJf", file, "-C", folder, f"linux-7.2.{point}"], check=True)
    return str(file)


def test_one_commit_a_release_in_their_order(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    items = [tarball(tmp_path, point, f"int v{point};\n") for point in (11, 6, 9)]
    items.append(str(tree(tmp_path / "mine", 13, "int v13;\n")))
    into = tmp_path / "releases.git"
    made = gather(items, into, cache, progress)
    assert [version for version, _ in made] == ["7.2.6", "7.2.9", "7.2.11", "7.2.13"]
    assert git(into, "log", "--reverse", "--format=%s", "main").splitlines() == [
        f"Linux {version}" for version, _ in made
    ]
    assert git(into, "show", "v7.2.9:kernel/sched/core.c") == "int v9;"
    assert git(into, "show", "v7.2.9:.gitignore") == FILES[".gitignore"].strip(), "what git would ignore is there too"
    assert git(into, "diff", "--stat", "v7.2.9", "v7.2.11").count("|") == 2
    snapshot = local.snapshot(into, cache, progress, "v7.2.6")
    assert contents(snapshot.path) == contents(tmp_path / "linux-7.2.6")


def test_what_is_there_stays_and_newer_ones_are_added(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    items = [tarball(tmp_path, point, f"int v{point};\n") for point in (6, 9, 11)]
    into = tmp_path / "releases.git"
    first = gather(items[:1], into, cache, progress)
    both = gather([items[0], items[2]], into, cache, progress)
    assert both[0] == first[0] and len(both) == 2
    with pytest.raises(UsageError, match=r"releases.git has 7.2.11 already: 7.2.9 cannot come after it"):
        gather([items[1]], into, cache, progress)
    assert git(into, "rev-list", "--count", "main") == "2"


def test_the_same_import_gives_the_same_commits(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    items = [tarball(tmp_path, point, f"int v{point};\n") for point in (6, 9)]
    assert gather(items, tmp_path / "one.git", cache, progress) == gather(
        items[::-1], tmp_path / "two.git", cache, progress
    )


def test_dates_are_those_of_the_content(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    """Not of the snapshot in the cache: another cache, another day, a clone elsewhere give the same commits."""
    plain = tree(tmp_path / "plain", 6, "int v6;\n")
    os.utime(plain / "Makefile", (1_500_000_000, 1_500_000_000))
    mine = git_tree(tmp_path / "mine")  # 7.2.13
    (tmp_path / "elsewhere").mkdir()
    git(mine, "clone", "-q", str(mine), str(tmp_path / "elsewhere/mine"))
    os.utime(tmp_path / "elsewhere/mine/Makefile", (1_600_000_000, 1_600_000_000))
    shutil.copytree(plain, tmp_path / "elsewhere/plain")  # with its times
    one = gather([str(plain), str(mine)], tmp_path / "one.git", cache, progress)
    other = Cache(tmp_path / "other", 0)
    elsewhere = [str(tmp_path / "elsewhere" / name) for name in ("mine", "plain")]
    assert gather(elsewhere, tmp_path / "two.git", other, progress) == one
    dates = git(tmp_path / "one.git", "log", "--reverse", "--format=%ct %at", "main").splitlines()
    committed = git(mine, "log", "-1", "--format=%ct")
    assert dates == ["1500000000 1500000000", f"{committed} {committed}"]


def test_no_release_is_older_than_the_one_before_it(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    """As with 7.2.12 of a backport, whose package was made after that of 7.2.13: git walks histories by date."""
    folders = [tree(tmp_path / str(point), point, "") for point in (12, 13)]
    for folder, when in zip(folders, (1_600_000_000, 1_500_000_000), strict=True):
        os.utime(folder / "Makefile", (when, when))
    gather([str(folder) for folder in folders], tmp_path / "r.git", cache, progress)
    assert git(tmp_path / "r.git", "log", "--format=%ct", "main").splitlines() == ["1600000000"] * 2


def test_a_release_that_is_there_with_another_content(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    mine, into = tree(tmp_path / "mine", 6, "int v6;\n"), tmp_path / "r.git"
    first = gather([str(mine)], into, cache, progress)
    assert gather([str(mine)], into, cache, progress) == first
    (mine / "kernel/sched/core.c").write_text("int edited;\n")
    newer = tarball(tmp_path, 9, "int v9;\n")
    with pytest.raises(UsageError) as raised:
        gather([newer, str(mine)], into, cache, progress)
    assert raised.value.line() == (
        f"{into} has 7.2.6 already, with another content than mine: Imported from mine.; import it --into a new folder"
    )
    assert git(into, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/main", "refs/tags/v7.2.6"]


def test_a_repository_of_the_users_stays_as_it_is(
    tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before anything is fetched: a package is 165 MB."""
    monkeypatch.setattr(releases, "open_toolchain", lambda *args: pytest.fail("nothing is to be fetched"))
    mine = git_tree(tmp_path / "linux")
    git(mine, "clone", "-q", "--bare", str(mine), str(tmp_path / "linux.git"))
    for place in (tmp_path / "linux.git", mine / ".git"):
        before = fingerprint(place)
        with pytest.raises(UsageError, match=r"is a repository that 'source import' did not make; name a new"):
            try:
                gather(["7.2.13"], place, cache, progress)
            except UsageError as error:
                raise UsageError(error.line()) from error
        assert fingerprint(place) == before
    with pytest.raises(UsageError, match="linux is no bare repository"):
        gather(["7.2.13"], mine, cache, progress)


def test_an_empty_bare_repository_will_do(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    git(tmp_path, "init", "-q", "--bare", "r.git")
    made = gather([tarball(tmp_path, 6, "")], tmp_path / "r.git", cache, progress)
    assert git(tmp_path / "r.git", "rev-parse", "v7.2.6", "refs/heads/main").split() == [made[0][1]] * 2


KILLED = """
import os, signal, sys
from pathlib import Path
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source import releases

left = int(sys.argv[1])
real = releases.run

def run(argv, **more):
    global left
    git = argv[0] == "git"
    if git and left == 0:
        place = Path(sys.argv[3])
        for lock in ("kharness-index.lock", "refs/heads/main.lock", "refs/tags/v7.2.9.lock"):
            if (place / lock).parent.is_dir():
                (place / lock).touch()  # as the git that dies with us may leave them
        os.kill(os.getpid(), signal.SIGKILL)
    left -= git
    return real(argv, **more)

releases.run = run
cache = Cache(Path(sys.argv[2]), 0)
releases.gather(sys.argv[4:], Path(sys.argv[3]), cache, Progress(cache.folder("durations")))
"""


def test_an_import_that_was_killed_can_be_repeated(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    """Before each git process of it: the second one goes on, and makes the commits of one that went through."""
    items = [tarball(tmp_path, point, f"int v{point};\n") for point in (6, 9)]
    wanted = gather(items, tmp_path / "whole.git", cache, progress)
    for after in range(100):
        into = tmp_path / f"{after}.git"
        argv = [sys.executable, "-c", KILLED, str(after), str(tmp_path / "cache"), str(into), *items]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        assert gather(items, into, cache, progress) == wanted, f"killed before git process {after}"
        assert git(into, "rev-parse", "main") == wanted[-1][1]
        assert git(into, "rev-list", "--count", "--all") == "2"
        assert not list(tmp_path.glob(".*.new")) and not (into / "kharness-index").exists()
        if done.returncode == 0:
            break
    assert after > 10


def test_mistakes_leave_nothing_behind(tmp_path: Path, cache: Cache, progress: Progress) -> None:
    one, into = tarball(tmp_path, 6, ""), tmp_path / "r.git"
    (tmp_path / "no.tar.xz").write_text("text")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    for items, says in (
        ([one, "linux-9.tar.xz"], r"linux-9.tar.xz: no such file or folder, and no version"),
        ([one, one], r"two of these are 7.2.6"),
        ([str(tmp_path / "no.tar.xz")], r".*no.tar.xz is no tarball that tar can read"),
        ([str(tmp_path / "other")], r".*other is not a kernel tree"),
    ):
        with pytest.raises(UsageError, match=says):
            gather(items, into, cache, progress)
        assert not into.exists()
    with pytest.raises(UsageError, match="other is no bare repository"):
        gather([one], tmp_path / "other", cache, progress)


def test_versions_that_debian_has_no_more(
    tmp_path: Path, cache: Cache, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Archive:
        from_memory = False

        def __init__(self, *args: object) -> None: ...

        def cached(self) -> dict[Offer, str]:
            return {Offer("7.2", "7.2.13-1"): "key"}

        def offers(self, refresh: bool = False) -> tuple[list[Offer], None]:
            return [Offer("7.2", "7.2.14-1"), Offer("6.12", "6.12.107-1")], None

    monkeypatch.setattr(debian, "_Archive", Archive)
    monkeypatch.setattr(releases, "open_toolchain", lambda *args: None)
    with pytest.raises(UsageError) as raised:
        gather(["7.2.6", "7.2.9", "7.2.13", "7.2.14"], tmp_path / "r.git", cache, progress)
    assert raised.value.line() == (
        "Debian has no kernel source 7.2.6, 7.2.9 any more; "
        "there is: 7.2.14-1, 6.12.107-1, 7.2.13-1; for others give a tarball or a folder"
    )


def test_releases_in_order() -> None:
    versions = ["7.2.0-rc1", "7.2.0-rc10", "7.2.0", "7.2.9", "7.2.10", "7.3.0-rc1"]
    assert sorted(versions, key=order) == versions
