# SPDX-License-Identifier: GPL-2.0-only
"""The standard streams: output that cannot be shown must not change a result.

A stream may be closed, full, of another encoding, or lose its reader in the middle. The verdict is in the results and
in the exit status; neither may depend on who reads along.
"""

from __future__ import annotations

import errno
import io
import locale
import os
import re
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STANDARD = (0, 1, 2)
_SANE = re.compile(r"[1-9][0-9]{0,3}")


def in_utf8() -> None:
    """Starts this Python again in UTF-8 mode (PEP 540) where the locale has another encoding.

    Files are UTF-8 whatever the locale says; what is printed keeps the locale's encoding.
    """
    if sys.flags.utf8_mode or re.fullmatch("utf-?8", locale.getencoding(), re.IGNORECASE):
        return
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] or locale.getencoding()
    again = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:backslashreplace"}
    # By flag as well, for a Python that ignores its environment.
    os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], {**os.environ, **again})


def settle() -> None:
    """Make writing to the standard streams never raise; call it before anything else.

    A closed descriptor is opened on /dev/null, so that the next file that is opened does not get it. A terminal size
    that is no number is ignored. Characters that the encoding lacks are printed as escapes.
    """
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number, which is this one
            os.set_inheritable(descriptor, True)
    for name in ("COLUMNS", "LINES"):
        if not _SANE.fullmatch(os.environ.get(name, "1")):
            del os.environ[name]
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)
    sys.stdout = _settled(sys.stdout, 1)
    sys.stderr = _settled(sys.stderr, 2)


def _settled(stream: TextIO | None, descriptor: int) -> TextIO:
    """`stream`, or in its place one that never raises; a stream that a caller put there stays."""
    if stream is not None:
        try:
            if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != descriptor:
                return stream
        except (OSError, ValueError):
            return stream
        if _raw(stream) is not None:
            return stream
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(descriptor)),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
        write_through=bool(stream and stream.write_through),
    )


class _Patient(io.FileIO):
    """A descriptor of ours to write to: takes everything, also when it leads nowhere any more."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Writes all of `data`, or keeps the reason in `lost`."""
        whole = memoryview(data).cast("B")
        if self.lost is None:
            try:
                send(self.fileno(), whole)
            except OSError as error:
                self.lost = error
        return len(whole)


def send(descriptor: int, data: ReadableBuffer) -> None:
    """Writes all of `data`, also where another process made the descriptor non-blocking. Raises OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def loss(stream: TextIO) -> OSError | None:
    """Flush a stream of :func:`settle`; returns why output was lost, None if none was."""
    stream.flush()
    raw = _raw(stream)
    return raw.lost if raw is not None else None


def _raw(stream: TextIO) -> _Patient | None:
    """What is below a stream of :func:`settle`; None for another one. Without buffers, as by PYTHONUNBUFFERED, too."""
    below = getattr(stream, "buffer", None)
    raw = getattr(below, "raw", below)
    return raw if isinstance(raw, _Patient) else None


def is_reader_gone(error: OSError) -> bool:
    """Whether the reader has closed the stream, as ``| head`` or a closed terminal do, which is no error."""
    return error.errno in (errno.EPIPE, errno.EIO, errno.ECONNRESET)


class Lossy:
    """A text stream over `stream` that drops further text once a write fails, instead of raising."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._refused = False
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if not self._refused:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
            except (OSError, ValueError):  # ValueError: it was closed
                self._refused = True
        return len(text)

    def flush(self) -> None:
        try:
            if not self._refused:
                self._stream.flush()
        except (OSError, ValueError):
            self._refused = True

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        return self._stream.fileno()
