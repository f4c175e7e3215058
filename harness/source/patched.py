# SPDX-License-Identifier: GPL-2.0-only
"""Owns a tree with patches on it: a snapshot of its own; the tree it came from stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from harness.errors import HarnessError, UsageError
from harness.host.cache import Cache
from harness.host.process import run
from harness.host.progress import Progress
from harness.source.repository import environment
from harness.source.series import Patch
from harness.source.tree import Tree, kernel_version, linked


class DoesNotApply(UsageError):
    """A patch whose context the tree does not have."""


_FAILED = re.compile(r"^error: patch failed: (.+):(\d+)$", re.MULTILINE)
_ABSENT = re.compile(r"^error: (.+): (?:No such file or directory|does not exist in .*)$", re.MULTILINE)
_EXISTS = re.compile(r"^error: (.+): already exists in working directory$", re.MULTILINE)
_OFFSET = re.compile(r"^Hunk #(\d+) succeeded at (\d+) \((offset -?\d+ lines?)\)\.$", re.MULTILINE)

Content = tuple[int, bytes] | None
"""A file's mode (of lstat) and bytes (of a link: its target); None where there is none."""


def apply(base: Tree, patches: Sequence[Patch], cache: Cache, progress: Progress) -> Tree:
    """`base` with `patches` applied in order, as a snapshot whose `tree` tells its content, not how it came about.

    Strictly, as git am does: lines may have moved, context must match. Raises UsageError naming patch, file and hunk
    for what does not apply, and for patches that change nothing.
    """
    with tempfile.TemporaryDirectory(prefix="kharness-") as scratch:
        folder = Path(scratch) / "tree"
        paths = sorted({path for patch in patches for path in patch.paths if _inside(path)})
        for path in paths:
            _copy(base.path / path, folder / path)
        before = {path: _content(folder / path) for path in paths}
        for number, patch in enumerate(patches, 1):
            _apply(patch, folder, base, f"patch {number} of {len(patches)}", progress)
        after = {path: _content(folder / path) for path in paths}
    delta = {path: after[path] for path in paths if after[path] != before[path]}
    if not delta:
        raise UsageError(f"the patches leave {base.origin} as it is", step="give patches that change it")
    key = _key(base, delta)

    def maker(staging: Path) -> None:
        with progress.phase(f"patched snapshot of {base.version}", "patched-snapshot"):
            linked(base.path, staging)
            for path, content in delta.items():
                _write(staging / path, content)
            kernel_version(staging)

    made, _ = cache.produce("source", key, maker, what=f"patched snapshot of {base.version}", say=progress.say)
    names = tuple(patch.name for patch in patches)
    return replace(base, path=made, tree=key, patches=names, version=kernel_version(made))


def _inside(path: str) -> bool:
    """Whether a path stays within the tree; git apply refuses the others."""
    parts = PurePosixPath(path).parts
    return not path.startswith("/") and ".." not in parts and ".git" not in parts


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink() or source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def _content(path: Path) -> Content:
    if path.is_symlink():
        return path.lstat().st_mode, os.fsencode(os.readlink(path))
    return (path.stat().st_mode, path.read_bytes()) if path.is_file() else None


def _key(base: Tree, delta: dict[str, Content]) -> str:
    told = [
        (path, None if content is None else (content[0] & 0o111, hashlib.sha256(content[1]).hexdigest()))
        for path, content in sorted(delta.items())
    ]
    return hashlib.sha256(json.dumps([base.tree, told]).encode()).hexdigest()[:40]


def _write(path: Path, content: Content) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()  # never through a hard link
    if content is None:
        return
    mode, data = content
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode & 0o170000 == 0o120000:
        path.symlink_to(os.fsdecode(data))
        return
    path.write_bytes(data)
    path.chmod(mode & 0o777)


# --- applying -----------------------------------------------------------------------------


def _git_apply(patch: Patch, folder: Path, *options: str) -> tuple[int, str]:
    """git apply in a plain folder, whatever repository may lie around it; its status and what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    diff = folder.parent / "diff"
    diff.write_bytes(patch.data)
    argv = ["git", "apply", "--verbose", "--whitespace=nowarn", *options, "--", str(diff)]
    env = environment(GIT_CEILING_DIRECTORIES=str(folder.parent))
    done = run(argv, what=f"applying {patch.name}", cwd=folder, env=env, check=False)
    return done.status, done.stderr


def _apply(patch: Patch, folder: Path, base: Tree, which: str, progress: Progress) -> None:
    status, said = _git_apply(patch, folder)
    if status == 0:
        moved = _OFFSET.findall(said)
        if moved:
            hunks = ", ".join(f"hunk {number} at line {line} ({offset})" for number, line, offset in moved[:4])
            progress.say(f"{which}, {patch.name}: applied; {hunks}{' and more' if moved[4:] else ''}")
        return
    lines = "\n".join(line for line in said.splitlines() if line.startswith("error:"))
    if not lines:
        raise HarnessError(f"git apply failed with status {status}", step="see below", detail=said[-2000:])
    where = "; ".join(dict.fromkeys(_where(patch, lines, base))) or lines.splitlines()[0].removeprefix("error: ")
    if _git_apply(patch, folder, "--reverse", "--check")[0] == 0:
        step = f"it is already in {base.origin}: take a tree without it, or patch -R for the base"
    else:
        step = "rebase it onto this tree; --tree or --kernel names another one"
    what = f"{which}, {patch.name!r}, does not apply to {base.origin} ({base.version})"
    raise DoesNotApply(f"{what}: {where}", step=step, detail=lines)


def _where(patch: Patch, said: str, base: Tree) -> Iterator[str]:
    """What of git's errors a person needs: file and hunk, or where the file went."""
    for path, line in _FAILED.findall(said):
        hunks = [hunk for change in patch.changes if path in (change.old, change.new) for hunk in change.hunks]
        for number, hunk in enumerate(hunks, 1):
            if hunk.old == int(line):
                section = f" ({hunk.section})" if hunk.section else ""
                yield f"{path}, hunk {number} of {len(hunks)} at line {line}{section}"
                break
        else:
            yield f"{path}, line {line}"
    for path in _ABSENT.findall(said):
        others = sorted(_namesakes(base.path, path))
        yield f"{path}: no such file" + (f" (there is {', '.join(others[:3])})" if others else "")
    for path in _EXISTS.findall(said):
        yield f"{path} is there already"


def _namesakes(tree: Path, path: str) -> Iterator[str]:
    """Files of the same name near `path`: where a file that was moved may lie now."""
    wanted = PurePosixPath(path)
    top = tree / wanted.parts[0] / (wanted.parts[1] if len(wanted.parts) > 2 else "")
    for folder, _, files in os.walk(top):
        if wanted.name in files:
            yield str((Path(folder) / wanted.name).relative_to(tree))
