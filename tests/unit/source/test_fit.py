# SPDX-License-Identifier: GPL-2.0-only
"""Tests of where hunks belong in a tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.records import HunkState
from harness.source.fit import fits, in_tree
from harness.source.hunks import read

WORDS = ("oak", "lime", "birch", "rowan", "cedar", "maple")
"""Numbers alone would make all lines alike."""

TEXT = "".join(f"int {WORDS[number % 6]}_{WORDS[(number // 6) % 6]}_{number}(void);\n" for number in range(1, 31))
OLD = "int rowan_lime_9(void);\n-int cedar_lime_10(void);\n+int walnut_ten(void);\nint maple_lime_11(void);\n"


def states(tree: Path, text: str, body: str = OLD) -> list[tuple[str, int]]:
    (tree / "kernel").mkdir(exist_ok=True)
    (tree / "kernel/a.c").write_text(text)
    found = fits(read(f"--- a/kernel/a.c\n+++ b/kernel/a.c\n@@ -9,3 +9,3 @@\n{body}"), tree)
    return [(fit.told.state.value, fit.told.line) for fit in found]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TEXT, ("missing", 9)),
        ("int before;\n" * 5 + TEXT, ("missing", 14)),
        (TEXT.replace("cedar_lime_10(", "walnut_ten("), ("contained", 9)),
        # The context may have changed since; what is added must be telling enough then.
        (TEXT.replace("cedar_lime_10(", "walnut_ten(").replace("rowan_lime_9(", "nine("), ("contained", 9)),
        (TEXT.replace("cedar_lime_10(", "my_walnut_ten(").replace("rowan_lime_9(", "nine("), ("differs", 11)),
        (TEXT.replace("cedar_lime_10(", "other("), ("nowhere", 9)),
        (TEXT * 2, ("missing", 9)),
        ("int x;\n" + TEXT * 2, ("nowhere", 10)),
        ("", ("nowhere", 9)),
    ],
)
def test_what_of_a_hunk_a_file_has(tmp_path: Path, text: str, told: tuple[str, int]) -> None:
    assert states(tmp_path, text) == [told]


def test_a_hunk_that_only_removes_is_not_there_before_it_is_gone(tmp_path: Path) -> None:
    body = "int rowan_lime_9(void);\n-int cedar_lime_10(void);\nint maple_lime_11(void);\n"
    assert states(tmp_path, TEXT, body.replace("11(void);\n", "11(void);\n")) != [("contained", 9)]


def test_most_hunks_make_a_patch_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/a.c").write_text(TEXT.replace("cedar_lime_10(", "walnut_ten("))
    hunk = f"@@ -9,3 +9,3 @@\n{OLD}"
    lost = hunk.replace("int ", "long nowhere_")
    for text, there in ((hunk, True), (hunk + lost, False), (hunk * 2 + lost, True), (lost, False)):
        assert in_tree(fits(read(f"--- a/kernel/a.c\n+++ b/kernel/a.c\n{text}"), tmp_path)) is there


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "secret").write_text(TEXT)
    (tmp_path / "kernel/a.c").symlink_to(tmp_path / "secret")
    (fit,) = fits(read(f"--- a/kernel/a.c\n+++ b/kernel/a.c\n@@ -9,3 +9,3 @@\n{OLD}"), tmp_path)
    assert fit.told.state is HunkState.NOWHERE and fit.told.ours == ""
