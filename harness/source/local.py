# SPDX-License-Identifier: GPL-2.0-only
"""Snapshots of the user's own tree: its present content, taken without writing a byte into it.

Git does the work with a private git directory in the cache: its own index, object folder, configuration
and attributes; the user's objects are only borrowed. So no hook, filter or setting of the user's runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.core.errors import HarnessError, KharnessError, UsageError
from harness.host import below
from harness.host.cache import Cache, write_atomically
from harness.host.process import Done, run
from harness.host.progress import Progress
from harness.host.removal import remove
from harness.source import repository
from harness.source.plain import blocking, products, wanted
from harness.source.repository import User, environment
from harness.source.tree import Tree, kernel_version, linked, unfit

SETTINGS: Mapping[str, str] = {
    "core.bare": "false",
    "core.autocrlf": "false",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.fsync": "none",  # a lost snapshot is made again
    "core.looseCompression": "1",
    "core.compression": "1",
    "core.bigFileThreshold": "1",  # all new blobs into one pack, not 100,000 loose files
    "gc.auto": "0",
    "maintenance.auto": "false",
    "index.threads": "true",
    "advice.addEmbeddedRepo": "false",
}

PLAIN_BYTES = "* -text -filter -ident -eol -working-tree-encoding -export-ignore -export-subst\n"
"""Private attributes, which win over the tree's: content is taken as it is on disk."""

FEW = 3000
"""Files in which two snapshots may differ for one to be made of links to the other."""

TAKEN = "kharness-taken"
KEPT_TAKEN = 20

TRIES = 3
READ_SECONDS = 1800.0
"""For one call of git on a tree; to read one of 5 GB from a slow disk takes a few minutes."""

_DAMAGED = re.compile(
    r"index file (?:smaller|corrupt|\S+ is too small)|bad (?:signature|index|object|config|tree)|corrupt|missing blob"
    r"|unable to read (?:sha1|tree|[0-9a-f]{40})|failed to read object|(?:not a valid|invalid) object|packfile"
    r"|not a git repository|loose object|object file|premature end|garbage|lacks objects of"
)
_MISSING = re.compile(r"unable to read|missing blob|could not fetch|not a valid object|bad object|invalid object")


def snapshot(tree_dir: Path, cache: Cache, progress: Progress, revision: str = "") -> Tree:
    """A private copy of the present content of `tree_dir`, uncommitted and untracked (not ignored) files included.

    A git tree (also a linked worktree, a shallow or a partial clone), a bare repository (its HEAD) or a plain
    folder; with `revision` what that commit holds instead. Raises UsageError when it is no kernel tree, not whole or
    cannot be read, or has no such revision, HarnessError when it keeps changing while it is read.
    """
    folder = tree_dir.expanduser().resolve()
    user = repository.of_bare(folder)
    committed = user is not None or bool(revision)
    if user is None:
        if not revision:
            kernel_version(folder)
        user = repository.of_folder(folder)
    if revision:
        user = repository.at(user, folder, revision)
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = _Private(cache.folder("git") / name, folder, user)
    with cache.locked("git", name, what=f"reading {folder}", say=progress.say):
        try:
            tree, path = _taken(private, committed, cache, progress)
        except (UsageError, HarnessError) as error:
            if not private.damaged(error):
                raise
            progress.say(f"git finds {private.place} damaged, or {folder} not whole: reading it again")
            remove(private.place)
            tree, path = _taken(private, committed, cache, progress)
        private.remember(tree)
        for name in private.foreign:
            progress.say(f"{folder / name} is a repository of its own: no part of what is tested")
    dirty = user is not None and tree != user.head_tree
    return Tree(path, tree, user.commit if user else "", dirty, str(folder), kernel_version(path))


