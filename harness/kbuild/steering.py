# SPDX-License-Identifier: GPL-2.0-only
"""The files of a tree that decide its .config: trees in which they are equal share one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from harness.host import below
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.source.tree import Tree

NAMES = ("Kconfig", "Makefile", "Kbuild", "localversion")
"""Prefixes of the files that Kconfig reads or that call it (scripts/kconfig/Makefile), in any folder."""

FOLDERS = ("scripts/",)
"""Whole folders: conf itself, and the programs of its macros (scripts/Kconfig.include)."""

SUFFIXES = (".sh", ".config")
"""Further programs of macros (arch/*/tools/), and fragments of the tree's own (tinyconfig takes kernel/configs/)."""

_SOURCED = re.compile(r'^\s*o?r?source\s+"([^"]*)"', re.MULTILINE)
_NAMED = re.compile(r"\$\(srctree\)/([\w./-]+)")


def digest(tree: Tree, cache: Cache, progress: Progress) -> str:
    """A hash over the paths and contents of these files; the whole tree's own where its Kconfig files name others.

    It is read from some 7000 files once for each tree, and kept.
    """

    def maker(staging: Path) -> None:
        (staging / "digest").write_text(_digest(tree.path) or tree.tree)

    what = f"what decides the .config of {tree.version}"
    entry, _ = cache.produce("steering", tree.tree, maker, what=what, say=progress.say)
    return (entry / "digest").read_text()


def _digest(tree: Path) -> str:
    """The hash; empty where a Kconfig file sources or names any other file."""
    found = hashlib.sha256()
    for name in sorted(_files(tree)):
        path = tree / name
        content = os.fsencode(os.readlink(path)) if path.is_symlink() else below.read_bytes(tree, name)
        if os.path.basename(name).startswith("Kconfig") and not _closed(content.decode(errors="replace")):
            return ""
        found.update(b"\0".join((name.encode(errors="surrogateescape"), hashlib.sha256(content).digest())))
    return found.hexdigest()


def _files(tree: Path) -> Iterator[str]:
    for folder, _, files in os.walk(tree):
        where = os.path.relpath(folder, tree)
        for file in files:
            name = file if where == "." else f"{where}/{file}"
            if _steers(name):
                yield name


def _steers(name: str) -> bool:
    return os.path.basename(name).startswith(NAMES) or name.endswith(SUFFIXES) or name.startswith(FOLDERS)


def _closed(text: str) -> bool:
    """Whether all files that a Kconfig file sources or names are among these."""
    return all(_steers(name.lstrip("./")) for name in (*_SOURCED.findall(text), *_NAMED.findall(text)))
