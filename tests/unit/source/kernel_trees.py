# SPDX-License-Identifier: GPL-2.0-only
"""Tiny kernel trees for tests, and the proof that one was not touched."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

MAKEFILE = "# SPDX\nVERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 13\nEXTRAVERSION =\nNAME = Test\n"
FILES: Mapping[str, str] = {
    "Makefile": MAKEFILE,
    "Kconfig": "mainmenu\n",
    "Kbuild": "obj-y += kernel/\n",
    ".gitignore": ".*\n*.o\nvmlinux\n!.gitignore\n",
    "kernel/sched/core.c": "int core;\n",
    "scripts/tool.sh": "#!/bin/sh\n",
}


def write_tree(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "scripts" / "tool.sh").chmod(0o755)
    return folder


def git(folder: Path, *argv: str) -> str:
    """Git with a fixed identity and no configuration of this machine's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    env |= {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", folder, *argv], env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def git_tree(folder: Path) -> Path:
    """A kernel tree in git with one commit."""
    write_tree(folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def fingerprint(folder: Path) -> dict[str, tuple[object, ...]]:
    """Every file below `folder`, .git included: mode, times and content."""
    seen: dict[str, tuple[object, ...]] = {}
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(where) / name
            stat = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            seen[str(path)] = (stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, content)
    return seen


def contents(folder: Path) -> dict[str, str]:
    """The files of a snapshot."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
