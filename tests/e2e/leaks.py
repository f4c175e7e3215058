# SPDX-License-Identifier: GPL-2.0-only
"""Owns the search for what a command left behind: processes, mounts, temporary files, staging folders."""

from __future__ import annotations

import ctypes
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""include/uapi/linux/prctl.h: orphans below us become our children, and so stay findable."""

DYING_SECONDS = 5.0
"""For a process that was sent SIGKILL to be gone."""


def adopt_orphans() -> None:
    """From now on whatever a command leaves running is a child of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid: int) -> tuple[int, str]:
    """Parent and state, from /proc/PID/stat (proc_pid_stat(5)); (0, "gone") when it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, "gone"
    return int(fields[1]), fields[0]


def descendants() -> set[int]:
    """Every living process below this one; zombies that were left to us are reaped first."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent, state = _stat(int(name))
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
    """The living processes below `pid`, itself left out, whose command's name (15 characters) starts with `name`."""
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                children = [
                    int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()
                ]
                parents += children
                found += [c for c in children if Path(f"/proc/{c}/comm").read_text().startswith(name)]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
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


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except (FileNotFoundError, ProcessLookupError):
        return "(gone meanwhile)"


def _mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}


@dataclass(frozen=True)
class Before:
    """What there was before the commands whose leavings are looked for."""

    processes: frozenset[int]
    mounts: frozenset[str]

    @classmethod
    def now(cls) -> Before:
        return cls(frozenset(descendants()), frozenset(_mounts()))

    def left_behind(self, cache: Path, tmp: Path, home: Path) -> list[str]:
        """Each thing that was not there before, in words. `cache` is a cache's root, kharness/ included."""
        running = _until_gone(descendants() - self.processes)
        found = [f"process {pid}: {_words(pid)}" for pid in sorted(running)]
        found += [f"mount {place}" for place in sorted(_mounts() - self.mounts)]
        for folder in (cache / ".staging", tmp, home):
            if folder.is_dir():
                found += [f"file {entry}" for entry in sorted(folder.iterdir())]
        return found
