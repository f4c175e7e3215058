# SPDX-License-Identifier: GPL-2.0-only
"""A history to be bisected: 64 commits on a kernel, of which one breaks destroy, two do not build, one panics."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

COMMITS = 64
CULPRIT, BROKEN, PANICS = 37, (31, 45), 34
"""Their numbers, counted from 1; what is broken is mended in the next commit."""

DULL = {3: "Documentation/scheduler/sched-ext.rst", 6: "net/bluetooth/hci_core.c"}
"""By the last digit of a commit's number in base 8: what it touches that no kernel of ours is made of."""

TOUCHED = ("SCHEDULER", "lib/cmdline.c", "lib/argv_split.c")
"""What the others touch, in turn."""

_PANIC = """
static int __init broken_on_purpose(void)
{
\tpanic("broken on purpose");
}
late_initcall(broken_on_purpose);
"""


_NOW_AND_THEN = """#include <linux/random.h>
static bool broken_now(void)
{
\tstatic int broken = -1;

\tif (broken < 0)
\t\tbroken = !get_random_u32_below(3);
\treturn broken;
}

"""
"""What is decided once in a guest: one guest in three is broken."""


@dataclass(frozen=True)
class Made:
    """The history: its base, and its commits from the oldest on."""

    folder: Path
    base: str
    commits: tuple[str, ...]

    def commit(self, number: int) -> str:
        """The commit of a number, counted from 1."""
        return self.commits[number - 1]


def git(folder: Path, *argv: str) -> str:
    """Git as nobody, at a fixed time, without any configuration of this machine's."""
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    env |= {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env |= {f"GIT_{who}_DATE": "2026-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")}
    quiet = ["-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.fsync=none"]
    done = subprocess.run(
        ["git", "-C", str(folder), *quiet, *argv], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make(folder: Path, scheduler: str, commits: int = COMMITS, always: bool = True) -> Made:
    """Makes the history in a plain kernel tree whose files may be links: none is written through.

    Unless the failure shows `always`, it does in one guest of three.
    """
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A", "-f")  # Debian's .gitignore ignores everything
    git(folder, "commit", "-q", "-m", "as it was")
    base = git(folder, "rev-parse", "HEAD")
    made = []
    for number in range(1, commits + 1):
        path, title = _change(folder, scheduler, number, always)
        git(folder, "add", "-f", "--", path)
        git(folder, "commit", "-q", "-m", title)
        made.append(git(folder, "rev-parse", "HEAD"))
    return Made(folder, base, tuple(made))


def _change(folder: Path, scheduler: str, number: int, always: bool) -> tuple[str, str]:
    """Makes one commit's change; what it touches, and its subject."""
    if number in BROKEN or number - 1 in BROKEN:
        broken = number in BROKEN
        _edit(
            folder / scheduler,
            (f"\nint broken{number} = ;\n", "") if broken else ("", f"\nint broken{number - 1} = ;\n"),
        )
        return scheduler, f"sched_ext: {'a slip' if broken else 'mend the slip'}"
    if number == PANICS or number - 1 == PANICS:
        panics = number == PANICS
        _edit(folder / "lib/cmdline.c", (_PANIC, "") if panics else ("", _PANIC))
        return "lib/cmdline.c", f"cmdline: {'a check at boot' if panics else 'no check at boot'}"
    if number == CULPRIT:
        path = folder / scheduler
        new = r"\1\2" if always else rf"{_NOW_AND_THEN}\1!dsq || broken_now()\3"
        pattern = r"(?s)(static void destroy_dsq\(.*?\n\tif \()!(dsq(\)\n))"
        text, found = re.subn(pattern, new, path.read_text(), count=1)
        assert found, f"{scheduler} has another destroy_dsq()"
        _write(path, text)
        return scheduler, "sched_ext: simplify destroy_dsq()"
    path = folder / DULL.get(number % 8, TOUCHED[number % 3]).replace("SCHEDULER", scheduler)
    before = path.read_text() if path.exists() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, f"{before}{'' if path.suffix == '.rst' else f'/* change {number} */'}\n")
    return str(path.relative_to(folder)), f"{path.stem}: change {number}"


def _edit(path: Path, change: tuple[str, str]) -> None:
    """Appends the first text, takes away the second."""
    text = path.read_text()
    assert change[1] in text
    _write(path, text.replace(change[1], "") + change[0])


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # never through a link: the original is the cache's
    path.write_text(text)
