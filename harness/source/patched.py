# SPDX-License-Identifier: GPL-2.0-only
"""A tree with patches on it: a snapshot of its own; the tree it came from stays as it is."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.host import below, removal
from harness.host.cache import Cache
from harness.host.process import run
from harness.host.progress import Progress
from harness.host.scratch import private_folder
from harness.source.diffs import Patch, unquoted
from harness.source.repository import environment
from harness.source.tree import Tree, kernel_version, linked, unfit


class DoesNotApply(UsageError):
    """A patch whose context the tree does not have; `final`: whatever its context, because of its paths."""

    final = False


APPLY_SECONDS = 600.0
"""For git on one patch; a patch of 100,000 files takes 10 s."""

_FAILED = re.compile(r"^error: patch failed: (.+):(\d+)$", re.MULTILINE)
_ABSENT = re.compile(r"^error: (.+): (?:No such file or directory|does not exist in .*)$", re.MULTILINE)
_EXISTS = re.compile(r"^error: (.+): already exists in working directory$", re.MULTILINE)
_SOURCE = re.compile(rb"^(rename|copy) from (.+)$", re.MULTILINE)
_OFFSET = re.compile(r"^Hunk #(\d+) succeeded at (\d+) \((offset -?\d+ lines?)\)\.$", re.MULTILINE)

Content = tuple[str, bytes] | None
"""What git knows of a file: FILE, PROGRAM or LINK, and its bytes (of a link: its target); None where there is none."""

FILE, PROGRAM, LINK = "100644", "100755", "120000"


def apply(base: Tree, patches: Sequence[Patch], cache: Cache, progress: Progress) -> Tree:
    """`base` with `patches` applied in order, as a snapshot whose `tree` depends on its content alone.

    Strictly, as git am does: lines may have moved, context must match. Raises UsageError naming patch, file and hunk
    for what does not apply or whose path leads through a link, and for patches that change nothing.
    """
    with private_folder() as scratch:
        work = Work(base, scratch / "tree", progress)
        for number, patch in enumerate(patches, 1):
            work.name(patch, f"patch {number} of {len(patches)}")
        before = work.fill()
        for number, patch in enumerate(patches, 1):
            work.apply(patch, f"patch {number} of {len(patches)}")
        after = work.result()
    return finished(base, patches, before, after, cache, progress)


def finished(
    base: Tree,
    patches: Sequence[Patch],
    before: dict[str, Content],
    after: dict[str, Content],
    cache: Cache,
    progress: Progress,
) -> Tree:
    """The snapshot of `base` with `patches`, of the touched files as they were `before` and are `after`.

    Raises UsageError for patches that change nothing.
    """
    delta = {path: content for path, content in after.items() if content != before[path]}
    if not delta:
        raise UsageError(f"the patches leave {base.origin} as it is", step="give patches that change it")
    key = _key(base, delta)

    def maker(staging: Path) -> None:
        with progress.phase(f"patched snapshot of {base.version}", "patched-snapshot"):
            linked(base.path, staging)
            _carry(staging, delta)
            _compare(staging, after)
            kernel_version(staging)

    made, _ = cache.produce("source", key, maker, what=f"patched snapshot of {base.version}", say=progress.say)
    names = tuple(patch.name for patch in patches)
    return replace(base, path=made, tree=key, patches=names, version=kernel_version(made))


def _key(base: Tree, delta: dict[str, Content]) -> str:
    touched = [
        (path, None if content is None else (_mode_key(content[0]), hashlib.sha256(content[1]).hexdigest()))
        for path, content in sorted(delta.items())
    ]
    return hashlib.sha256(json.dumps([base.tree, touched]).encode()).hexdigest()[:40]


def _mode_key(mode: str) -> int | str:
    """A mode as part of the key: a link must differ from a program whose content is the link's target."""
    return mode if mode == LINK else 0o111 if mode == PROGRAM else 0


def _content(top: Path, path: str) -> Content:
    """A file or link below a folder; None where the path leads through a link, which then is the content.

    Raises UsageError for one that is too large, OSError.
    """
    try:
        found = below.inspect(top, path)
    except below.Unsafe:
        return None
    if found is None or stat.S_ISDIR(found.st_mode):
        return None
    if stat.S_ISLNK(found.st_mode):
        return LINK, below.read_link(top, path)
    try:
        return PROGRAM if found.st_mode & stat.S_IXUSR else FILE, below.read_bytes(top, path)
    except below.Unsafe as error:
        raise UsageError(f"{error.name}, which a patch touches, {error.why}", step="leave it out") from error


