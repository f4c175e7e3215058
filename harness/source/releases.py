# SPDX-License-Identifier: GPL-2.0-only
"""`kharness source import`: a git repository of releases, one commit each, from packages, tarballs and folders."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.host.cache import Cache, remove, write_atomically
from harness.host.files import is_folder
from harness.host.process import run
from harness.host.progress import Progress
from harness.host.scratch import private_folder
from harness.host.toolchain import open_toolchain
from harness.source import debian, local, repository
from harness.source.local import PLAIN_BYTES
from harness.source.repository import environment
from harness.source.tree import kernel_version

ARCHIVES = re.compile(r".*\.(tar(\.(gz|xz|bz2|zst))?|tgz|txz)")
WHO = "kharness"
PARTS = ("info", "info/attributes", "objects", "objects/pack", "refs", "refs/heads", "refs/tags", "HEAD", "config")
"""The paths of a repository of releases that are written to, or lead to what is."""

INDEX = "kharness-index"
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:-rc(\d+))?(.*)")
_PACKAGE = re.compile(r"\d+\.\d+[A-Za-z0-9.+~-]*")


@dataclass(frozen=True)
class Release:
    """A kernel tree to be imported: `origin` is where it came from, `when` its date, in seconds since the epoch.

    The date is the content's own, so that the same import gives the same commits anywhere. With `package`, origin and
    version identify the content.
    """

    version: str
    path: Path
    origin: str
    when: int
    package: bool = False

    @property
    def order(self) -> tuple[int, int, int, int, int, str]:
        """Releases sort by this: candidates before what they are candidates of."""
        return order(self.version)


def order(version: str) -> tuple[int, int, int, int, int, str]:
    """Where a version (``7.2.13``, ``7.3.0-rc2``) stands among others."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return 0, 0, 0, 0, 0, version
    major, minor, point, candidate, rest = found.groups()
    return int(major), int(minor), int(point or 0), candidate is None, int(candidate or 0), rest


def gather(
    items: Sequence[str], into: Path, cache: Cache, progress: Progress, toolchain: str = "root"
) -> list[tuple[str, str]]:
    """Brings the releases that `items` name into the bare repository `into`, oldest first; (version, commit) of each.

    An item is a folder, a tarball, or a version that Debian ships. What is there already stays as it is. Raises
    UsageError, before anything is fetched, for a repository that is none of ours, and before any commit for what cannot
    be had, for a release older than what is there, and for one that is there with another content.
    """
    name = hashlib.sha256(os.fsencode(into.expanduser().resolve())).hexdigest()[:16]
    with ExitStack() as stack:
        stack.enter_context(cache.locked("releases", name, what=f"importing into {into}", say=progress.say))
        repository = _Repository(into, progress)
        repository.check()
        versions = [item for item in items if _is_version(item)]
        releases = [stack.enter_context(_local(item, cache, progress)) for item in items if item not in versions]
        releases += _packages(versions, cache, progress, toolchain)
        releases.sort(key=lambda release: release.order)
        twice = next((a for a, b in itertools.pairwise(releases) if a.version == b.version), None)
        if twice is not None:
            raise UsageError(f"two of these are {twice.version}", step="name one of them")
        return repository.add(releases)


def _is_version(item: str) -> bool:
    if Path(item).expanduser().exists():
        return False
    if ARCHIVES.fullmatch(item) or "/" in item or not _PACKAGE.fullmatch(item):
        raise UsageError(
            f"{item}: no such file or folder, and no version", step="as 7.2.13, linux-7.2.9.tar.xz, or a folder"
        )
    return True


def _packages(versions: Sequence[str], cache: Cache, progress: Progress, kind: str) -> list[Release]:
    """The releases that Debian ships. Raises UsageError naming all that it does not, and what it does."""
    if not versions:
        return []
    toolchain = open_toolchain(kind, "x86_64", cache, progress)
    lacking, there = debian.lacking(versions, toolchain, cache, progress)
    if lacking:
        raise UsageError(
            f"Debian has no kernel source {', '.join(lacking)} any more",
            step=f"there is: {', '.join(there) or 'none'}; for others give a tarball or a folder",
        )
    trees = [debian.fetch(version, toolchain, cache, progress) for version in versions]
    return [
        # Without a remark on the archive: the same package is the same commit.
        Release(tree.version, tree.path, tree.origin.partition(" (")[0], _modified(tree.path), package=True)
        for tree in trees
    ]


