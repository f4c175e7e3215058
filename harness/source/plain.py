# SPDX-License-Identifier: GPL-2.0-only
"""Owns which files of a plain folder belong to the kernel tree: all that its .gitignore files let through.

So the objects of an in-tree build stay out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from harness.errors import UsageError

Git = Callable[..., str]
"""Runs git in the folder and returns its output; ``index`` names another index file."""


PRODUCTS = (
    "*.o", "*.ko", "*.a", "*.cmd", "*.mod", "*.mod.c", "*.order", "*.symvers", ".config*", ".tmp_*", ".vmlinux*",
    "/vmlinux", "/vmlinux.*", "/System.map", "/include/config/", "/include/generated/", "/arch/*/include/generated/",
)  # fmt: skip
"""What a build in the tree makes, for a folder that lost its .gitignore."""


def products(tree: Path) -> list[Path]:
    """What in a tree makes kbuild refuse to build elsewhere from it (its Makefile: "The source tree is not clean").

    It may have been committed, or let through by a .gitignore that was edited.
    """
    names = (".config", "include/config", "include/generated")
    found = [tree / name for name in names] + list(tree.glob("arch/*/include/generated"))
    return [path for path in found if path.exists() or path.is_symlink()]


def wanted(git: Git, folder: Path, place: Path) -> list[str]:
    """The paths to take, relative to `folder`. `place` is a private folder for a moment's files.

    Raises UsageError for a file name that is not UTF-8.
    """
    none = str(place / "no-index")  # against an empty index every file is "other"
    options = ["--exclude-per-directory=.gitignore"]
    if git("check-ignore", "--no-index", "Makefile", index=none):
        options += _unblanket(git, folder, place, none)
    if not (folder / ".gitignore").is_file():
        options += [f"--exclude={pattern}" for pattern in PRODUCTS]
    listed = git("ls-files", "--others", "-z", *options, index=none)
    if "\ufffd" in listed:
        raise UsageError(f"{folder} has a file name that is not UTF-8", step="rename the file")
    # A nested repository is listed with a slash at its end; it is no part of this tree.
    return [path for path in listed.split("\0") if path and not path.endswith("/")]


def _unblanket(git: Git, folder: Path, place: Path, none: str) -> list[str]:
    """Options that undo a top .gitignore which ignores everything, but not its other patterns.

    Debian's linux-source has one: its ``/*`` is meant for the packaging repository.
    """
    rest = [
        line
        for line in (folder / ".gitignore").read_text(errors="replace").splitlines()
        if line.strip() not in ("*", "/*")
    ]
    patterns = place / "top-ignore"
    patterns.write_text("\n".join(rest) + "\n")
    shown = git("ls-files", "--others", "--directory", "-z", f"--exclude-from={patterns}", index=none)
    kept = {path.rstrip("/") for path in shown.split("\0")}
    ignored = [name for name in sorted(os.listdir(folder)) if name not in kept]
    escaped = [re.sub(r"([\\*?\[])", r"\\\1", name) for name in ignored]
    # The last pattern that matches decides, and those of the command line go before the files'.
    return ["--exclude=!/*", *(f"--exclude=/{name}" for name in escaped)]
