# SPDX-License-Identifier: GPL-2.0-only
"""Owns snapshots of the user's own tree: what lies in it now, taken without writing a byte into it.

Git does the work with a private git directory in the cache: its own index, object folder, configuration
and attributes; the user's objects are only borrowed. So no hook, filter or setting of the user's runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.host.cache import Cache
from harness.host.process import Done, run
from harness.host.progress import Progress
from harness.records import HarnessError, UsageError
from harness.source.plain import wanted
from harness.source.tree import Tree, kernel_version

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
USER_SETTINGS = ("core.fileMode", "core.symlinks", "core.ignoreCase", "core.trustctime", "core.checkStat")
"""What tells how the user's file system maps to git's view of it."""

PLAIN_BYTES = "* -text -filter -ident -eol -working-tree-encoding -export-ignore -export-subst\n"
"""Private attributes, which win over the tree's: content is taken as it lies on disk."""

TRIES = 3


def snapshot(tree_dir: Path, cache: Cache, progress: Progress) -> Tree:
    """A private copy of what lies in `tree_dir` now, uncommitted and untracked (not ignored) files included.

    A git tree (also a linked worktree or a shallow clone) or a plain folder. Raises UsageError when it
    is no kernel tree or cannot be read, HarnessError when it keeps changing while it is read.
    """
    folder = tree_dir.expanduser().resolve()
    version = kernel_version(folder)
    user = _user_repository(folder)
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = _Private(cache.folder("git") / name, folder, user)
    with cache.locked("git", name, what=f"reading {folder}", say=progress.say):
        private.prepare()
        with progress.phase(f"reading {folder}", f"read {folder}"):
            tree = private.stable_tree()

        def maker(staging: Path) -> None:
            with progress.phase(f"snapshot of {version}", "snapshot") as phase:
                phase.total(private.count(), "files")
                private.export(staging)
                kernel_version(staging)  # what would not pass as a tree must not enter the cache
                phase.step(phase.of)

        path, _ = cache.produce("source", tree, maker, what=f"snapshot of {folder}", say=progress.say)
    dirty = user is not None and tree != user.head_tree
    return Tree(path, tree, user.commit if user else "", dirty, str(folder), kernel_version(path))


@dataclass(frozen=True)
class _User:
    """The user's repository as far as it is read; before the first commit there is no `commit`."""

    index: Path
    objects: Path
    commit: str
    head_tree: str
    format: str
    excludes: tuple[Path, ...]
    settings: tuple[tuple[str, str], ...]


