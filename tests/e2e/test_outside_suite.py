# SPDX-License-Identifier: GPL-2.0-only
"""A suite from a folder anywhere: its BPF program, log rule, oracle and defect, on a clean and on a broken kernel."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.command import CHECKOUT, Done, Kharness
from tests.e2e.trees import UserTree

SUITE = CHECKOUT / "tests/outside/hostname"
SOURCE = "kernel/utsname_sysctl.c"


@pytest.fixture
def mine(kharness: Kharness) -> Path:
    """The suite in a folder of the user's; its kernel is the one that is there already."""
    folder = kharness.cwd / "elsewhere" / SUITE.name
    shutil.copytree(SUITE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "kconfigs/suites/sched_ext.config", folder / "kernel.config")
    return folder


def test_on_a_clean_kernel(kharness: Kharness, passed: Done, mine: Path) -> None:
    done = kharness.run("--suite", str(mine)).expect(0)
    assert "build of x86_64" not in done.stderr, "the kernel was there"
    assert [row["id"].rpartition("::")[2] for row in done.results["tests"] if "hostname" in row["id"]] == [
        "test_hostname_is_what_was_written"
    ]
    canaries = {row["oracle"]: row["caught"] for row in done.results["canaries"]}
    assert canaries["host name"] and all(canaries.values())
    assert "local dsq" not in canaries, "nothing of another suite's"
    row = done.test("test_hostname_is_what_was_written")
    assert {"oracle": "host name", "watched": True}.items() <= {
        key: value for one in row["evidence"] if one["oracle"] == "host name" for key, value in one.items()
    }.items()


def test_on_a_kernel_that_says_so(kharness: Kharness, passed: Done, mine: Path, user_tree: UserTree) -> None:
    old = "\t\tadd_device_randomness(tmp_data, sizeof(tmp_data));\n"
    new = old + "\t\tif (tmp_data[0] == 'a')\n\t\t\tpr_err(\"utsname: %s is lost\\n\", tmp_data);\n"
    with user_tree.edited(SOURCE, "proc_do_uts_string", old, new):
        done = kharness.run("--suite", str(mine), "--tree", str(user_tree.folder)).expect(1)
    row = done.test("test_hostname_is_what_was_written")
    assert [(found["kind"], found["title"]) for found in row["findings"]] == [("host name", "utsname: another is lost")]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text.replace("SUITE = Suite(", "SUIT = Suite("), "suite.py: holds no SUITE = Suite(...)"),
        (lambda text: text + "\nnone\n", "NameError: name 'none' is not defined"),
        (lambda text: text.replace('bpf="bpf"', 'bpf="bfp"'), "bpf: "),
        (
            lambda text: text.replace("defects=(Defect", "defects=() and (Defect"),
            "no defect proves the oracle 'host name'",
        ),
        (lambda text: text.replace("(RULE,)", "(KNOB,)"), "rules: '/proc/sys/kernel/hostname' is no Rule"),
    ],
    ids=["no-value", "raises", "no-folder", "unproved", "no-rule"],
)
def test_what_is_wrong_with_it_is_one_line_before_anything_is_built(
    kharness: Kharness, mine: Path, spoil: Callable[[str], str], says: str
) -> None:
    file = mine / "suite.py"
    file.write_text(spoil(file.read_text()))
    done = kharness.run("--suite", str(mine), timeout=60).expect(2)
    assert says in done.error and str(file) in done.error
    assert "build of" not in done.stderr and not (kharness.cwd / "out").exists()
