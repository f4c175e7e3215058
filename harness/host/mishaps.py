# SPDX-License-Identifier: GPL-2.0-only
"""Messages for unexpected errors: a fault of the host with its cure, or a bug of ours with a file to report."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import MappingProxyType

from harness.core.errors import HarnessError, KharnessError
from harness.core.printable import clean, one_line, quoted
from harness.host.cache import Cache
from harness.host.process import NO_SPACE_STEP

LONGEST = 300
"""Characters of an exception's own words in a line."""

_WRITABLE = "make it writable, or choose other folders with --out, XDG_CACHE_HOME and TMPDIR"
_LIMIT = "raise the limit (ulimit -n, ulimit -u), or try --guests 1 --jobs 1"
_NO_THREAD = "can't start new thread"
"""Python's words where pthread_create(3) fails, which give no errno (Modules/_threadmodule.c)."""

STEPS = MappingProxyType(
    {
        errno.ENOSPC: NO_SPACE_STEP,
        errno.EDQUOT: NO_SPACE_STEP,
        errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
        errno.EMFILE: _LIMIT,
        errno.ENFILE: _LIMIT,
        errno.EAGAIN: _LIMIT,
        errno.ENOMEM: "free memory, or try --guests 1 --jobs 1",
        errno.EROFS: _WRITABLE,
        errno.EACCES: _WRITABLE,
        errno.EPERM: _WRITABLE,
        errno.ENAMETOOLONG: "choose shorter names with --out, XDG_CACHE_HOME and TMPDIR",
        errno.ELOOP: "look where these symbolic links lead",
        errno.EIO: "look after that disk (dmesg, smartctl)",
        errno.ESTALE: "mount that file system again",
        errno.EHOSTDOWN: "mount that file system again",
        errno.ETXTBSY: "run the command again",
    }
)
"""What to do about a fault of the host, by errno."""


def explained(error: BaseException) -> KharnessError:
    """Turn an unexpected error into one clear line; a KharnessError stays as it is.

    A fault of the host has its cure as step. The rest is our own: the traceback goes to a file in the cache, or, where
    that cannot be written, into `detail`.
    """
    if isinstance(error, KharnessError):
        return error
    if isinstance(error, MemoryError):
        return HarnessError("out of memory", step="free memory, or try --guests 1 --jobs 1")
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return HarnessError(_NO_THREAD, step=_LIMIT)
    if isinstance(error, OSError) and (step := STEPS.get(error.errno or 0)):
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        return HarnessError(f"{place}{error.strerror}", step=step)
    what = f"kharness itself failed: {type(error).__name__}: {_short(str(error))}"
    trace = "".join(traceback.format_exception(error))
    try:
        return HarnessError(what, step=f"report it with {_keep(trace)}")
    except (OSError, RuntimeError, KharnessError):  # RuntimeError: there is no home folder
        return HarnessError(what, step="report it with the lines below", detail=trace)


def in_thread(about: threading.ExceptHookArgs) -> None:
    """For threading.excepthook: one line on stderr for a thread that died."""
    if about.exc_value is not None and not isinstance(about.exc_value, SystemExit | KeyboardInterrupt):
        name = about.thread.name if about.thread is not None else "a thread"
        report(explained(about.exc_value), f"{name}: ")


def report(error: KharnessError, where: str = "") -> None:
    """Print an error: its line, and its evidence below it, marked as such."""
    print(f"kharness: {one_line(where + error.line())}", file=sys.stderr)
    if error.detail:
        print(quoted(error.detail), file=sys.stderr)
    sys.stderr.flush()


def _short(words: str) -> str:
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} [...]"


def _keep(trace: str) -> Path:
    place = Cache.default(0).folder("crashes") / f"{int(time.time())}-{os.getpid()}.txt"
    with place.open("a", encoding="utf-8") as file:
        file.write(clean(trace))
    return place