def _environment(**more: str) -> dict[str, str]:
    """An environment in which git reads no configuration of user or system and takes no optional lock."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **clean,
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        # Only for our reading: a tree of another user's, as under sudo, is no reason to refuse.
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_CONFIG_KEY_1": "core.fsmonitor",
        "GIT_CONFIG_VALUE_1": "false",
        **more,
    }


def _user_repository(folder: Path) -> _User | None:
    """The repository whose top folder is `folder`; None for a plain folder, also one inside a repository."""
    if shutil.which("git") is None:
        raise HarnessError("git: no such command", step="apt-get install git")

    def ask(*argv: str, env: Mapping[str, str] | None = None) -> str:
        command = ["git", "-C", str(folder), *argv]
        done = run(command, what=f"reading {folder}", env=env or _environment(), check=False)
        return done.stdout.strip("\n") if done.status == 0 else ""

    top = ask("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != folder:
        if (folder / ".git").exists():
            raise UsageError(
                f"git cannot read the repository of {folder}",
                step=f"see 'git -C {folder} status', or remove its .git for a plain folder",
            )
        return None

    def inside(name: str) -> Path:
        return folder / ask("rev-parse", "--git-path", name)

    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ignore = ask("config", "--type=path", "core.excludesFile", env={**own, "GIT_OPTIONAL_LOCKS": "0"})
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "git" / "ignore"
    return _User(
        index=inside("index"),
        objects=inside("objects").resolve(),
        commit=ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}"),
        head_tree=ask("rev-parse", "--verify", "--quiet", "HEAD^{tree}"),
        format=ask("rev-parse", "--show-object-format") or "sha1",
        excludes=(Path(ignore) if ignore else xdg, inside("info/exclude")),
        settings=tuple((name, value) for name in USER_SETTINGS if (value := ask("config", name))),
    )


class _Private:
    """Our git directory for one of the user's folders. Its lock is the caller's."""

    def __init__(self, place: Path, folder: Path, user: _User | None) -> None:
        self.place = place
        self.folder = folder
        self.user = user
        self.env = _environment(
            GIT_DIR=str(place), GIT_WORK_TREE=str(folder), GIT_INDEX_FILE=str(place / "index")
        )

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
        return run(["git", *argv], what=what, cwd=self.folder, env=env, input=input, check=check)

    def prepare(self) -> None:
        """Makes the git directory fit for one reading; what a killed run left there goes first."""
        form = self.user.format if self.user else "sha1"
        marker = self.place / "kharness-format"
        if not marker.exists() or marker.read_text() != form:
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir(parents=True)
            bare = ["git", "init", "-q", "--bare", "--template=", f"--object-format={form}", str(self.place)]
            run(bare, what="making a private git directory", env=_environment())
            marker.write_text(form)
        for leftover in (*self.place.glob("*.lock"), *self.place.glob("objects/pack/tmp_*")):
            leftover.unlink()
        settings = {**SETTINGS, **dict(self.user.settings if self.user else ())}
        lines = [
            f"[{name.split('.')[0]}]\n\t{name.split('.')[1]} = {value}\n" for name, value in settings.items()
        ]
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

        The copy keeps the index's mtime, by which git tells entries whose stat data cannot be trusted.
        """
        ours = self.place / "index"
        ours.unlink(missing_ok=True)
        if not users.is_file():
            return
        shutil.copy2(users, ours)
        ours.chmod(0o600)
        listed = self.git("ls-files", "-v", check=False)
        # Lower case: assume-unchanged; S: skip-worktree. Reading all files anew costs seconds, not truth.
        hidden = any(line[:1].islower() or line[:1] == "S" for line in listed.stdout.splitlines())
        if listed.status != 0 or hidden:
            ours.unlink(missing_ok=True)

    def stable_tree(self) -> str:
        """The content hash, once two readings in a row agree.

        A reading is consistent in itself, for the export comes from what was hashed; the second one shows
        whether somebody was writing meanwhile.
        """
        before = self._read()
        for _ in range(TRIES):
            after = self._read()
            if after == before:
                return after
            before = after
        raise HarnessError(
            f"{self.folder} keeps changing while it is read", step="run again when it is quiet"
        )

    def _read(self) -> str:
        if self.user:
            done = self.git("add", "--all", "--", ".", check=False)
        else:
            done = self._add_plain()
        if done.status != 0:
            said = next(
                (line for line in done.stderr.splitlines() if line.startswith(("error:", "fatal:"))), ""
            )
            raise UsageError(
                f"{self.folder} cannot be read whole: {said.partition(': ')[2] or 'git add failed'}",
                step="make the file readable, or remove it",
                detail=done.stderr,
            )
        # The user's objects are not lent to git while it writes: it would touch (utime) those it meets again.
        return self.git("write-tree", "--missing-ok").stdout.strip()

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

    def count(self) -> int:
        """How many files the snapshot has."""
        return self.git("ls-files", "-z").stdout.count("\0")

    def export(self, staging: Path) -> None:
        """Writes what was hashed into `staging`."""
        lent = {}
        if self.user:
            escaped = str(self.user.objects).replace("\\", "\\\\").replace('"', '\\"')
            lent["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = f'"{escaped}"'
        self.git("checkout-index", "--all", "--force", f"--prefix={staging}/", more=lent)
