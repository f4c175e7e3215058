# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext selftests of the tree: their results are what their runner prints, and what is not there is said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selftests.build import FOLDER
from selftests.results import Word, parse

from tests.e2e.command import Done, Kharness
from tests.e2e.trees import UserTree

pytestmark = pytest.mark.full
OUTCOMES = {"pass": Word.OK, "fail": Word.NOT_OK, "skip": Word.SKIP}


@pytest.mark.parametrize("version", ["7.2", "7.3"])
@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_results_agree_with_what_the_runner_prints(kharness: Kharness, version: str, arch: str) -> None:
    """All of them on a kernel that nobody broke: none fails."""
    done = kharness("run", "--kernel", version, "--arch", arch, "--suite", "selftests", timeout=3600).expect(0)
    rows = {
        row["id"].removeprefix("selftests::"): row
        for row in done.results["tests"]
        if row["id"].startswith("selftests::")
    }
    kept = list((done.cwd / "out/latest/selftests").iterdir())
    assert len(rows) == len(kept) > 25
    for path in kept:
        (said,) = parse(path.read_text()).tests
        row = rows[said.name]
        assert OUTCOMES[row["outcome"]] is said.word, said.name
        assert row["outcome"] != "skip" or row["why"] == (said.reason or "its runner gives no reason")
    build = done.test("selftests-build")
    assert build["outcome"] == "pass"


def test_one_is_run_alone_though_others_have_its_name(kharness: Kharness) -> None:
    """The runner's -t alone would run dequeue_iter and dequeue_remote as well."""
    done = kharness(
        "run", "--kernel", "7.3", "--suite", "selftests", "-k", "dequeue and not iter and not remote"
    ).expect(0)
    (text,) = (path.read_text() for path in (done.cwd / "out/latest/selftests").iterdir())
    assert [said.name for said in parse(text).tests] == ["dequeue"]


def test_a_tree_without_them_is_inconclusive_in_one_line(kharness: Kharness, user_tree: UserTree) -> None:
    done = kharness("run", "--tree", str(user_tree.folder), "--suite", "selftests").expect(3)
    why = f"{user_tree.folder} ({done.results['kernels'][0]['release']}) has no {FOLDER}"
    assert done.test("selftests-build")["why"] == why
    assert len(done.results["why"]) == 1
    assert not done.results["machines"], "nothing was booted for it"


@pytest.fixture
def with_selftests(user_tree: UserTree, cache: Path, passed: Done) -> Iterator[UserTree]:
    """The user's tree with what its selftests are made of, which it is usually spared."""
    source = cache / "source" / passed.results["kernels"][0]["tree"] / "tools/testing/selftests"
    folder = user_tree.folder / "tools/testing/selftests"
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            os.link(path, folder / path.name)
    shutil.copytree(source / "sched_ext", folder / "sched_ext")
    yield user_tree
    shutil.rmtree(user_tree.folder / "tools/testing")


def test_what_does_not_compile_fails_with_its_place(kharness: Kharness, with_selftests: UserTree) -> None:
    file = with_selftests.folder / FOLDER / "exit.bpf.c"
    text = file.read_text()
    file.write_text(f"{text}\nint broken = nothing;\n")
    line = text.count("\n") + 2
    before = with_selftests.state()
    done = kharness("run", "--tree", str(with_selftests.folder), "--suite", "selftests").expect(1)
    assert with_selftests.state() == before
    row = done.test("selftests-build")
    assert row["outcome"] == "fail"
    (finding,) = row["findings"]
    assert (finding["file"], finding["line"]) == (f"{FOLDER}/exit.bpf.c", line)
    assert "nothing" in finding["title"]
    assert {row["id"] for row in done.results["tests"]} == {"build", "selftests-build"}