def _taken(private: _Private, committed: bool, cache: Cache, progress: Progress) -> tuple[str, Path]:
    """The content hash of what a folder holds, and the snapshot of it. The caller has the folder's lock."""
    folder = private.folder
    private.prepare()
    with progress.phase(f"reading {folder}", f"read {folder}"):
        tree = private.head() if committed else private.stable_tree()

    def maker(staging: Path) -> None:
        with progress.phase(f"snapshot of {folder.name}", "snapshot") as phase:
            phase.total(len(private.names()), "files")
            private.export(staging, _near(private, tree, cache))
            kernel_version(staging, folder)  # what would not pass as a tree must not enter the cache
            phase.step(phase.of)

    path, _ = cache.produce("source", tree, maker, what=f"snapshot of {folder}", say=progress.say)
    return tree, path


def _near(private: _Private, tree: str, cache: Cache) -> tuple[Path, tuple[str, ...]] | None:
    """A snapshot of the same folder in the cache that differs in few files from `tree`, and these; None without one."""
    for other in private.remembered():
        path = cache.get("source", other) if other != tree else None
        if path is None:
            continue
        files = private.differing(other, tree)
        if files is not None and len(files) <= FEW:
            return path, files
        cache.release("source", other)
    return None


class _Private:
    """Our git directory for one of the user's folders. Its lock is the caller's."""

    def __init__(self, place: Path, folder: Path, user: User | None) -> None:
        self.place = place
        self.folder = folder
        self.user = user
        self.foreign: tuple[str, ...] = ()
        """Repositories within the tree, relative to it."""
        self._submodules: dict[str, str] = {}
        """Those of them that are the user's submodules, with their commits in the index."""
        self.kept = False
        """Whether the folder was there before this reading."""
        self.env = environment(GIT_DIR=str(place), GIT_WORK_TREE=str(folder), GIT_INDEX_FILE=str(place / "index"))

    def git(
        self,
        *argv: str,
        input: str | None = None,
        index: str = "",
        check: bool = True,
        more: Mapping[str, str] | None = None,
    ) -> Done:
        env = {**self.env, "GIT_INDEX_FILE": index or self.env["GIT_INDEX_FILE"], **(more or {})}
        what = f"git {argv[0]} of {self.folder}"
        return run(["git", *argv], what=what, cwd=self.folder, env=env, input=input, check=check, deadline=READ_SECONDS)

    def damaged(self, error: KharnessError) -> bool:
        """Whether git's error may come from our own folder, which is never synced to disk."""
        return self.kept and _DAMAGED.search(f"{error.what}\n{error.detail}") is not None

    def prepare(self) -> None:
        """Prepare the git directory for one reading; first remove what a killed run left there."""
        form = self.user.format if self.user else "sha1"
        marker = self.place / "kharness-format"
        self.kept = marker.exists() and marker.read_text(errors="replace") == form
        if not self.kept:
            remove(self.place)
            self.place.mkdir(parents=True)
            bare = ["git", "init", "-q", "--bare", "--template=", f"--object-format={form}", str(self.place)]
            run(bare, what="making a private git directory", env=environment())
            marker.write_text(form)
        for leftover in (*self.place.glob("*.lock"), *self.place.glob("objects/pack/tmp_*")):
            leftover.unlink()
        settings = {**SETTINGS, **dict(self.user.settings if self.user else ())}
        lines = [f"[{name.split('.')[0]}]\n\t{name.split('.')[1]} = {value}\n" for name, value in settings.items()]
        head = f"[core]\n\trepositoryformatversion = {int(form != 'sha1')}\n"
        extension = f"[extensions]\n\tobjectFormat = {form}\n" if form != "sha1" else ""
        (self.place / "config").write_text(head + extension + "".join(lines))
        info = self.place / "info"
        info.mkdir(exist_ok=True)
        (info / "attributes").write_text(PLAIN_BYTES)
        excludes = self.user.excludes if self.user else ()
        (info / "exclude").write_bytes(b"\n".join(path.read_bytes() for path in excludes if path.is_file()))
        if self.user:
            self._seed(self.user.index)

    def _seed(self, users: Path) -> None:
        """Starts from a copy of the user's index, for its stat cache, unless it hides edits from git.

        The copy keeps the index's mtime, by which git recognises entries whose stat data cannot be trusted.
        """
        ours = self.place / "index"
        ours.unlink(missing_ok=True)
        if not users.is_file():
            return
        shutil.copy2(users, ours)
        ours.chmod(0o600)
        listed = self.git(*self._sparse(), "ls-files", "--sparse", "-v", "--stage", "-z", check=False)
        lines = listed.stdout.split("\0")
        self._submodules = _links(line[2:] for line in lines)
        # Lower case: assume-unchanged; S: skip-worktree. Then all files are read again, which costs seconds.
        skipped = [line.partition("\t")[2] for line in lines if line[:2] in ("S ", "s ")]
        absent = [name for name in skipped if not os.path.lexists(self.folder / name)]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise UsageError(
                f"{self.folder} is a sparse checkout, without {absent[0]}{more}",
                step=f"'git sparse-checkout disable' in {self.folder}",
            )
        hidden = any(line[:1].islower() or line[:1] == "S" for line in lines)
        if listed.status != 0 or hidden:
            ours.unlink(missing_ok=True)

    def _sparse(self) -> list[str]:
        """Options by which git takes a sparse index as it is: expanding it would touch objects of the user's."""
        patterns = self.place / "info" / "sparse-checkout"
        patterns.unlink(missing_ok=True)
        if self.user is None or not self.user.sparse.is_file():
            return []
        shutil.copy(self.user.sparse, patterns)
        return ["-c", "core.sparseCheckout=true", "-c", "core.sparseCheckoutCone=true", "-c", "index.sparse=true"]

    def stable_tree(self) -> str:
        """The content hash, once two readings in a row agree.

        A reading is consistent in itself, for the export comes from what was hashed; the second one shows
        whether a process was writing meanwhile.
        """
        if name := blocking(self.folder):
            raise UsageError(f"{self.folder / name} is no file: git would wait for it", step="remove it")
        before = self._read()
        for _ in range(TRIES):
            after = self._read()
            if after == before:
                return after
            before = after
        raise HarnessError(f"{self.folder} keeps changing while it is read", step="run again when nothing writes to it")

    def _read(self) -> str:
        if self.user:
            self._drop(self._submodules)  # git add would run git in each, with its own filters
            done = self.git("add", "--all", "--", ".", check=False)
        else:
            done = self._add_plain()
        if done.status != 0:
            said = next((line for line in done.stderr.splitlines() if line.startswith(("error:", "fatal:"))), "")
            raise UsageError(
                f"{self.folder} cannot be read whole: {said.partition(': ')[2] or 'git add failed'}",
                step="make the file readable, or remove it",
                detail=done.stderr,
            )
        if self.user:
            self._leave_out_foreign()
        # Git does not see the user's objects while it writes: it would touch (utime) those that it has to write again.
        return self.git("write-tree", "--missing-ok").stdout.strip()

    def head(self) -> str:
        """The content hash of HEAD, which the index then holds."""
        assert self.user is not None
        done = self.git("read-tree", self.user.head_tree, check=False, more=self._lent())
        if done.status:
            raise self._lacking(done)
        return self.user.head_tree

    def _leave_out_foreign(self) -> None:
        """Takes repositories within the tree out of the index, unless they are the user's submodules.

        Those that are not checked out come back as they were in the user's index.
        """
        listed = self.git("ls-files", "--stage", "-z", check=False).stdout.split("\0")
        found = _links(listed)
        self._drop(path for path in found if path not in self._submodules)
        known = {line.partition("\t")[2] for line in listed} if self._submodules else set()
        back = {
            path: commit
            for path, commit in self._submodules.items()
            if path not in found
            and (self.folder / path).is_dir()
            and not (self.folder / path).is_symlink()
            and not any(name.startswith(f"{path}/") for name in known)  # it has become a folder like any other
        }
        if back:
            given = "".join(f"160000 {commit}\t{path}\0" for path, commit in back.items())
            self.git("update-index", "-z", "--index-info", input=given)
        self.foreign = tuple(sorted({*found, *back}))

    def _drop(self, paths: Iterable[str]) -> None:
        """Takes these out of the index."""
        if gone := "".join(f"{path}\0" for path in paths):
            self.git("update-index", "--force-remove", "-z", "--stdin", input=gone)

    def _lent(self) -> dict[str, str]:
        """An environment in which git also reads the user's objects."""
        return repository.lent(self.user.objects) if self.user else {}

    def _lacking(self, done: Done) -> UsageError:
        wanted = self.user.commit[:12] if self.user else "its content"
        return UsageError(
            f"{self.folder} lacks objects of {wanted}: it may be a partial clone, and nothing is fetched for it",
            step=f"fetch them: git -C {self.folder} archive {wanted} >/dev/null, or clone it whole",
            detail=done.stderr[-2000:],
        )

    def _add_plain(self) -> Done:
        """Brings the index up to what :func:`harness.source.plain.wanted` names."""

        def output(*argv: str, index: str = "") -> str:
            return self.git(*argv, index=index, check=False).stdout

        paths = wanted(output, self.folder, self.place)
        known = set(output("ls-files", "-z").split("\0")) - {""}
        gone = "".join(f"{path}\0" for path in sorted(known.difference(paths)))
        if gone:
            self.git("update-index", "--force-remove", "-z", "--stdin", input=gone)
        given = "".join(f"{path}\0" for path in paths)
        return self.git("update-index", "--add", "--remove", "-z", "--stdin", input=given, check=False)

    def remembered(self) -> list[str]:
        """The trees that were taken from this folder, newest first."""
        file = self.place / TAKEN
        return re.findall(r"\b[0-9a-f]{40,64}\b", file.read_text(errors="replace")) if file.is_file() else []

    def remember(self, tree: str) -> None:
        """Notes a tree that was taken."""
        others = [other for other in self.remembered() if other != tree]
        write_atomically(self.place / TAKEN, "\n".join([tree, *others[: KEPT_TAKEN - 1]]) + "\n")

    def differing(self, one: str, other: str) -> tuple[str, ...] | None:
        """The paths that differ between two trees; None where git no longer has one of them, or a path is not UTF-8."""
        argv = ["diff-tree", "-r", "-z", "--name-only", "--no-renames", one, other]
        done = self.git(*argv, check=False, more=self._lent())
        if done.status or "\ufffd" in done.stdout:
            return None
        return tuple(name for name in done.stdout.split("\0") if name)

    def names(self) -> set[str]:
        """The files that the snapshot has. Raises UsageError for one that no snapshot can have."""
        found = set(self.git("ls-files", "-z").stdout.split("\0")) - {""}
        for name in found:
            if trouble := unfit(name):
                shown = ascii(name)[1:-1][:200]
                raise UsageError(f"{self.folder}: {shown} {trouble}", step="rename or remove it")
        return found

    def export(self, staging: Path, near: tuple[Path, tuple[str, ...]] | None = None) -> None:
        """Write what was hashed into `staging`, without the products of an in-tree build.

        With a snapshot that is `near`, and the files in which that differs, the rest are links to its files.
        """
        argv = ["checkout-index", "--force", f"--prefix={staging}/"]
        if near is None:
            done = self.git(*argv, "--all", check=False, more=self._lent())
        else:
            linked(near[0], staging)
            there = self.names()
            for name in sorted(near[1]):  # so that a link goes before the files of a folder that takes its place
                _unlink(staging, name)  # never written through a link
            names = "".join(f"{name}\0" for name in near[1] if name in there)
            done = self.git(*argv, "-z", "--stdin", input=names, check=False, more=self._lent())
        if done.status and _MISSING.search(done.stderr):
            raise self._lacking(done)
        if done.status:
            raise HarnessError(f"git cannot write the snapshot of {self.folder}", detail=done.stderr[-2000:])
        for product in products(staging):
            remove(product)


def _links(listed: Iterable[str]) -> dict[str, str]:
    """The entries of `ls-files --stage` that are repositories of their own, with their commits."""
    rows = (line.partition("\t") for line in listed if line.startswith("160000 "))
    return {path: fields.split()[1] for fields, _, path in rows}


def _unlink(top: Path, name: str) -> None:
    """Removes a file, and the folders that it leaves empty; a folder of its name goes with the last file in it."""
    found = below.inspect(top, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        below.unlink(top, name, prune=True)
    elif not any((top / name).iterdir()):
        (top / name).rmdir()  # a submodule, which is empty in a snapshot
