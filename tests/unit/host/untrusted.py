# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of untrusted folders share: both ways of resolving, and the proof that a folder was not touched."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host import resolve

REAL = resolve.resolver()
WAYS = (resolve.by_openat2, resolve.by_steps)
SECRET = b"of the user's own\n"


@contextlib.contextmanager
def by(way: resolve.Resolve) -> Iterator[None]:
    """Has everything below resolved in one of the two ways."""
    if way is resolve.by_openat2 and REAL is not way:
        pytest.skip("this kernel has no openat2, or does not let us call it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve, "resolver", lambda: way)
        yield


def seen(folder: Path) -> dict[str, object]:
    """All that can be seen of a folder from outside, its times included."""
    found: dict[str, object] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        shown = path.lstat()
        times = (shown.st_mtime_ns, shown.st_ctime_ns, shown.st_atime_ns if stat.S_ISREG(shown.st_mode) else 0)
        content = path.read_bytes() if stat.S_ISREG(shown.st_mode) else b""
        found[str(path)] = (shown.st_mode, shown.st_ino, shown.st_nlink, times, content)
        if stat.S_ISREG(shown.st_mode):
            os.utime(path, ns=(shown.st_atime_ns, shown.st_mtime_ns))  # looking must leave no trace for the next look
            found[str(path)] = (*found[str(path)][:3], times[:1], content)  # type: ignore[index]
    return found
