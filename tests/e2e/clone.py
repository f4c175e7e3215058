# SPDX-License-Identifier: GPL-2.0-only
"""A private copy of the user's cache, in hard links: warm from the start, and nothing of the user's at risk.

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

from harness.core.errors import HarnessError
from harness.core.plan import CACHE_CAP_GIB
from harness.host.cache import Cache, remove

PREFIX = ".e2e-"
"""A name that the cache itself takes no notice of."""

LINKED_FOLDERS = ("ccache",)
KINDS = ("toolchain", "guest", "source", "steering", "config", "kernel", "programs", "module", "initramfs", "snapshot")


ROOM_BYTES = CACHE_CAP_GIB << 29
"""At most so much is in a copy, half of the cap: what tests make may have nothing pruned that they rely on."""


def _copy(source: Path, target: Path, *, link: bool) -> None:
    how = "-al" if link else "-a"
    subprocess.run(["cp", how, "--", str(source), str(target)], check=True)


def _copy_plain(source: Path, target: Path, *, link: bool) -> None:
    """As :func:`_copy`, of a folder in which another run may just be at work: what goes away meanwhile is not copied."""
    argv = ["cp", "-al" if link else "-a", "--", str(source), str(target)]
    done = subprocess.run(argv, env={**os.environ, "LC_ALL": "C"}, stderr=subprocess.PIPE, text=True)
    wrong = [line for line in done.stderr.splitlines() if not line.endswith(": No such file or directory")]
    if wrong or (done.returncode and not done.stderr):
        raise OSError(f"cp of {source} ended with {done.returncode}: {wrong}")


def _fill(real: Cache, root: Path) -> None:
    """Links each complete entry, which no prune may take meanwhile."""
    for kind in (name for name in KINDS if (real.root / name).is_dir()):
        (root / kind).mkdir()
        (root / ".meta" / kind).mkdir(parents=True)
        for entry in sorted((real.root / kind).iterdir()):
            record = real.root / ".meta" / kind / f"{entry.name}.json"
            try:
                used = record.stat().st_mtime_ns
                with real.hold(kind, entry.name):
                    os.utime(record, ns=(used, used))  # to be copied is no use
                    _copy(entry, root / kind, link=True)
                    _copy(record, root / ".meta" / kind, link=False)
            except (HarnessError, FileNotFoundError):
                continue  # pruned since it was listed
    (root / "folder").mkdir(exist_ok=True)
    for folder in sorted((real.root / "folder").glob("*")):
        _copy_plain(folder, root / "folder", link=folder.name in LINKED_FOLDERS)
        mark = real.root / ".meta/folder" / f"{folder.name}.used"
        if mark.exists():
            (root / ".meta/folder").mkdir(parents=True, exist_ok=True)
            _copy(mark, root / ".meta/folder", link=False)
    for private in ("tmp", "lock"):  # ccache maps a file of the one, and the other is what it says
        if (root / "folder/ccache" / private).is_dir():
            remove(root / "folder/ccache" / private)
    if (real.root / "durations").is_dir():
        _copy_plain(real.root / "durations", root, link=False)
    Cache(root, 0).prune(None, ROOM_BYTES)


@contextlib.contextmanager
def _alone(real: Path) -> Iterator[None]:
    """No other session makes, sweeps or removes a copy within the block."""
    folder = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _sweep(real: Path) -> None:
    """Removes the copies of sessions that were killed: those whose lock is free. The caller is alone."""
    for left in real.glob(f"{PREFIX}*"):
        with open(left / "lock", "a") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(left)


@contextlib.contextmanager
def cloned(real: Cache | None = None, name: str = "") -> Iterator[Path]:
    """A value for XDG_CACHE_HOME, gone after the block: `name`, where it matters what it is called.

    It is on the file system of `real`, by default the user's cache, for links need that.
    """
    real = real or Cache.default(0)
    with contextlib.ExitStack() as stack:
        with _alone(real.root):
            _sweep(real.root)
            base = Path(tempfile.mkdtemp(prefix=PREFIX, dir=real.root))
            lock = stack.enter_context(open(base / "lock", "a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            home = base / name
            (home / "kharness").mkdir(parents=True)
            _fill(real, home / "kharness")
            yield home
        finally:
            with _alone(real.root):
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