def _modified(folder: Path) -> int:
    """When a tree's Makefile was written, a date that tar and cp -a preserve."""
    return int((folder / "Makefile").stat().st_mtime)


@contextmanager
def _local(item: str, cache: Cache, progress: Progress) -> Iterator[Release]:
    """A folder or a tarball as a release, for as long as the block lasts."""
    path = Path(item).expanduser()
    if path.is_dir():
        tree = local.snapshot(path, cache, progress)
        # Not of the snapshot, whose files are as old as the cache.
        when = _committed(path, tree.commit) if tree.commit else _modified(path)
        yield Release(tree.version, tree.path, path.name, when)
        return
    with private_folder() as folder:
        with progress.phase(f"unpacking {path.name}", "unpack source"):
            done = run(
                ["tar", "-xf", str(path.resolve()), "-C", str(folder), "--no-same-owner"],
                what=f"unpacking {path}",
                check=False,
            )
        if done.status:
            said = next(iter(done.stderr.splitlines()), f"status {done.status}")
            raise UsageError(f"{path} is no tarball that tar can read: {said}", step="give linux-X.Y.Z.tar.xz")
        top = folder
        inside = list(top.iterdir())
        if not (top / "Makefile").exists() and len(inside) == 1 and is_folder(inside[0]):
            top = inside[0]
        yield Release(kernel_version(top, path), top, path.name, _modified(top))


def _committed(folder: Path, commit: str) -> int:
    """When a commit was made, which is the same in every clone."""
    user = repository.find(folder)
    if user is None:
        raise UsageError(f"{folder} is no git tree any more", step="import it again")
    what = f"the date of {commit[:12]} in {folder}"
    shown = repository.Objects(user).git("show", "-s", "--format=%ct", commit, what=what)
    if shown.status:
        raise HarnessError(f"git cannot find {what}", step="see 'git fsck' there", detail=shown.stderr[-2000:])
    return int(shown.stdout)


