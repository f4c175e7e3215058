# SPDX-License-Identifier: GPL-2.0-only
"""What a build may take from ccache, and store there: objects of trees that are as trustworthy as its own.

Code that can write into a ccache decides what later builds are made of. So there is one folder for each domain of
trust: Debian's signed source, each folder or repository of the user's, each content of patches. A build writes into
its own one and reads that of the tree that it was made from, and Debian's, which are read-only in its sandbox. To be
read by others, a folder has the layout of ccache's remote storage; ccache's own, with its configuration, is empty at
first and private to a build.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.host.cache import Cache
from harness.host.sandbox import Bind
from harness.source.tree import Tree

FOLDERS = "/ccache"
"""Their folder in the sandbox: ``own``, and ``0``, ``1`` for those that are only read."""
COMPILERS = "/compilers"
"""The sandbox's folder of the scripts that precede ccache in the path; read-only, with no other file."""
MOST_BYTES = 5 << 30
"""Bytes of all domains together; the least recently used files are removed first."""
DEBIAN = "debian"

SCRIPT = f"""#!/bin/sh
# ccache in depend mode does not see that an assembler file takes in another file as it is (.incbin): two kernels whose
# compressed images are of one size would get the same piggy.o, and so boot the same kernel. Such files are compiled.
PATH=${{PATH#*{COMPILERS}:}}
for file do
	case $file in *.S) grep -qs '\\.incbin' "$file" && export CCACHE_DISABLE=1 ;; esac
done
exec "${{0##*/}}" "$@"
"""


@dataclass(frozen=True)
class Ccache:
    """The ccache of one build, as host paths: the scripts, its own domain's folder, and those that it only reads."""

    compilers: Path
    own: Path
    below: tuple[Path, ...] = ()

    @property
    def binds(self) -> tuple[Bind, ...]:
        """The folders to bind into its sandbox."""
        read = (Bind(folder, f"{FOLDERS}/{number}") for number, folder in enumerate(self.below))
        return (Bind(self.compilers, COMPILERS), Bind(self.own, f"{FOLDERS}/own", writable=True), *read)

    @property
    def settings(self) -> dict[str, str]:
        """ccache's settings, all in the environment: a file in a folder that a build can write to is not trusted."""
        read = [f"file:{FOLDERS}/{number}|read-only" for number in range(len(self.below))]
        return {
            "CCACHE_DIR": "/tmp/ccache",
            "CCACHE_CONFIGPATH": "/dev/null",
            "CCACHE_REMOTE_ONLY": "1",
            "CCACHE_REMOTE_STORAGE": " ".join([f"file:{FOLDERS}/own", *read]),
            # Dependencies as kbuild has the compiler write them, instead of preprocessing each file a second time.
            "CCACHE_DEPEND": "1",
            # Not its mtime, which differs between two equal roots: Debian's version string has the package's revision.
            "CCACHE_COMPILERCHECK": "%compiler% --version",
        }


def of(tree: Tree, compilers: Iterable[str], cache: Cache) -> Ccache:
    """The ccache of a build of `tree`; `compilers` are the names by which they are called. Raises OSError."""
    top = cache.folder("ccache")
    own, below = domains(tree, cache)
    trim(top, MOST_BYTES)
    for name in (own, *below):
        (top / name).mkdir(exist_ok=True)
    return Ccache(_scripts(compilers, cache), top / own, tuple(top / name for name in below))


def domains(tree: Tree, cache: Cache) -> tuple[str, tuple[str, ...]]:
    """The domain of trust of a tree, and the others whose objects it may use, nearest first.

    A download from Debian is recognised by the record of the download, not by anything in the tree.
    """
    if not tree.patches and (cache.folder("debian") / "held" / f"{tree.tree}.json").is_file():
        return DEBIAN, ()
    origin = _name("origin", tree.origin)
    if not tree.patches:
        return origin, (DEBIAN,)
    return _name("patched", tree.origin, tree.tree), (origin, DEBIAN)


def _name(kind: str, *parts: str) -> str:
    return f"{kind}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _scripts(compilers: Iterable[str], cache: Cache) -> Path:
    names = sorted(set(compilers))

    def maker(folder: Path) -> None:
        for name in names:
            (folder / name).write_text(SCRIPT)
            (folder / name).chmod(0o755)

    name = _name("ccache", SCRIPT, *names)
    return cache.produce("compilers", name, maker, what="scripts before ccache", say=lambda line: None)[0]


def trim(top: Path, most: int) -> None:
    """Remove the least recently used files until at most `most` bytes are left; links are not followed."""
    found = []
    for where, _, files, folder in os.fwalk(top, follow_symlinks=False):
        for name in files:
            try:
                state = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue  # a build that is running there was quicker
            found.append((max(state.st_atime, state.st_mtime), state.st_blocks * 512, where, name))
    total = sum(size for _, size, _, _ in found)
    for _, size, where, name in sorted(found):
        if total <= most:
            return
        _remove(Path(where), name)
        total -= size


def _remove(folder: Path, name: str) -> None:
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # no longer a folder: a build is running there
    try:
        os.unlink(name, dir_fd=place)
    except FileNotFoundError:
        return
    finally:
        os.close(place)
