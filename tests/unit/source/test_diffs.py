# SPDX-License-Identifier: GPL-2.0-only
"""Tests of diffs as texts: prefixes, line ends, the other way round, and what is wrong with a damaged one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.source.diffs import patch_of, quoted, unquoted

from .letters import CORE, NAME, diff

PLAIN = diff(2, "int second;")


def paths(text: str, strip: int | None = None) -> tuple[str, ...]:
    return patch_of("x", text.encode(), "x.diff", strip).paths


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"a/{NAME}", f"b/{NAME}"),
        (f"i/{NAME}", f"w/{NAME}"),
        (f"linux-7.2.orig/{NAME}", f"linux-7.2/{NAME}"),
        (f"linux/{NAME}", f"linux/{NAME}"),
        (f"first/{NAME}", f"second/{NAME}"),
        (NAME, NAME),
    ],
)
def test_names_have_a_prefix_or_none(old: str, new: str) -> None:
    hunk = PLAIN.partition("@@ ")
    assert paths(f"--- {old}\n+++ {new}\n@@ {hunk[2]}") == (NAME,)
    assert paths(f"diff --git {old} {new}\n--- {old}\n+++ {new}\n@@ {hunk[2]}") == (NAME,)


@pytest.mark.parametrize("gone", [True, False])
def test_files_that_come_and_go_without_a_prefix(gone: bool) -> None:
    names = ("kernel/new.c", "/dev/null") if gone else ("/dev/null", "kernel/new.c")
    sign, span = ("-", "-1 +0,0") if gone else ("+", "-0,0 +1")
    text = f"--- {names[0]}\n+++ {names[1]}\n@@ {span} @@\n{sign}int new;\n"
    assert paths(text) == ("kernel/new.c",)
    mode = "deleted file mode 100644" if gone else "new file mode 100644"
    assert paths(f"diff --git kernel/new.c kernel/new.c\n{mode}\n{text}") == ("kernel/new.c",)


def test_a_number_of_folders_is_taken_off() -> None:
    deep = PLAIN.replace("a/kernel", "x/y/kernel").replace("b/kernel", "x/y/kernel")
    assert paths(deep, 2) == (NAME,)
    assert paths(PLAIN.replace("a/kernel", "kernel").replace("b/kernel", "kernel"), 0) == (NAME,)


def test_dos_lines_are_lines() -> None:
    assert patch_of("x", PLAIN.replace("\n", "\r\n").encode(), "x").data == PLAIN.encode()
    # A file that has CRs of its own: git writes none into headers.
    own = PLAIN.replace(";\n", ";\r\n")
    assert patch_of("x", own.encode(), "x").data == own.encode()


MOVED = (
    "diff --git a/kernel/one.c b/kernel/two.c\nold mode 100644\nnew mode 100755\nsimilarity index 90%\n"
    "rename from kernel/one.c\nrename to kernel/two.c\nindex 1111111..2222222\n"
    "--- a/kernel/one.c\n+++ b/kernel/two.c\n@@ -1 +1,2 @@\n-int a;\n+int b;\n+int c;\n\\ No newline at end of file\n"
)


@pytest.mark.parametrize("text", [PLAIN, MOVED, "--- /dev/null\n+++ b/kernel/new.c\n@@ -0,0 +1 @@\n+int new;\n"])
def test_what_is_turned_is_what_git_takes_out(tmp_path: Path, text: str) -> None:
    """A diff and its reverse leave a tree as it was."""
    (tmp_path / "kernel/sched").mkdir(parents=True)
    (tmp_path / NAME).write_text(CORE)
    (tmp_path / "kernel/one.c").write_text("int a;\n")

    def seen() -> dict[str, tuple[bytes, int]]:
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mode & 0o111) for path in files}

    before = seen()
    for data in (text.encode(), patch_of("x", text.encode(), "x", reverse=True).data):
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=data, check=True, env={"PATH": "/usr/bin:/bin"})
    assert seen() == before


@pytest.mark.parametrize("part", ["copy from kernel/a.c\ncopy to kernel/b.c", "GIT binary patch"])
def test_what_cannot_be_turned_is_refused(part: str) -> None:
    with pytest.raises(UsageError, match=r"x cannot be taken out \(-R\)"):
        patch_of("x", f"diff --git a/kernel/a.c b/kernel/b.c\n{part}\n".encode(), "x", reverse=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PLAIN[: PLAIN.index(" int line_3")], r"x.diff is damaged: line \d+: the diff ends within the hunk of line 5"),
        (PLAIN.replace(" int line_3", "int line_3"), r"line 9: 'int line_3;' does not begin with a blank, \+ or -"),
        ("diff --cc kernel/a.c\n@@@ -1,3 -1,3 +1,3 @@@\n  a\n", "combined diff of a merge, which cannot be applied"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        patch_of("x", text.encode(), "x.diff")


def test_odd_names_are_quoted_as_git_does() -> None:
    for name in ("a b", 'a"b', "a\nb", "a\\b", "plain"):
        assert unquoted(quoted(name)) == name
