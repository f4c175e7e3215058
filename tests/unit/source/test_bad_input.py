# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what is no patch for this tree: one clear line each, and nothing is written into the user's tree."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.local import snapshot
from harness.source.series import gather
from harness.source.settle import Settled, settle

from . import kernel_trees as trees
from .letters import CORE, NAME, Letter, box, diff, patch, reply

ONE = diff(2, "int second;")
NEW = "diff --git {0} {1}\nnew file mode 100644\n--- /dev/null\n+++ {1}\n@@ -0,0 +1 @@\n+int x;\n"
PAGE = "<!DOCTYPE html>\n<html><body><pre>From: A\n\nNo diff here</pre></body></html>\n"
BINARY = "diff --git a/x.bin b/x.bin\nindex 1111111..2222222 100644\nBinary files a/x.bin and b/x.bin differ\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = trees.git_tree(tmp_path / "linux")
    (folder / NAME).write_text(CORE)
    return folder


def tried(tree: Path, given: bytes, cache: Cache, progress: Progress) -> Settled:
    file = tree.parent / "given"
    file.write_bytes(given)
    return settle(snapshot(tree, cache, progress), gather([str(file)]).patches, cache, progress)


def many() -> bytes:
    """2,000 mails of 500 series, as an archive of a list has them."""
    mails: list[Letter] = []
    for number in range(500):
        first = patch(f"{number}a", f"[PATCH 1/2] s{number}: one", ONE, day=number)
        mails += [first, patch(f"{number}b", f"[PATCH 2/2] s{number}: two", ONE, f"{number}a", day=number)]
        mails += [reply(f"{number}{of}", first.subject, "Fine.\n", f"{number}a", day=number) for of in "cd"]
    return box(mails)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"Dear all,\n\nthis is no patch.\n", "no diff in it"),
        (b"", "no diff in it"),
        (b"\0\1\2" * 1000, "no diff in it"),
        (
            ONE.replace(NAME, "src/main.go").encode(),
            "has none of its files, as src/main.go; it seems to be for another",
        ),
        (b"diff --cc kernel/a.c\n@@@ -1,3 -1,3 +1,3 @@@\n  a\n", "is the combined diff of a merge"),
        (BINARY.encode(), "changes a binary file without its content"),
        (NEW.format("a/../../x.c", "b/../../x.c").encode(), "does not apply .*invalid path"),
        (NEW.format("a/.git/config", "b/.git/config").encode(), "does not apply .*invalid path"),
        (PAGE.encode(), "holds no diff of a file"),
        (many(), r"holds several series: '\[PATCH 1/2\] s0: one', .* and 497 more; save the thread of one of them"),
    ],
    ids=["text", "empty", "bytes", "project", "merge", "binary", "outside", "git", "html", "archive"],
)
def test_each_is_refused_in_one_line(tree: Path, cache: Cache, progress: Progress, given: bytes, told: str) -> None:
    before = trees.fingerprint(tree)
    with pytest.raises(UsageError, match=".") as caught:
        tried(tree, given, cache, progress)
    line = caught.value.line()
    assert "\n" not in line and re.search(told, line), line
    assert trees.fingerprint(tree) == before


@pytest.mark.parametrize("name", ["kernel/a b.c", "kernel/a\nb.c", 'kernel/"a".c'])
def test_odd_names_are_names(tree: Path, cache: Cache, progress: Progress, name: str) -> None:
    quoted = [f'"{side}/{name}"'.replace("\n", "\\n") if "\n" in name else f"{side}/{name}" for side in "ab"]
    if '"' in name:
        quoted = [f'"{side}/kernel/\\"a\\".c"' for side in "ab"]
    done = tried(tree, NEW.format(*quoted).encode(), cache, progress)
    assert (done.patched.path / name).read_text() == "int x;\n" and not (tree / name).exists()


def test_what_touches_no_c_is_said(tree: Path, cache: Cache, progress: Progress, said: io.StringIO) -> None:
    text = "--- a/scripts/tool.sh\n+++ b/scripts/tool.sh\n@@ -1 +1,2 @@\n #!/bin/sh\n+true\n"
    assert tried(tree, text.encode(), cache, progress).patches
    assert "touches no C: scripts/tool.sh" in said.getvalue()


def test_a_patch_the_wrong_way_round_is_said(tree: Path, cache: Cache, progress: Progress, said: io.StringIO) -> None:
    tried(tree, diff(2, "int line_2;", "int second_of_all;").encode(), cache, progress)
    assert "is in the tree already (or it is the wrong way round)" in said.getvalue()


def test_a_deep_thread_of_many_mails_is_read(tree: Path, cache: Cache, progress: Progress) -> None:
    mails = [patch("0", "[PATCH] core: one", ONE)]
    mails += [reply(str(number), "[PATCH] core: one", "Hm.\n" * 9, str(number - 1)) for number in range(1, 2000)]
    start = time.monotonic()
    assert len(tried(tree, box(mails), cache, progress).patches) == 1
    assert time.monotonic() - start < 60
