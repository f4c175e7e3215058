# SPDX-License-Identifier: GPL-2.0-only
"""Owns a private copy of the user's cache, in hard links: warm from the start, and nothing of the user's at risk.

What kharness changes in place (locks, git folders, apt's state) is copied for real; everything else it
only ever replaces by renaming, which leaves the original alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import HarnessError
from harness.host.cache import Cache, remove

PREFIX = ".e2e-"
"""A name that the cache itself takes no notice of."""

LINKED_FOLDERS = ("ccache",)
KINDS = ("toolchain", "guest", "source", "steering", "config", "kernel", "programs", "module", "initramfs", "snapshot")


def _copy(source: Path, target: Path, *, link: bool) -> None:
    how = "-al" if link else "-a"
    subprocess.run(["cp", how, "--", str(source), str(target)], check=True)


def _fill(real: Cache, root: Path) -> None:
    """Links each complete entry, which no prune may take meanwhile."""
    for kind in (name for name in KINDS if (real.root / name).is_dir()):
        (root / kind).mkdir()
        (root / ".meta" / kind).mkdir(parents=True)
        for entry in sorted((real.root / kind).iterdir()):
            try:
                with real.hold(kind, entry.name):
                    _copy(entry, root / kind, link=True)
            except HarnessError:
                continue  # pruned since it was listed
            size = real.root / ".meta" / kind / f"{entry.name}.json"
            if size.exists():
                _copy(size, root / ".meta" / kind, link=False)
    (root / "folder").mkdir(exist_ok=True)
    for folder in sorted((real.root / "folder").glob("*")):
        _copy(folder, root / "folder", link=folder.name in LINKED_FOLDERS)
    for private in ("tmp", "lock"):  # ccache maps a file of the one, and the other is what it says
        if (root / "folder/ccache" / private).is_dir():
            remove(root / "folder/ccache" / private)
    if (real.root / "durations").is_dir():
        _copy(real.root / "durations", root, link=False)


def _sweep(real: Path) -> None:
    """Removes the copies of sessions that were killed: those whose lock is free."""
    for left in real.glob(f"{PREFIX}*"):
        with open(left / "lock", "a") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(left)


@contextlib.contextmanager
def cloned() -> Iterator[Path]:
    """A value for XDG_CACHE_HOME, gone after the block. On the file system of the user's cache, for links need that."""
    real = Cache.default(0)
    _sweep(real.root)
    base = Path(tempfile.mkdtemp(prefix=PREFIX, dir=real.root))
    with open(base / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            (base / "kharness").mkdir()
            _fill(real, base / "kharness")
            yield base
        finally:
            remove(base)


def link_tree(source: Path, target: Path, leave_out: tuple[str, ...]) -> None:
    """`source` in hard links at `target`, without the C files and the like below the folders `leave_out`.

    Kconfig and make files stay everywhere, for kbuild reads them all.
    """
    for folder, _, names in os.walk(source):
        inside = Path(folder).relative_to(source)
        thin = any(inside.is_relative_to(left) for left in leave_out)
        kept = [name for name in names if not thin or name.startswith(("Kconfig", "Makefile", "Kbuild"))]
        if kept or not thin:
            (target / inside).mkdir(parents=True, exist_ok=True)
        for name in kept:
            os.link(Path(folder) / name, target / inside / name, follow_symlinks=False)
    for link in (path for path in source.rglob("*") if path.is_symlink() and path.is_dir()):
        inside = link.relative_to(source)
        if not any(inside.is_relative_to(left) for left in leave_out):
            shutil.copy(link, target / inside, follow_symlinks=False)
