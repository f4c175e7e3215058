# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what builds have of ccache: nobody leaves anything there for a tree that is trusted otherwise."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.host.cache import Cache
from harness.host.sandbox import Bind
from harness.host.toolchain import HostToolchain, RootToolchain, Toolchain
from harness.kbuild import ccache
from harness.kbuild.make import environment
from harness.source.tree import Tree

CLEAN = Tree(Path("/t"), "a" * 64, "", False, "linux-source-7.2 7.2.13-1", "7.2.13")
MINE = Tree(Path("/t"), "b" * 40, "", True, "/home/me/linux", "7.2.13")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache", 0)
    held = cache.folder("debian") / "held"
    held.mkdir()
    (held / f"{CLEAN.tree}.json").write_text("{}")
    return cache


def test_each_tree_writes_where_none_that_is_trusted_more_reads(cache: Cache) -> None:
    patched = replace(CLEAN, tree="c" * 40, patches=("one",))
    other = replace(CLEAN, tree="d" * 40, patches=("one",))
    of = {
        name: ccache.domains(tree, cache)
        for name, tree in {
            "clean": CLEAN,
            "mine": MINE,
            "patched": patched,
            "other": other,
            "on mine": replace(MINE, tree="e" * 40, patches=("one",)),
        }.items()
    }
    assert len({own for own, _ in of.values()}) == len(of)
    assert of["clean"] == (ccache.DEBIAN, ())
    assert of["mine"][1] == (ccache.DEBIAN,)
    assert of["on mine"][1] == (of["mine"][0], ccache.DEBIAN)
    assert ccache.DEBIAN in of["patched"][1]
    for name, (own, _) in of.items():
        readers = {reader for reader, (_, below) in of.items() if own in below}
        assert readers <= {"clean": {"mine", "patched", "other", "on mine"}, "mine": {"on mine"}}.get(name, set())


def test_what_calls_itself_debians_is_not(cache: Cache) -> None:
    assert ccache.domains(replace(CLEAN, tree="f" * 64), cache)[0] != ccache.DEBIAN
    assert ccache.domains(replace(CLEAN, patches=("one",)), cache)[0] != ccache.DEBIAN


def test_edits_of_one_tree_share_a_domain(cache: Cache) -> None:
    assert ccache.domains(MINE, cache) == ccache.domains(replace(MINE, tree="9" * 40), cache)


def test_no_folder_of_the_path_can_be_written_and_no_domain_but_the_own(cache: Cache, toolchain: HostToolchain) -> None:
    of = ccache.of(MINE, ("gcc", "aarch64-linux-gnu-gcc"), cache)
    script = """
old=$IFS; IFS=:
for folder in $PATH; do [ -d "$folder" ] && touch "$folder/ld" 2>/dev/null && echo "written $folder"; done
IFS=$old
for folder in /ccache/*; do touch "$folder/x" 2>/dev/null && echo "$folder"; done
ls /compilers; mv /compilers /c 2>/dev/null || rm -r /compilers 2>/dev/null; ln -s /usr/bin /compilers 2>/dev/null; ls /compilers
"""
    env = environment(toolchain) | of.settings
    done = toolchain.run(["sh", "-c", script], what="x", binds=of.binds, env=env, check=False)
    assert done.stdout.split() == ["/ccache/own", *["aarch64-linux-gnu-gcc", "gcc"] * 2]
    assert env["PATH"].split(":")[0] == ccache.COMPILERS
    settings = [value for name, value in env.items() if name.startswith("CCACHE") and "/ccache/" in value]
    assert settings == ["file:/ccache/own file:/ccache/0|read-only"]


@pytest.fixture
def tools(cache: Cache, toolchain: HostToolchain) -> Toolchain:
    """With ccache: a toolchain root that a run left in the cache, else the host's tools."""
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kharness"
    roots = [path.parents[4] for path in place.glob("toolchain/*/root/usr/lib/ccache/gcc")]
    if roots:
        return RootToolchain(roots[0], cache)
    if not Path("/usr/lib/ccache/gcc").exists():
        pytest.skip("neither a toolchain root nor ccache on the host: run 'make toolchain'")
    return toolchain


def test_a_patched_tree_takes_what_its_base_left_and_leaves_nothing_to_others(
    cache: Cache, tools: Toolchain, tmp_path: Path
) -> None:
    def compiled(tree: Tree, text: str) -> str:
        of = ccache.of(tree, ("gcc",), cache)
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source/a.c").write_text(text)
        script = "cd /tmp; gcc -Wp,-MMD,.a.d -c -o a.o /src/a.c && ccache --print-stats"
        done = tools.run(
            ["sh", "-c", script],
            what="x",
            binds=[*of.binds, Bind(tmp_path / "source", "/src")],
            env=environment(tools) | of.settings,
        )
        counts = dict(line.split("\t") for line in done.stdout.splitlines())
        assert int(counts["cache_miss"]) + int(counts["direct_cache_hit"]) == 1
        return "hit" if counts["direct_cache_hit"] == "1" else "miss"

    patched, other = (replace(CLEAN, tree=name * 40, patches=("one",)) for name in "cd")
    assert compiled(CLEAN, "int a;\n") == "miss"
    assert [compiled(tree, "int a;\n") for tree in (CLEAN, patched, MINE)] == ["hit", "hit", "hit"]
    assert [compiled(patched, "int b;\n") for _ in range(2)] == ["miss", "hit"]
    assert [compiled(tree, "int b;\n") for tree in (MINE, other, CLEAN)] == ["miss", "miss", "miss"]


def test_what_was_not_used_for_longest_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    top, outside = tmp_path / "ccache", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(bytes(1 << 20))
    for number in range(4):
        folder = top / f"domain-{number % 2}" / f"{number:02x}"
        folder.mkdir(parents=True)
        (folder / "object").write_bytes(bytes(1 << 20))
        os.utime(folder / "object", (1000 + number, 1000 + number))
    (top / "domain-0/link").symlink_to(outside)
    (top / "domain-0/file").symlink_to(outside / "file")
    os.utime(outside / "file", (1, 1))
    ccache.trim(top, 5 << 19)
    assert sorted(path.parent.name for path in top.rglob("object")) == ["02", "03"]
    assert (outside / "file").exists()
    ccache.trim(top, 5 << 19)
    assert len(list(top.rglob("object"))) == 2


def test_what_ccache_left_before_there_were_domains_goes_first(cache: Cache) -> None:
    old = cache.folder("ccache") / "0/1"
    old.mkdir(parents=True)
    (old / "object").write_bytes(bytes(1 << 20))
    ccache.trim(cache.folder("ccache"), 1 << 10)
    assert not (old / "object").exists()
    shutil.rmtree(cache.folder("ccache"))
