# SPDX-License-Identifier: GPL-2.0-only
"""Kernels broken by hand, each in one line: what the harness says of them. Builds of minutes, with ccache.

Those that boot are broken on each architecture of a default run.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.core.options import DEFAULT_ARCHES
from tests.e2e.command import Done, Kharness
from tests.e2e.trees import UserTree

each_architecture = pytest.mark.parametrize("arch", DEFAULT_ARCHES)


def findings(done: Done) -> list[dict[str, Any]]:
    """What speaks against the kernel, from every test."""
    found = [finding for test in done.results["tests"] for finding in test["findings"]]
    return [finding for finding in found if not finding["expected"] and not finding["allowed_by"]]


def broken(kharness: Kharness, user_tree: UserTree, arch: str) -> Done:
    """A run on the user's tree as it is now, which must end in the kernel's failure."""
    done = kharness("run", "--arch", arch, "--tree", str(user_tree.folder), "-k", "lifecycle").expect(1)
    assert {kernel["arch"] for kernel in done.results["kernels"]} == {arch}
    return done


def functions(finding: dict[str, Any]) -> list[str]:
    return [frame["function"] for frame in finding["frames"]]


def test_compile_error(kharness: Kharness, user_tree: UserTree) -> None:
    """A result, exit status 1: file and line on the screen and in results.json."""
    file = user_tree.scheduler
    with user_tree.edited(file, "free_dsq_rcufn", "\tkfree(dsq);", "\tkfree(dsk);") as line:
        done = kharness("run", "--tree", str(user_tree.folder)).expect(1)
    (row,) = done.results["tests"]
    assert (row["id"], row["outcome"]) == ("build", "fail")
    (finding,) = row["findings"]
    assert (finding["file"], finding["line"]) == (file, line)
    assert "dsk" in finding["title"]
    assert f"{file}:{line}" in done.stdout
    assert "dsk" in done.stdout
    assert any("error:" in text for text in finding["log"])
    assert done.verdict.startswith("verdict: FAIL")


@pytest.mark.full
@each_architecture
def test_exit_dsq_removed(kharness: Kharness, user_tree: UserTree, arch: str) -> None:
    """A percpu leak: the ledger counts it in each test, once, and its stack leads through init_dsq()."""
    file = user_tree.scheduler
    with user_tree.edited(file, "free_dsq_rcufn", "\texit_dsq(dsq);\n", ""):
        done = broken(kharness, user_tree, arch)
    leaks = [finding for finding in findings(done) if finding["oracle"] == "ledger"]
    assert leaks, f"no leak, but {[(f['oracle'], f['title']) for f in findings(done)]}"
    assert not [finding for finding in findings(done) if finding["oracle"] in ("kmemleak", "percpu")], "shown twice"
    assert all("percpu" in leak["kind"] + leak["title"] for leak in leaks)
    for leak in leaks:
        stack = functions(leak)
        assert any(name.endswith("init_dsq") for name in stack), stack
        assert leak["function"] in stack
        assert leak["file"] == file
        assert leak["line"]
    assert "percpu" in done.stdout
    assert "init_dsq" in done.stdout
    assert done.verdict.startswith("verdict: FAIL")


@pytest.mark.full
@each_architecture
def test_warn_added(kharness: Kharness, user_tree: UserTree, arch: str) -> None:
    """Function, file and line of the WARN."""
    file = user_tree.scheduler
    with user_tree.edited(file, "scx_bpf_create_dsq", "\ts32 ret;\n", "\ts32 ret;\n\n\tWARN_ON_ONCE(1);\n") as line:
        done = broken(kharness, user_tree, arch)
    found = findings(done)
    assert found
    for finding in found:
        assert (finding["oracle"], finding["kind"]) == ("dmesg", "warn")
        assert (finding["function"], finding["file"]) == ("scx_bpf_create_dsq", file)
        assert finding["line"] == line + 2
    assert f"{file}:{line + 2}" in done.stdout
    assert done.verdict.startswith("verdict: FAIL")


@pytest.mark.full
@each_architecture
def test_duplicate_accepted(kharness: Kharness, user_tree: UserTree, arch: str) -> None:
    """A create that answers 0 for an id that is taken, and frees what it made: only the model can know."""
    with user_tree.edited(
        user_tree.scheduler, "scx_bpf_create_dsq", "\n\treturn ret;", "\n\treturn ret == -EEXIST ? 0 : ret;"
    ):
        done = broken(kharness, user_tree, arch)
    row = done.test("test_duplicate_is_refused")
    assert row["outcome"] == "fail"
    assert [finding["oracle"] for finding in row["findings"]] == ["model"]
    assert "EEXIST" in row["model"]["first_disagreement"]
    assert "create" in row["model"]["first_disagreement"]
    assert {finding["oracle"] for finding in findings(done)} == {"model"}
    assert done.verdict.startswith("verdict: FAIL")


@pytest.mark.full
def test_leak_that_only_kmemleak_sees(kharness: Kharness, user_tree: UserTree) -> None:
    """Memory that came from vmalloc() because a page was refused is not given back.

    The tests pass, for the ledger leaves what vmalloc() makes to kmemleak. The batch finds it, and whose it is.
    """
    free = "\tkvfree(ei->dump);\n"
    with user_tree.edited(user_tree.scheduler, "free_exit_info", free, f"\tif (!is_vmalloc_addr(ei->dump))\n\t{free}"):
        select = "(test_faults and test_attach) or lifecycle"
        done = kharness("run", "--tree", str(user_tree.folder), "--machine", "default", "-k", select).expect(1)
    failed = [row for row in done.results["tests"] if row["outcome"] == "fail"]
    assert [row["id"].partition("::")[0] for row in failed] == ["batch"], [row["id"] for row in failed]
    (leak,) = [found for found in failed[0]["findings"] if not found["expected"]]
    assert (leak["oracle"], leak["kind"]) == ("kmemleak", "vmalloc leak")
    assert leak["function"] in ("alloc_exit_info", "scx_alloc_and_add_sched")
    assert "; test_attach: attach [scx_enable_helper], allocation " in leak["title"]
    assert leak["operation"] == "attach"
    assert "___kmalloc_large_node" in leak["site"]
    assert re.search(r"operation: attach\b.*nth: \d+", leak["fault"])
    assert any(line.endswith("test_faults.py::test_attach") for line in leak["log"])
    assert any(line.startswith("step 1, ") for line in leak["log"])
