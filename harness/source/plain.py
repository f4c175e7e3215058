# SPDX-License-Identifier: GPL-2.0-only
"""Which files of a plain folder belong to the kernel tree: all that its .gitignore files let through.

So the objects of an in-tree build stay out.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.core.errors import UsageError
from harness.host import below

Git = Callable[..., str]
"""Runs git in the folder and returns its output; ``index`` names another index file."""


PRODUCTS = (
    "*.o",
    "*.ko",
    "*.a",
    "*.cmd",
    "*.mod",
    "*.mod.c",
    "*.order",
    "*.symvers",
    ".config*",
    ".tmp_*",
    ".vmlinux*",
    "/vmlinux",
    "/vmlinux.*",
    "/System.map",
    "/include/config/",
    "/include/generated/",
    "/arch/*/include/generated/",
)
"""What a build in the tree makes, for a folder that lost its .gitignore."""


_RULES = (".gitignore", ".gitattributes", ".gitmodules")


def products(tree: Path) -> list[Path]:
    """What in a tree makes kbuild refuse to build elsewhere from it (its Makefile: "The source tree is not clean").

    It may have been committed, or let through by a .gitignore that was edited. A file behind a link is no product:
    it is elsewhere.
    """
    arches = [name for name, found in _inside(tree, "arch") if stat.S_ISDIR(found.st_mode)]
    names = [".config", "include/config", "include/generated", *(f"{arch}/include/generated" for arch in arches)]
    return [tree / name for name in names if _there(tree, name)]


def _inside(tree: Path, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The entries of a folder by their paths in the tree; none where it is a link or no folder."""
    try:
        with below.folder(tree, folder) as opened, os.scandir(opened) as entries:
            found = [(f"{folder}/{entry.name}", entry.stat(follow_symlinks=False)) for entry in entries]
    except (OSError, below.Unsafe):
        return
    yield from found


def _there(tree: Path, name: str) -> bool:
    try:
        return below.inspect(tree, name) is not None
    except below.Unsafe:
        return False


def blocking(folder: Path) -> str:
    """A file that git would wait for when it reads its rules in a work tree, relative to it; empty where there is none.

    A tarball may bring a FIFO that is called .gitignore.
    """
    todo = [os.fspath(folder)]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.name in _RULES and not (entry.is_symlink() or entry.is_file()):
                    return os.path.relpath(entry.path, folder)
    return ""


def wanted(git: Git, folder: Path, place: Path) -> list[str]:
    """The paths to take, relative to `folder`. `place` is a private folder for temporary files.

    Raises UsageError for a file name that is not UTF-8.
    """
    none = str(place / "no-index")  # against an empty index every file is "other"
    options = ["--exclude-per-directory=.gitignore"]
    if git("check-ignore", "--no-index", "Makefile", index=none):
        options += _unblanket(git, folder, place, none)
    if not below.is_file(folder, ".gitignore"):
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
    lines = below.text_of(folder, ".gitignore").splitlines()
    rest = [line for line in lines if line.strip() not in ("*", "/*")]
    patterns = place / "top-ignore"
    patterns.write_text("\n".join(rest) + "\n")
    shown = git("ls-files", "--others", "--directory", "-z", f"--exclude-from={patterns}", index=none)
    kept = {path.rstrip("/") for path in shown.split("\0")}
    ignored = [name for name in sorted(os.listdir(folder)) if name not in kept]
    escaped = [re.sub(r"([\\*?\[])", r"\\\1", name) for name in ignored]
    # The last matching pattern decides, and patterns of the command line take precedence over those of files.
    return ["--exclude=!/*", *(f"--exclude=/{name}" for name in escaped)]
