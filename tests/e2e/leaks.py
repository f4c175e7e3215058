# SPDX-License-Identifier: GPL-2.0-only
"""The search for what a command left behind: processes, mounts, temporary files, staging folders."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import time
from dataclasses import dataclass
from pathlib import Path

from harness.core.checkout import CHECKOUT

PR_SET_CHILD_SUBREAPER = 36
"""include/uapi/linux/prctl.h: orphans below us become our children, and so stay findable."""

DYING_SECONDS = 30.0
"""For a process that was sent SIGKILL to be gone: QEMU with all its memory, on a loaded machine."""


def adopt_orphans() -> None:
    """From now on whatever a command leaves running is a child of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid: int) -> tuple[int, str, str]:
    """Parent, state and command's name, from /proc/PID/stat (proc_pid_stat(5)); (0, "gone", "") when it is no more."""
    try:
        head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return 0, "gone", ""
    fields = rest.split()
    return int(fields[1]), fields[0], head.partition("(")[2]


def state(pid: int) -> str:
    """The letter that proc_pid_stat(5) has for what a process does: T is stopped."""
    return _stat(pid)[1]


def descendants() -> set[int]:
    """Every living process below this one; zombies that were left to us are reaped first."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent, state, _ = _stat(int(name))
            if state == "Z" and parent == os.getpid():
                _reap(int(name))
            elif state not in ("Z", "gone"):
                parents[int(name)] = parent
    known = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in known} - known:
        known |= more
    return known - {os.getpid()}


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # somebody waited for it in between


def below(pid: int, name: str) -> list[int]:
    """The living processes below `pid`, itself left out, whose command's name (15 characters) starts with `name`.

    What ends while we look, a process or one of its threads, takes none of the others along.
    """
    found, parents = [], [pid]
    while parents:
        children = _children(parents.pop())
        parents += children
        for child in children:
            _, state, own = _stat(child)
            if state not in ("Z", "X", "gone") and own.startswith(name):
                found.append(child)
    return found


def _children(pid: int) -> list[int]:
    """What a process has started and not waited for."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


def _until_gone(pids: set[int]) -> set[int]:
    """What of `pids` still lives after DYING_SECONDS."""
    end = time.monotonic() + DYING_SECONDS
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        finally:
            os.close(descriptor)
    return pids & descendants()


def words(pid: int) -> list[str]:
    """The command line of a process (proc_pid_cmdline(5)); nothing when it is no more."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return data.decode(errors="replace").split("\0")[:-1]


def with_word(pid: int, name: str, word: str) -> list[int]:
    """The processes of :func:`below` that were started with this argument.

    Between fork(2) and exec(2) what one of them starts has its name and its arguments: it is left out.
    """
    found = [child for child in below(pid, name) if word in words(child)]
    return [child for child in found if _stat(child)[0] not in found]


def _mounts() -> set[str]:
    """Where something is mounted (proc_pid_mounts(5), which has blanks and the like in octal)."""
    places = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return {re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place) for place in places}


@dataclass(frozen=True)
class Before:
    """What there was before the commands whose leavings are looked for."""

    processes: frozenset[int]
    mounts: frozenset[str]

    @classmethod
    def now(cls) -> Before:
        return cls(frozenset(descendants()), frozenset(_mounts()))

    def left_behind(self, cache: Path, tmp: Path, home: Path) -> list[str]:
        """Each thing that was not there before, in words. `cache` is a cache's root, kharness/ included.

        Other programs of this machine mount things at any time: a mount counts where kharness may write, or runs from.
        """
        running = _until_gone(descendants() - self.processes)
        found = [f"process {pid}: {' '.join(words(pid))[:200] or '(gone meanwhile)'}" for pid in sorted(running)]
        ours = (cache, tmp.parent, home.parent, CHECKOUT)
        mounted = sorted(_mounts() - self.mounts)
        found += [f"mount {place}" for place in mounted if any(Path(place).is_relative_to(top) for top in ours)]
        for folder in (cache / ".staging", tmp, home):
            if folder.is_dir():
                found += [f"file {entry}" for entry in sorted(folder.iterdir())]
        return found
