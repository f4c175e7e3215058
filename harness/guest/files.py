# SPDX-License-Identifier: GPL-2.0-only
"""Files into a guest and out of it; a wrong option is reported before a guest is started."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import UsageError
from harness.guest.remote import Remote
from harness.host.process import NO_SPACE, DiskFull


@dataclass(frozen=True)
class Put:
    """A file of ours for the guest; `guest` may be a folder there."""

    host: Path
    guest: str


@dataclass(frozen=True)
class Get:
    """A file of the guest's for us."""

    guest: str
    host: Path


def put_of(text: str) -> Put:
    """``HOSTFILE:GUESTPATH``. Raises UsageError for anything else and for a file that cannot be read."""
    name, colon, guest = text.rpartition(":")
    if not colon or not name or not guest.startswith("/"):
        raise UsageError(f"--put {text}: not HOSTFILE:GUESTPATH", step="such as --put ./tool:/bin/tool")
    host = Path(name).expanduser()
    if host.is_dir():
        raise UsageError(
            f"--put {name}: a folder", step=f"tar -cf - {shlex.quote(name)} | kharness shell 'tar -xf - -C /tmp'"
        )
    if not host.exists():
        raise UsageError(f"--put {name}: no such file", step="check the path before the colon")
    if not os.access(host, os.R_OK):
        raise UsageError(f"--put {name}: not ours to read", step="check its permissions")
    return Put(host, guest)


def get_of(text: str, force: bool) -> Get:
    """``GUESTPATH:HOSTFILE``, where HOSTFILE may be a folder. Raises UsageError for anything else.

    Also for a HOSTFILE that exists, unless `force`, and for a place where no file can be made.
    """
    guest, colon, name = text.partition(":")
    if not colon or not name or not guest.startswith("/") or guest.endswith("/"):
        raise UsageError(f"--get {text}: not GUESTPATH:HOSTFILE", step="such as --get /tmp/trace:./trace")
    host = Path(name).expanduser()
    if host.is_dir():
        host /= Path(guest).name
    if host.is_dir() or (os.path.lexists(host) and not force):
        raise UsageError(f"--get {text}: {host} is there already", step="name another file, or add --force")
    if not host.parent.is_dir():
        raise UsageError(f"--get {text}: no folder {host.parent}", step="make it first")
    if not os.access(host.parent, os.W_OK):
        raise UsageError(f"--get {text}: {host.parent} is not ours to write", step="name another folder")
    return Get(guest, host)


def put(remote: Remote, wish: Put) -> None:
    """Copy a file into the guest with its permissions; missing folders are made. Raises UsageError."""
    try:
        data, mode = wish.host.read_bytes(), stat.S_IMODE(wish.host.stat().st_mode)
    except OSError as error:
        raise UsageError(f"--put {wish.host}: {error.strerror}", step="check the path before the colon") from error
    inside = f"{wish.guest.rstrip('/')}/{wish.host.name}"
    script = (
        f"t={shlex.quote(wish.guest)}; "
        f'case $t in */) mkdir -p "$t";; esac; [ -d "$t" ] && t={shlex.quote(inside)}; '
        f'mkdir -p "$(dirname "$t")" && rm -f "$t" && cat > "$t" && chmod {mode:o} "$t"'
    )
    status, _, said = remote.run(script, data)
    if status:
        raise UsageError(f"--put {wish.host}:{wish.guest}: the guest says {said or status}", step="name another place")


def get(remote: Remote, wish: Get, force: bool) -> None:
    """Copy a file out of the guest, whole or not at all. Raises UsageError, DiskFull."""
    status, data, said = remote.run(f"exec cat {shlex.quote(wish.guest)}")
    if status:
        raise UsageError(f"--get {wish.guest}: the guest says {said or status}", step="check the path before the colon")
    try:
        store(wish.host, data, force)
    except FileExistsError as error:
        raise UsageError(f"--get {wish.guest}: {wish.host} is there already", step="add --force") from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(wish.host.parent) from error
        raise UsageError(f"--get {wish.guest}: {wish.host}: {error.strerror}", step="name another file") from error


def store(path: Path, data: bytes, force: bool) -> None:
    """Write a file atomically. Raises FileExistsError for one that exists, unless `force`, and OSError."""
    mask = os.umask(0)
    os.umask(mask)
    descriptor, name = tempfile.mkstemp(prefix=".kharness-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as draft:
            draft.write(data)
            os.fchmod(draft.fileno(), 0o666 & ~mask)
        if force:
            os.replace(name, path)
        else:
            os.link(name, path)
    finally:
        if os.path.exists(name):
            os.unlink(name)
