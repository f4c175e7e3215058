# SPDX-License-Identifier: GPL-2.0-only
"""Owns what a kernel tree is: the snapshot type, the check that it is one, its version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host.process import run

MARKS = ("Kconfig", "Kbuild", "kernel/sched", "scripts")
"""What lies in every kernel tree besides the Makefile."""


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
    missing = [name for name in ("Makefile", *MARKS) if not (path / name).exists()]
    if missing:
        raise UsageError(f"{name} is not a kernel tree: it has no {', '.join(missing)}", step=step)
    try:
        text = (path / "Makefile").read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"{name}/Makefile cannot be read: {error.strerror}", step=step) from error
    found = dict.fromkeys(("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"), "")
    for match in re.finditer(r"^(\w+) *=[ \t]*(.*)$", text, re.MULTILINE):
        if found.get(match[1]) == "":
            found[match[1]] = match[2].strip()
    if not (found["VERSION"].isdigit() and found["PATCHLEVEL"].isdigit()):
        raise UsageError(
            f"{name} is not a kernel tree: its Makefile has no VERSION and PATCHLEVEL", step=step
        )
    return f"{found['VERSION']}.{found['PATCHLEVEL']}.{found['SUBLEVEL'] or 0}{found['EXTRAVERSION']}"


def linked(source: Path, target: Path) -> None:
    """The files of a snapshot once more in `target`, as hard links: snapshots are only read, and who changes one of its
    files makes a new one."""
    run(["cp", "-a", "--link", f"{source}/.", str(target)], what="copying a snapshot")
