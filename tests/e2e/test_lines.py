# SPDX-License-Identifier: GPL-2.0-only
"""Which lines of a patch ran, and which broken versions of it are caught. Two kernels that count, and builds on one."""

from __future__ import annotations

import json

import pytest

from tests.e2e.command import Kharness
from tests.e2e.conftest import QUICK
from tests.e2e.test_patch import patch
from tests.e2e.trees import UserTree

OLD = "\tif (unlikely(dsq_id & SCX_DSQ_FLAG_BUILTIN))\n"
NEW = f"\tif (dsq_id == 0x7ead000000000001LLU)\n\t\treturn -EPERM;\n{OLD}"


@pytest.mark.full
def test_a_line_that_no_test_runs_is_on_the_last_line(kharness: Kharness, user_tree: UserTree) -> None:
    given = patch(user_tree, kharness.cwd / "odd.patch", user_tree.scheduler, "scx_bpf_create_dsq", OLD, NEW)
    arguments = ("--tree", str(user_tree.folder), "--patch", given, "--machine", "default", "-k", QUICK)
    done = kharness("run", "--coverage", *arguments, "--arch", "x86_64").expect(0)
    assert "but 1 of 2 changed lines never ran" in done.verdict
    (found,) = [one for one in done.results["coverage"] if one["patch"]]
    rows = {row["text"].strip(): row for row in found["patch"]}
    tested, left = rows["if (dsq_id == 0x7ead000000000001LLU)"], rows["return -EPERM;"]
    assert tested["state"] == "ran" and tested["tests"] == 1 and tested["named"][0].endswith(QUICK)
    assert left["state"] == "never" and "never held" in left["why"]
    (text,) = (kharness.cwd / "out/latest/coverage").glob("patched-*/patch.txt")
    assert "     never" in text.read_text()


@pytest.mark.full
def test_mutants_are_tried_and_the_same_command_goes_on(kharness: Kharness, user_tree: UserTree) -> None:
    # An error that every caller sees: which id is a built-in one.
    new = OLD.replace("SCX_DSQ_FLAG_BUILTIN", "(u64)SCX_DSQ_FLAG_BUILTIN")
    given = patch(user_tree, kharness.cwd / "cast.patch", user_tree.scheduler, "scx_bpf_create_dsq", OLD, new)
    arguments = [
        "mutants",
        "--tree",
        str(user_tree.folder),
        "--patch",
        given,
        "--machine",
        "default",
        "-k",
        "lifecycle",
    ]
    first = kharness(*arguments, "--budget", "1s").expect(0)
    table = json.loads((kharness.cwd / "out/mutants/mutants.json").read_text())
    assert 0 < len(table["rows"]) < table["wanted"]
    assert "the same command goes on" in first.stdout
    kharness(*arguments).expect(0)
    table = json.loads((kharness.cwd / "out/mutants/mutants.json").read_text())
    fates = {row["mutant"]["operator"]: row["seen"]["fate"] for row in table["rows"]}
    assert fates == {"negate-check": "caught", "drop-check": "caught"}
    assert all(row["seen"]["right"] for row in table["rows"])
