# SPDX-License-Identifier: GPL-2.0-only
"""Whether a cache folder may be trusted: no other user can have put anything there that we would run.

The rule is that of sshd's StrictModes (safe_path() of OpenSSH's misc.c), walked up to the root folder. The Makefile
runs this file by itself, before it runs any program from the cache: it imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PRIVATE = 0o700
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Trouble(NamedTuple):
    """Why a folder cannot be used, and what to do about it."""

    what: str
    step: str


def claim(root: Path) -> Trouble | None:
    """Make the cache folder `root` (an absolute path), for its owner alone, if it is not there. None: it is usable.

    Nothing is made below a folder that cannot be trusted. A folder of ours that others may only read is closed to them.
    """
    try:
        found = trouble(root, os.geteuid())
        if found is None and not root.is_dir():
            _make(root)
            found = trouble(root, os.geteuid())  # another process may have been faster
        owner = root.stat().st_uid if found is None else -1
        if owner not in (-1, os.geteuid()) and not os.access(root, os.W_OK | os.X_OK):  # root's, after a sudo
            found = _foreign(root, root, owner, os.geteuid())
        if found is None and stat.S_IMODE(root.stat().st_mode) & ~PRIVATE:
            root.chmod(PRIVATE)
    except OSError as error:
        step = "set XDG_CACHE_HOME to a folder that can be written"
        return Trouble(f"cannot use the cache folder {root}: {error.strerror}", step)
    return found


def trouble(root: Path, user: int) -> Trouble | None:
    """What lets users other than `user` (a uid) and root change what is at `root`; None if nothing. Raises OSError."""
    for place in _way(root):
        try:
            seen = place.lstat()
        except FileNotFoundError:
            continue
        last = place == _real(root)
        if seen.st_uid != user and seen.st_uid not in _roots():
            return _foreign(root, place, seen.st_uid, user)
        if stat.S_ISLNK(seen.st_mode) or not _writable(seen, last, user):
            continue
        what = f"the cache folder {root} cannot be trusted: others may write into {place} (mode {_mode(seen)})"
        fix = f"chmod go-w {place}"
        return Trouble(what, f"remove it, or, if no other user wrote into it, {fix}" if last else fix)
    return None


def _roots() -> frozenset[int]:
    """The uids of root: within a user namespace that does not map the host's, as a toolbox is, that one has no name."""
    ids = Path("/proc/self/uid_map").read_text().split()
    mapped = any(int(outside) == 0 for outside in ids[1::3])
    return frozenset({0} if mapped else {0, int(Path("/proc/sys/kernel/overflowuid").read_text())})


def _way(root: Path) -> Iterator[Path]:
    """The folders and links that lead to `root`, as it is written and as it is resolved, and itself."""
    for path in dict.fromkeys([root, _real(root)]):
        yield from reversed(path.parents)
        yield path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # of which, unlike Path.resolve(), no loop of links makes an exception


def _writable(seen: os.stat_result, last: bool, user: int) -> bool:
    """Whether another user can replace what is in a folder; in one with the sticky bit, such as /tmp, they cannot.

    A group that is the user's alone does not count; with umask 002 it may write everywhere.
    """
    others = seen.st_mode & OTHERS_WRITE
    if others == stat.S_IWGRP and _alone(seen.st_gid, user):
        others = 0
    return bool(others) and (last or not seen.st_mode & stat.S_ISVTX)


def _alone(group: int, user: int) -> bool:
    """Whether a group is the private one of a user: of that name, and without another member."""
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(user).pw_name
        known = grp.getgrgid(group)
        return pwd.getpwuid(user).pw_gid == group and known.gr_name == name and set(known.gr_mem) <= {name}
    return False


def _foreign(root: Path, place: Path, owner: int, user: int) -> Trouble:
    what = (
        f"the cache folder {root} cannot be trusted: {place} belongs to {_name(owner)} (mode {_mode(place.lstat())}), "
        f"and you are {_name(user)}"
    )
    if user == 0:
        return Trouble(what, "use a cache of root's own: sudo -H, or XDG_CACHE_HOME=/root/.cache")
    return Trouble(what, f"set XDG_CACHE_HOME to a folder of yours, or: sudo chown {_name(user)} {place}")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


def _mode(seen: os.stat_result) -> str:
    return f"{stat.S_IMODE(seen.st_mode):04o}"


def _make(root: Path) -> None:
    for folder in reversed([root, *root.parents]):
        if not folder.is_dir():
            folder.mkdir(mode=PRIVATE, exist_ok=True)


if __name__ == "__main__":
    refused = claim(Path(sys.argv[1]).absolute())
    if refused is not None:
        sys.exit(f"kharness: {refused.what}; {refused.step}")
