# SPDX-License-Identifier: GPL-2.0-only
"""What differs between two snapshots: files, and lines in the newer one."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import HarnessError
from harness.host.process import run
from harness.source.repository import environment

_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


def changed(older: Path, newer: Path) -> dict[str, tuple[int, ...]]:
    """Each file that differs, relative to the trees, with the lines of `newer` (from 1) that are new or follow a
    removal; a file that is gone has none.

    Seconds for two trees that share nothing, far less for hard-linked ones.
    """
    names = sorted({*_files(older), *_files(newer)})
    return {name: _lines(older / name, newer / name) for name in names if not _same(older / name, newer / name)}


def added(older: Path, newer: Path) -> dict[str, tuple[int, ...]]:
    """Each file that has lines which `older` has not, with these lines."""
    names = [name for name in changed(older, newer) if (newer / name).is_file()]
    lines = {name: _lines(older / name, newer / name, removals=False) for name in names}
    return {name: mine for name, mine in lines.items() if mine}


def _files(tree: Path) -> Iterator[str]:
    for folder, _, files in os.walk(tree):
        for name in files:
            yield os.path.relpath(os.path.join(folder, name), tree)


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and os.readlink(one) == os.readlink(other)
    if not (one.is_file() and other.is_file()):
        return False
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _lines(one: Path, other: Path, *, removals: bool = True) -> tuple[int, ...]:
    if not other.is_file() or other.is_symlink():
        return ()
    was = str(one) if one.is_file() else os.devnull
    # As text, whatever attributes the tree gives the file.
    options = ["--no-index", "--no-color", "--no-ext-diff", "--no-textconv", "--text", "-U0"]
    argv = ["git", "diff", *options, "--", was, str(other)]
    done = run(argv, what=f"comparing {other.name}", env=environment(), check=False)
    if done.status not in (0, 1):  # 1: they differ
        raise HarnessError(f"git diff failed with status {done.status}", step="see below", detail=done.stderr[-2000:])
    lines: list[int] = []
    for first, count in _HUNK.findall(done.stdout):
        start, number = int(first), int(count or 1)
        lines += range(start, start + number) if number else (start + 1,) if removals else ()
    return tuple(lines)
