# SPDX-License-Identifier: GPL-2.0-only
"""Tests of `kharness source import`: a history of releases from what lies at hand, and what cannot be had."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.records import UsageError
from harness.source import debian, local, releases
from harness.source.debian import Offer
from harness.source.releases import gather, order
from tests.unit.source.kernel_trees import FILES, MAKEFILE, contents, git, write_tree


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
    assert git(into, "log", "--reverse", "--format=%s", "main").splitlines() == [f"Linux {version}" for version, _ in made]
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
    assert gather(items, tmp_path / "one.git", cache, progress) == gather(items[::-1], tmp_path / "two.git", cache, progress)


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
        told_from_memory = False

        def __init__(self, *args: object) -> None: ...

        def held(self) -> dict[Offer, str]:
            return {Offer("7.2", "7.2.13-1"): "key"}

        def offers(self, anew: bool = False) -> tuple[list[Offer], None]:
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
