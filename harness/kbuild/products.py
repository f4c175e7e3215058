# SPDX-License-Identifier: GPL-2.0-only
"""Files taken out of a folder that a sandbox wrote, and who is to blame when they cannot be taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import HarnessError, KernelFailure, UsageError
from harness.host import below
from harness.host.removal import remove

RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
"""A kernel's release (uname -r, at most 64 characters there): it becomes a file name, and is shown to the user."""

MADE_MOST = 1 << 30
"""Bytes of one file that we have made for a guest, which is read into memory; an initramfs has 10 MB."""

STEP = "a build leaves plain files in its own folder: see what the tree's makefiles do"


@contextmanager
def built_by(what: str) -> Iterator[None]:
    """Within the block, an output of a build that cannot be taken is a failure of the build.

    Raises KernelFailure for Unsafe, and for the UsageError of a .config that is none.
    """
    try:
        yield
    except below.Unsafe as error:
        raise KernelFailure("build", f"{what} left {error.name}, which {error.why}", step=STEP) from error
    except UsageError as error:
        raise KernelFailure("build", f"{what} left a .config that is none: {error.what}", step=STEP) from error


def release_of(text: str, what: str) -> str:
    """A kernel's release, if it is valid as a file name. Raises KernelFailure where it is not."""
    if not RELEASE.fullmatch(text):
        step = "it may hold letters, digits and ._+~-: see what the tree's makefiles write to kernel.release"
        raise KernelFailure("build", f"{what} calls its kernel {text[:80]!a}", step=step)
    return text


@contextmanager
def out_folder(place: Path, *names: str, most: int = MADE_MOST) -> Iterator[Path]:
    """A folder for a sandbox to write into; after the block these files are taken out of it into the folder `place`.

    Raises Unsafe for one that is no file, HarnessError for one that is not there.
    """
    folder = place / ".out"
    folder.mkdir()
    try:
        yield folder
        for name in names:
            if below.inspect(folder, name) is None:
                raise HarnessError(f"{name} was not made, though all went well", step="report this")
            remove(place / name)
            below.take(folder, name, place / name, most=most)
    finally:
        remove(folder)
