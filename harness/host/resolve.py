# SPDX-License-Identifier: GPL-2.0-only
"""Path resolution below a folder's descriptor: links are not followed, or only those that stay below.

The kernel does it where it has openat2(2), else each step is taken with O_NOFOLLOW from the folder that the step before
opened. Both come to the same.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from collections.abc import Callable

_FOLLOWED = 40
"""Links that are followed on one way, as the kernel has it (include/linux/namei.h, MAXSYMLINKS)."""

_PATH = os.O_PATH | os.O_CLOEXEC

Resolve = Callable[[int, tuple[str, ...], int, bool], int]
"""Opens the path of these parts below a folder's descriptor with these flags; the last says whether links are followed.

Raises OSError: ELOOP for a link that is not followed, EXDEV for what leads out.
"""


class _How(ctypes.Structure):
    """struct open_how of include/uapi/linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SYS_OPENAT2 = 437
"""On all architectures but alpha (arch/*/kernel/syscalls)."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_libc = ctypes.CDLL(None, use_errno=True)


def by_openat2(top: int, parts: tuple[str, ...], flags: int, links: bool) -> int:
    """As :data:`Resolve` says, by one system call."""
    resolve = _BENEATH | _NO_MAGICLINKS | (0 if links else _NO_SYMLINKS)
    how = _How(flags | (0 if links else os.O_NOFOLLOW), 0, resolve)
    name = os.fsencode("/".join(parts) or ".")
    size = ctypes.c_size_t(ctypes.sizeof(how))
    while True:
        opened = int(_libc.syscall(_SYS_OPENAT2, top, ctypes.c_char_p(name), ctypes.byref(how), size))
        if opened >= 0:
            return opened
        error = ctypes.get_errno()
        if error not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something on the way was moved meanwhile
            raise OSError(error, os.strerror(error), os.fsdecode(name))


def by_steps(top: int, parts: tuple[str, ...], flags: int, links: bool) -> int:
    """As :data:`Resolve` says, one part at a time."""
    todo, held, last, followed = list(reversed(parts)), [os.dup(top)], ".", 0
    try:
        while todo:
            part = todo.pop()
            if part == "..":
                if len(held) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                os.close(held.pop())
                last = "."
                continue
            held.append(os.open(part, _PATH | os.O_NOFOLLOW, dir_fd=held[-1]))
            last = part
            if not stat.S_ISLNK(os.fstat(held[-1]).st_mode) or (not links and not todo):
                continue
            followed += 1
            target = os.readlink("", dir_fd=held[-1])
            os.close(held.pop())
            if not links or followed > _FOLLOWED:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            todo += reversed([word for word in target.split("/") if word not in ("", ".")])
            last = "."
        if flags & os.O_PATH and not flags & os.O_DIRECTORY:
            return held.pop()
        if last == "." or stat.S_ISDIR(os.fstat(held[-1]).st_mode):
            return os.open(".", flags, dir_fd=held[-1])
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=held[-2])
    finally:
        for descriptor in held:
            os.close(descriptor)


@functools.cache
def resolver() -> Resolve:
    """openat2 where the kernel has it and lets us call it: old kernels and some containers do not."""
    top = os.open("/", _PATH | os.O_DIRECTORY)
    try:
        os.close(by_openat2(top, (), _PATH, False))
    except OSError:
        return by_steps
    finally:
        os.close(top)
    return by_openat2