class _Repository:
    """The repository of releases: bare, with a branch `main` and a tag for each of them."""

    def __init__(self, place: Path, progress: Progress) -> None:
        self._place = place.expanduser().resolve()
        self._progress = progress

    def check(self) -> None:
        """Raise UsageError for a folder that is anything else, before anything is written to it."""
        step = "name a new folder with --into"
        for name in PARTS:  # what is written there would be written elsewhere
            if (self._place / name).is_symlink():
                raise UsageError(f"{self._place / name} is a symbolic link", step=step)
        if (self._place / "HEAD").is_file():
            if not self._ours():
                raise UsageError(f"{self._place} is a repository that 'source import' did not make", step=step)
        elif self._place.exists() and (not self._place.is_dir() or any(self._place.iterdir())):
            raise UsageError(f"{self._place} is no bare repository", step=step)

    def _ours(self) -> bool:
        """Whether 'source import' made it, or it is bare and empty."""
        attributes = self._place / "info/attributes"
        if attributes.is_file() and attributes.read_text(errors="replace") == PLAIN_BYTES:
            return True
        bare = self._git("config", "--bool", "core.bare", check=False) == "true"
        return bare and not self._git("for-each-ref", "--count=1", check=False)

    def _git(self, *argv: str, tree: Path | None = None, when: str = "", check: bool = True) -> str:
        more = {"GIT_DIR": str(self._place), "GIT_INDEX_FILE": str(self._place / INDEX)}
        if tree is not None:
            more["GIT_WORK_TREE"] = str(tree)
        for who in ("AUTHOR", "COMMITTER"):
            more |= {f"GIT_{who}_NAME": WHO, f"GIT_{who}_EMAIL": f"{WHO}@localhost", f"GIT_{who}_DATE": when}
        env = environment(**{name: value for name, value in more.items() if value})
        settings = ["-c", "gc.auto=0", "-c", "core.autocrlf=false", "-c", "core.looseCompression=1"]
        settings += ["-c", "core.bigFileThreshold=1m", "-c", "advice.addEmbeddedRepo=false"]
        what = f"git {argv[0]} in {self._place}"
        return run(["git", *settings, *argv], what=what, cwd=tree, env=env, check=check).stdout.strip()

    def add(self, releases: Sequence[Release]) -> list[tuple[str, str]]:
        """Commits the releases, each on the one before it."""
        self._open()
        there = self._there()
        newest = max(there, key=order, default="")
        for release in releases:
            if release.version not in there and newest and release.order < order(newest):
                raise UsageError(
                    f"{self._place} has {newest} already: {release.version} cannot come after it",
                    step="import all of them --into a new folder",
                )
        for release in releases:
            if release.version in there:
                self._compare(release, there[release.version])
        parent = there.get(newest, "")
        for release in releases:
            if release.version not in there:
                parent = there[release.version] = self._commit(release, parent)
        if parent:  # also after an import that was killed between the tag and the branch
            self._git("update-ref", "refs/heads/main", parent)
        (self._place / INDEX).unlink(missing_ok=True)
        return [(release.version, there[release.version]) for release in releases]

    def _there(self) -> dict[str, str]:
        """The commits of the releases that are there, by version."""
        listed = self._git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/tags/v*")
        tags = dict(line.split() for line in listed.splitlines())
        return {tag.removeprefix("v"): commit for tag, commit in tags.items()}

    def _open(self) -> None:
        """Makes the repository, whole or not at all, and removes what a killed import left in it."""
        if not (self._place / "HEAD").is_file():
            draft = self._place.with_name(f".{self._place.name}.new")
            if draft.exists():
                remove(draft)
            argv = ["git", "init", "-q", "--bare", "--template=", "-b", "main", str(draft)]
            run(argv, what=f"making {self._place}", env=environment())
            (draft / "info").mkdir(exist_ok=True)
            (draft / "info/attributes").write_text(PLAIN_BYTES)
            draft.rename(self._place)
        (self._place / "info").mkdir(exist_ok=True)
        write_atomically(self._place / "info/attributes", PLAIN_BYTES)
        for lock in (f"{INDEX}.lock", "refs/heads/main.lock", "refs/tags/v*.lock"):
            for left in self._place.glob(lock):
                left.unlink()

    def _compare(self, release: Release, commit: str) -> None:
        """Raises UsageError where a release is there with another content."""
        said = self._date_and_message(commit)[1]
        if release.package and said == _message(release):
            return
        with self._progress.phase(f"comparing {release.version}", "import release"):
            if self._tree(release) == self._git("rev-parse", f"{commit}^{{tree}}"):
                return
        raise UsageError(
            f"{self._place} has {release.version} already, with another content than {release.origin}: {said}",
            step="import it --into a new folder",
        )

    def _date_and_message(self, commit: str) -> tuple[int, str]:
        """The date of a commit, and its message without the subject, whatever log.* settings there are."""
        head, _, message = self._git("cat-file", "commit", commit).partition("\n\n")
        date = re.search(r"^committer .* (\d+) [+-]\d{4}$", head, re.MULTILINE)
        return int(date[1]) if date else 0, message.partition("\n\n")[2].strip()

    def _tree(self, release: Release) -> str:
        """The content hash of a release, whose files are in the repository afterwards."""
        self._git("read-tree", "--empty", tree=release.path)
        self._git("add", "--all", "--force", "--", ".", tree=release.path)
        return self._git("write-tree", tree=release.path)

    def _commit(self, release: Release, parent: str) -> str:
        with self._progress.phase(f"importing {release.version}", "import release"):
            tree = self._tree(release)
            message = f"Linux {release.version}\n\n{_message(release)}"
            on = ["-p", parent] if parent else []
            # Git walks histories by date: no commit may be older than its parent, but the sources of packages may be.
            before = self._date_and_message(parent)[0] if parent else 0
            when = f"{max(release.when, before)} +0000"
            commit = self._git("commit-tree", tree, *on, "-m", message, when=when)
            self._git("update-ref", f"refs/tags/v{release.version}", commit)
        return commit


def _message(release: Release) -> str:
    return f"Imported from {release.origin}."
