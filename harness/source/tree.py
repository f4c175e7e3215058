# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel tree is: the snapshot type, the check that it is one, its version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError
from harness.host import below
from harness.host.process import run

MARKS = ("Kconfig", "Kbuild", "kernel/sched", "scripts")
"""What every kernel tree has besides the Makefile."""


PATH_MOST = 1024
"""Bytes of a path in the tree; the longest of Linux has some 100. Other tools have folders before it to add."""


@dataclass(frozen=True)
class Tree:
    """A private snapshot of a kernel tree, to be read only.

    `tree` is the content hash (git tree, or SHA-256 of the source tarball), `commit` the commit it is
    based on (empty without git), `dirty` whether the content differs from that commit, `origin` where
    it came from, `version` the Makefile's, `patches` the names of what was applied to it.
    """

    path: Path
    tree: str
    commit: str
    dirty: bool
    origin: str
    version: str
    patches: tuple[str, ...] = ()


def kernel_version(path: Path, shown: Path | None = None) -> str:
    """The version as the top Makefile has it: ``7.2.13``, ``7.3.0-rc2``.

    Raises UsageError naming what is missing when `path` (for the user: `shown`) is no kernel tree.
    """
    name = shown or path
    step = "point --tree at the top folder of a Linux source tree"
    if not path.is_dir():
        raise UsageError(f"{name}: no such folder", step=step)
    missing = [mark for mark in ("Makefile", *MARKS) if not _there(path, mark)]
    if missing:
        raise UsageError(f"{name} is not a kernel tree: it has no {', '.join(missing)}", step=step)
    try:
        text = below.read_text(path, "Makefile", links=True)
    except below.Unsafe as error:
        raise UsageError(f"{name} is not a kernel tree: its Makefile {error.why}", step=step) from error
    except OSError as error:
        raise UsageError(f"{name}/Makefile cannot be read: {error.strerror}", step=step) from error
    found = dict.fromkeys(("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"), "")
    for match in re.finditer(r"^(\w+) *=[ \t]*(.*)$", text, re.MULTILINE):
        if found.get(match[1]) == "":
            found[match[1]] = match[2].strip()
    if not (found["VERSION"].isdigit() and found["PATCHLEVEL"].isdigit()):
        raise UsageError(f"{name} is not a kernel tree: its Makefile has no VERSION and PATCHLEVEL", step=step)
    return f"{found['VERSION']}.{found['PATCHLEVEL']}.{found['SUBLEVEL'] or 0}{found['EXTRAVERSION']}"


def _there(tree: Path, mark: str) -> bool:
    """Whether a tree has this file or folder, of its own or by a link within the tree."""
    try:
        return below.inspect(tree, mark, links=True) is not None
    except below.Unsafe:
        # The Makefile is read next, which says what is wrong with it.
        return mark == "Makefile"


def unfit(path: str) -> str:
    """Why a file of this name, relative to a tree, can be in no snapshot; empty where it can."""
    name = path.encode("utf-8", "surrogateescape")
    parts = name.split(b"/")
    if len(parts) > below.DEEPEST or len(name) > PATH_MOST or max(map(len, parts)) > 255:
        return "is a path that is too long or too deep"
    return ""


def linked(source: Path, target: Path) -> None:
    """Hard-link the files of a snapshot into `target`: snapshots are only read, and a changed file is a new one."""
    run(["cp", "-a", "--link", f"{source}/.", str(target)], what="copying a snapshot")