def _put(top: Path, path: str, content: Content) -> None:
    if content is None:
        below.unlink(top, path, prune=True)
    elif content[0] == LINK:
        below.link(top, path, content[1])
    else:
        below.write(top, path, content[1], 0o755 if content[0] == PROGRAM else 0o644)


def _carry(tree: Path, delta: dict[str, Content]) -> None:
    """Write what git made of the touched files into the tree, whose files are hard links shared with other trees."""
    for path in delta:
        below.unlink(tree, path, prune=True) if _there(tree, path) in (stat.S_IFREG, stat.S_IFLNK) else None
    for path, content in delta.items():
        if content is not None:
            if _there(tree, path) == stat.S_IFDIR:  # git removes an empty folder too where a file comes
                removal.remove(tree / path)
            _put(tree, path, content)


def _compare(tree: Path, after: dict[str, Content]) -> None:
    """Raises HarnessError where a touched file is not as git left it."""
    other = next((path for path, content in after.items() if _content(tree, path) != content), "")
    if other:
        raise HarnessError(f"{other!a} in the patched snapshot is not as git made it", step="report this")


def _there(top: Path, path: str) -> int:
    """The file type (stat.S_IF...) at `path`; 0 for nothing, also where the path leads through a link."""
    try:
        found = below.inspect(top, path)
    except below.Unsafe:
        return 0
    return stat.S_IFMT(found.st_mode) if found is not None else 0


def _above(path: str) -> Iterator[str]:
    """The folders that a path leads through, outermost first."""
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


class Work:
    """A folder of the files that patches touch, and of the links and files that are in their way, for git apply."""

    def __init__(self, base: Tree, folder: Path, progress: Progress) -> None:
        self.base = base
        self.folder = folder
        self.progress = progress
        self._named: dict[int, tuple[set[str], set[str]]] = {}
        """For each patch the paths that it names, and those of them that it removes."""
        self.paths: dict[str, None] = {}
        folder.mkdir()

    def name(self, patch: Patch, which: str) -> None:
        """Note the paths that a patch names: as git reads it, and as we do. Raises DoesNotApply for an odd one."""
        _, listed, _ = _git(patch, self.folder, "--numstat", "-z")
        moved = [(how, _decoded(name)) for how, name in _SOURCE.findall(patch.data)]
        named = {*patch.paths, *(name for _, name in moved)}
        named |= {entry.split("\t", 2)[-1] for entry in listed.split("\0") if entry}
        gone = {change.old for change in patch.changes if not change.new}
        gone |= {name for how, name in moved if how == b"rename"}
        self._named[id(patch)] = named, gone
        for path in sorted(filter(_inside, named)):
            if trouble := _unknown(path) or unfit(path):
                raise _never(f"{which}, {patch.name!r}: {ascii(path)[1:-1][:200]} {trouble}", _RENAME)
            self.paths[path] = None

    def fill(self) -> dict[str, Content]:
        """Copy the base's versions of the touched files; returns their contents."""
        obstacles: dict[str, bool] = {}
        for path in list(self.paths):
            for above in _above(path):
                if above not in obstacles:
                    obstacles[above] = _there(self.base.path, above) in (stat.S_IFLNK, stat.S_IFREG)
                if obstacles[above]:
                    self.paths[above] = None
                    break
        before = {path: _content(self.base.path, path) for path in sorted(self.paths)}
        for path, content in before.items():
            if content is not None:
                _put(self.folder, path, content)
        return before

    def apply(self, patch: Patch, which: str) -> None:
        """Apply one patch to the folder. Raises DoesNotApply."""
        why = next(self._obstructed(patch), "")
        if why:
            raise _never(f"{which}, {patch.name!r}: {why}", "take that out of the patch")
        _apply(patch, self.folder, self.base, which, self.progress)

    def _obstructed(self, patch: Patch) -> Iterator[str]:
        """What is in the way of a patch's paths that git cannot see, or would not say clearly: a link, file or folder.

        In the way is what the tree has by now; what the patch itself takes away is not, what it makes is.
        """
        named, gone = self._named[id(patch)]
        kinds: dict[str, int] = {}
        for path in sorted(filter(_inside, named)):
            for above in _above(path):
                if above not in kinds:
                    kinds[above] = _there(self.folder, above)
                kind = kinds[above]
                if kind in (stat.S_IFLNK, stat.S_IFREG) and (above not in gone or path in gone):
                    yield f"{path} leads through the {'link' if kind == stat.S_IFLNK else 'file'} {above}"
                elif above in named and above not in gone and path not in gone:
                    yield f"{path} leads through {above}, which the patch itself makes a link or file"
            if path not in gone and (left := self._left(path, gone)):
                yield f"{path} is a folder, with {left} in it"

    def _left(self, path: str, gone: set[str]) -> str:
        """A file that stays in the folder `path`; empty for none, and where it is no folder."""
        trees = [tree for tree in (self.folder, self.base.path) if _there(tree, path) == stat.S_IFDIR]
        for tree in trees:
            for name, found in below.walk(tree, path):
                if stat.S_ISDIR(found.st_mode) or name in gone:
                    continue
                if tree == self.folder or name not in self.paths:
                    return name
        return ""

    def result(self) -> dict[str, Content]:
        """The contents of the touched files now.

        Raises UsageError for a submodule, HarnessError where git touched a file that was not read out of the patches.
        """
        filled: set[str] = set()
        folders = []
        for name, found in below.walk(self.folder):
            if stat.S_ISDIR(found.st_mode):
                folders.append(name)
                continue
            filled.update(_above(name))
            if name not in self.paths:
                raise HarnessError(f"git changed {name!a}, which the patch was not seen to name", step="report this")
        empty = next((name for name in folders if name not in filled), "")
        if empty:
            raise UsageError(f"the patches make {empty} a submodule, which is no part of a tree", step="leave it out")
        return {path: _content(self.folder, path) for path in sorted(self.paths)}


