# SPDX-License-Identifier: GPL-2.0-only
"""A kernel tree that tests break by hand: made of links, mended after each edit, and known file by file."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.core.definition import load
from harness.core.options import DEFAULT_ARCHES
from tests.e2e.clone import link_tree

LEAVE_OUT = (
    "Documentation",
    "sound",
    "samples",
    "rust",
    "tools/testing",
    "drivers/gpu",
    "drivers/media",
    "drivers/staging",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/usb",
    "drivers/iio",
    "drivers/scsi",
    "drivers/pinctrl",
    "drivers/infiniband",
    "drivers/crypto",
    "drivers/video",
    "arch/arm64/boot/dts",
)
"""Folders whose C files no kernel of ours compiles; without them a snapshot takes half the time."""

SCHEDULER = ("kernel/sched/ext/ext.c", "kernel/sched/ext.c")
"""Where sched_ext lives: since 7.2, and before."""


class UserTree:
    """A plain folder as a developer has it: written by its owner only."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self._source = source
        needed = {load(arch).kernel.srcarch for arch in DEFAULT_ARCHES}
        others = (path.name for path in (source / "arch").iterdir() if path.is_dir() and path.name not in needed)
        link_tree(source, folder, (*LEAVE_OUT, *(f"arch/{name}" for name in others)))

    @property
    def scheduler(self) -> str:
        """The file of sched_ext, relative to the tree."""
        return next(name for name in SCHEDULER if (self.folder / name).is_file())

    def state(self) -> dict[str, tuple[int, int, int, int]]:
        """Inode, mode, size and mtime of every file and folder: what changes when somebody writes here."""
        found = {}
        for folder, folders, names in os.walk(self.folder):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                seen = os.lstat(path)
                found[path] = (seen.st_ino, seen.st_mode, seen.st_size, seen.st_mtime_ns)
        return found

    @contextlib.contextmanager
    def rewritten(self, name: str, changes: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Replaces regular expressions throughout a file, one after the other, for as long as the block lasts.

        Fails when one of them is found nowhere.
        """
        path, origin = self.folder / name, self._source / name
        text = origin.read_text()
        for old, new in changes:
            text, found = re.subn(old, new, text, flags=re.MULTILINE)
            assert found, f"{name} holds nothing like {old!r}"
        path.unlink()  # never through the link: the original is the cache's
        path.write_text(text)
        try:
            yield
        finally:
            path.unlink()
            os.link(origin, path)

    @contextlib.contextmanager
    def edited(self, name: str, function: str, old: str, new: str) -> Iterator[int]:
        """Replaces the one `old` within `function` of a file for as long as the block lasts; gives its line.

        Fails when the function or the text is not there exactly once: the kernel would not be broken then. After the
        block nobody else may have changed the tree.
        """
        path, origin = self.folder / name, self._source / name
        text = origin.read_text()
        heads = list(re.finditer(rf"^\S.*\b{function}\([^;]*?\)\n\{{\n", text, re.MULTILINE))
        assert len(heads) == 1, f"{name} defines {function}() {len(heads)} times"
        end = text.index("\n}\n", heads[0].end()) + 1
        body = text[heads[0].end() : end]
        assert body.count(old) == 1, f"{function}() in {name} holds {old!r} {body.count(old)} times"
        at = heads[0].end() + body.index(old)
        path.unlink()  # never through the link: the original is the cache's
        path.write_text(text[:at] + new + text[at + len(old) :])
        before = self.state()
        try:
            yield text.count("\n", 0, at) + 1
            assert self.state() == before, "somebody wrote into the user's tree"
            assert path.read_text() == text[:at] + new + text[at + len(old) :]
        finally:
            path.unlink()
            os.link(origin, path)
