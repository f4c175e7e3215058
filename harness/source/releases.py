# SPDX-License-Identifier: GPL-2.0-only
"""Owns `kharness source import`: a git repository of releases, one commit each, from packages, tarballs and folders."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.host.cache import Cache
from harness.host.process import run
from harness.host.progress import Progress
from harness.host.toolchain import open_toolchain
from harness.records import UsageError
from harness.source import debian, local
from harness.source.local import PLAIN_BYTES
from harness.source.repository import environment
from harness.source.tree import kernel_version

ARCHIVES = re.compile(r".*\.(tar(\.(gz|xz|bz2|zst))?|tgz|txz)")
WHO = "kharness"
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:-rc(\d+))?(.*)")
_PACKAGE = re.compile(r"\d+\.\d+[A-Za-z0-9.+~-]*")


@dataclass(frozen=True)
class Release:
    """A kernel tree to be imported: `origin` is where it came from."""

    version: str
    path: Path
    origin: str

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
    UsageError before anything is written for what cannot be had, and for a release older than what is there.
    """
    with ExitStack() as stack:
        versions = [item for item in items if _is_version(item)]
        releases = [
            stack.enter_context(_local(item, cache, progress)) for item in items if item not in versions
        ]
        releases += _packages(versions, cache, progress, toolchain)
        releases.sort(key=lambda release: release.order)
        twice = next(
            (a for a, b in itertools.pairwise(releases) if a.version == b.version), None
        )
        if twice is not None:
            raise UsageError(f"two of these are {twice.version}", step="name one of them")
        return _Repository(into, progress).add(releases)


def _is_version(item: str) -> bool:
    if Path(item).expanduser().exists():
        return False
    if ARCHIVES.fullmatch(item) or "/" in item or not _PACKAGE.fullmatch(item):
        raise UsageError(
            f"{item}: no such file or folder, and no version",
            step="as 7.2.13, linux-7.2.9.tar.xz, or a folder",
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
    return [Release(tree.version, tree.path, tree.origin) for tree in trees]


@contextmanager
def _local(item: str, cache: Cache, progress: Progress) -> Iterator[Release]:
    """A folder or a tarball as a release, for as long as the block lasts."""
    path = Path(item).expanduser()
    if path.is_dir():
        tree = local.snapshot(path, cache, progress)
        yield Release(tree.version, tree.path, path.name)
        return
    with tempfile.TemporaryDirectory(prefix="kharness-") as folder:
        with progress.phase(f"unpacking {path.name}", "unpack source"):
            done = run(
                ["tar", "-xf", str(path.resolve()), "-C", folder, "--no-same-owner"],
                what=f"unpacking {path}",
                check=False,
            )
        if done.status:
            said = next(iter(done.stderr.splitlines()), f"status {done.status}")
            raise UsageError(
                f"{path} is no tarball that tar can read: {said}", step="give linux-X.Y.Z.tar.xz"
            )
        top = Path(folder)
        inside = list(top.iterdir())
        if not (top / "Makefile").exists() and len(inside) == 1 and inside[0].is_dir():
            top = inside[0]
        yield Release(kernel_version(top, path), top, path.name)


class _Repository:
    """The repository of releases: bare, with a branch `main` and a tag for each of them."""

    def __init__(self, place: Path, progress: Progress) -> None:
        self._place = place.expanduser()
        self._progress = progress

    def _git(self, *argv: str, tree: Path | None = None, when: str = "", check: bool = True) -> str:
        more = {
            "GIT_DIR": str(self._place.resolve()),
            "GIT_INDEX_FILE": str(self._place.resolve() / "kharness-index"),
        }
        if tree is not None:
            more["GIT_WORK_TREE"] = str(tree)
        for who in ("AUTHOR", "COMMITTER"):
            more |= {f"GIT_{who}_NAME": WHO, f"GIT_{who}_EMAIL": f"{WHO}@localhost", f"GIT_{who}_DATE": when}
        env = environment(**{name: value for name, value in more.items() if value})
        quiet = ["-c", "gc.auto=0", "-c", "core.autocrlf=false", "-c", "core.looseCompression=1"]
        quiet += ["-c", "core.bigFileThreshold=1m", "-c", "advice.addEmbeddedRepo=false"]
        what = f"git {argv[0]} in {self._place}"
        return run(["git", *quiet, *argv], what=what, cwd=tree, env=env, check=check).stdout.strip()

    def add(self, releases: Sequence[Release]) -> list[tuple[str, str]]:
        """Commits the releases, each on the one before it."""
        self._open()
        there = dict(
            line.split()
            for line in self._git(
                "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags"
            ).splitlines()
        )
        newest = max((tag.removeprefix("v") for tag in there), key=order, default="")
        for release in releases:
            if f"v{release.version}" not in there and newest and release.order < order(newest):
                raise UsageError(
                    f"{self._place} has {newest} already: {release.version} cannot come after it",
                    step="import all of them --into a new folder",
                )
        made = []
        for release in releases:
            commit = there.get(f"v{release.version}") or self._commit(release)
            made.append((release.version, commit))
        (self._place / "kharness-index").unlink(missing_ok=True)
        return made

    def _open(self) -> None:
        if self._place.exists() and not (self._place / "HEAD").is_file():
            if not self._place.is_dir() or any(self._place.iterdir()):
                raise UsageError(f"{self._place} is no bare repository", step="name a new folder with --into")
        if not (self._place / "HEAD").is_file():
            argv = ["git", "init", "-q", "--bare", "--template=", "-b", "main", str(self._place)]
            run(argv, what=f"making {self._place}", env=environment())
        (self._place / "info").mkdir(exist_ok=True)
        (self._place / "info/attributes").write_text(PLAIN_BYTES)

    def _commit(self, release: Release) -> str:
        with self._progress.phase(f"importing {release.version}", "import release"):
            self._git("read-tree", "--empty", tree=release.path)
            self._git("add", "--all", "--force", "--", ".", tree=release.path)
            tree = self._git("write-tree", tree=release.path)
            parent = self._git("rev-parse", "--verify", "--quiet", "refs/heads/main", check=False)
            when = f"{int((release.path / 'Makefile').stat().st_mtime)} +0000"
            message = f"Linux {release.version}\n\nImported from {release.origin}."
            on = ["-p", parent] if parent else []
            commit = self._git("commit-tree", tree, *on, "-m", message, when=when)
            self._git("update-ref", "refs/heads/main", commit)
            self._git("tag", f"v{release.version}", commit)
        return commit