_RENAME = "rename the file"


def _never(what: str, step: str) -> DoesNotApply:
    error = DoesNotApply(what, step=step)
    error.final = True
    return error


def _inside(path: str) -> bool:
    """Whether a path stays within the tree; git apply refuses the others."""
    parts = path.split("/")
    return bool(path) and not any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)


def _unknown(path: str) -> str:
    """Why git's name for a file is not known here, where it is not; git's output is read as UTF-8."""
    odd = "\ufffd" in path or any("\udc80" <= letter <= "\udcff" for letter in path)
    return "is a file name that is not UTF-8" if odd else ""


def _decoded(name: bytes) -> str:
    return unquoted(name.rstrip(b"\r").decode("utf-8", "surrogateescape"))


# --- applying -----------------------------------------------------------------------------


def _git(patch: Patch, folder: Path, *options: str) -> tuple[int, str, str]:
    """Run git apply in a plain folder, whatever repository is around it: status, output and stderr.

    Git refuses names that another file system takes for .git, too.
    """
    diff = folder.parent / "diff"
    diff.write_bytes(patch.data)
    safe = ["-c", "core.protectHFS=true", "-c", "core.protectNTFS=true"]
    argv = ["git", *safe, "apply", "--verbose", "--whitespace=nowarn", *options, "--", str(diff)]
    env = environment(GIT_CEILING_DIRECTORIES=str(folder.parent))
    done = run(argv, what=f"applying {patch.name}", cwd=folder, env=env, deadline=APPLY_SECONDS, check=False)
    return done.status, done.stdout, done.stderr


def _apply(patch: Patch, folder: Path, base: Tree, which: str, progress: Progress) -> None:
    status, _, said = _git(patch, folder)
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
    if _git(patch, folder, "--reverse", "--check")[0] == 0:
        step = f"it is already in {base.origin}: take a tree without it, or patch -R for the base"
    else:
        step = "rebase it onto this tree; --tree or --kernel names another one"
    what = f"{which}, {patch.name!r}, does not apply to {base.origin} ({base.version})"
    raise DoesNotApply(f"{what}: {where}", step=step, detail=lines)


def _where(patch: Patch, said: str, base: Tree) -> Iterator[str]:
    """The useful part of git's errors: file and hunk, or where the file went."""
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
    parts = path.split("/")
    for name, found in below.walk(tree, "/".join(parts[:2] if len(parts) > 2 else parts[:1]), skip=True):
        if name.rpartition("/")[2] == parts[-1] and not stat.S_ISDIR(found.st_mode):
            yield name
