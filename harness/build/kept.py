# SPDX-License-Identifier: GPL-2.0-only
"""Owns the build folders that stay from one kernel to the next: which there are, and what in one is no longer true.

make's own dependency tracking does the rest. It knows sources, headers and commands; what it does not know (programs of
the build, symlinks, objects that no makefile names any more, a header that now is found first) is seen to here.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from harness.build import mirror
from harness.build.inputs import DOCUMENTS, KERNELS_TOOLS
from harness.build.make import FORMAT, BuildRequest, key
from harness.build.mirror import Changes
from harness.build.steps import Steps
from harness.host.cache import Cache, remove, write_atomically
from harness.host.toolchain import Toolchain

KIND = "build"
"""Their kind in the cache, where they are entries as all others: listed, capped and pruned."""

MOST = 2
"""Folders that stay; each takes some 2.5 GB."""

LAYOUT = 1
"""Version of what lies in one, and of what is seen to here."""

_MAKEFILE = ("Makefile", "Kbuild")
_SCRIPT = re.compile(r".*\.(sh|pl|py|awk|mk|include)|(Makefile|Kbuild)[._-].*")
_GENERATED = (".c", ".h", ".S", ".s", ".inc")


@contextlib.contextmanager
def opened(
    request: BuildRequest, toolchain: Toolchain, config_sha256: str, cache: Cache, say: Callable[[str], None]
) -> Iterator[Kept]:
    """The folder for kernels of this recipe, toolchain and final .config, for us alone within the block.

    Another process that wants the same one waits and says so: the two would share the CPUs, and after the wait there is
    little left to build. The least recently used folders beyond MOST go first.
    """
    name = key(LAYOUT, FORMAT, request.recipe, request.make_vars, toolchain.id, config_sha256)
    with cache.workplace(KIND, name, what=f"{request.what} in the folder that is kept", say=say) as folder:
        cache.trim(KIND, MOST)
        yield Kept(folder, request)


class Kept:
    """One folder: ``src`` the source, ``build`` what make made of it, ``steps.json`` what it told, ``busy`` while it is
    worked on: who finds that file there starts from nothing."""

    def __init__(self, folder: Path, request: BuildRequest) -> None:
        self.folder = folder
        self.source, self.build = folder / "src", folder / "build"
        self.steps = Steps()
        self.why = ""
        """Why it starts from nothing; empty where it goes on from what lies there."""
        self._busy, self._told = folder / "busy", folder / "steps.json"
        self._tree, self._srcarch = request.tree.path, request.definition.kernel.srcarch
        self.request = replace(request, tree=replace(request.tree, path=self.source))
        """What is asked for, of the source here."""

    def begin(self, config: Path) -> None:
        """Makes ready for make. Until :meth:`end` the folder counts as broken. Raises OSError, HarnessError."""
        self.why = self._unusable()
        self._busy.touch()
        if self.why:
            for path in self.folder.iterdir():
                if path != self._busy:
                    remove(path) if path.is_dir() else path.unlink()
            mirror.fill(self._tree, self.source)
        else:
            changes = mirror.update(self._tree, self.source)
            self.why = _untracked(changes, self._srcarch) or self._generated(changes)
            if self.why:
                remove(self.build)
                self.steps = Steps()
            else:
                self._forget(changes)
        self.build.mkdir(exist_ok=True)
        # What a build from nothing does not find: the count of links goes into the image, extmod is only added to.
        (self.build / ".version").unlink(missing_ok=True)
        if (self.build / "extmod").exists():
            remove(self.build / "extmod")
        theirs = self.build / ".config"
        if not theirs.exists() or theirs.read_bytes() != config.read_bytes():
            shutil.copyfile(config, theirs)

    def end(self) -> None:
        """make came to its end, well or with an error of the tree: the folder can be gone on from."""
        write_atomically(self._told, json.dumps(self.steps.encode()))
        self._busy.unlink()

    def _unusable(self) -> str:
        if self._busy.exists():
            return "whoever worked on it last did not come to an end"
        if not self._told.exists():
            return "there was none"
        if self._told.stat().st_mtime > time.time():
            return "it was last written in the future"  # then what changes now is older than what was made of it
        try:
            self.steps = Steps.decode(json.loads(self._told.read_text()))
        except (OSError, ValueError, AttributeError, TypeError):
            return "its record is damaged"
        return ""

    def _generated(self, changes: Changes) -> str:
        """Where a file came that also lies in the build folder, generated by another tree: which would be found?"""
        path = next((path for path in sorted(changes.new) if (self.build / path).exists()), "")
        return f"{path} was generated before" if path else ""

    def _forget(self, changes: Changes) -> None:
        """Takes away what make would not make anew, or not drop, for these changes."""
        folders = {str(PurePosixPath(path).parent) for path in changes.all if PurePosixPath(path).name in _MAKEFILE}
        # An object may now come from another source, or from none.
        stems = {path.rpartition(".")[0] for path in changes.new | changes.gone if path.endswith((".c", ".S"))}

        def doubtful(target: str) -> bool:
            return target.rpartition(".")[0] in stems or any(target.startswith(f"{top}/") for top in folders)

        for name in self.steps.forget(doubtful):
            (self.build / name).unlink(missing_ok=True)
        for top in folders:
            for path in (self.build / top).rglob("*"):
                if path.suffix in _GENERATED and not path.is_dir():
                    path.unlink()
        headers = {path for path in changes.new if _read(path, self._srcarch) and _includable(path)}
        if headers:
            self._look_again(headers)

    def _look_again(self, headers: set[str]) -> None:
        """Has all that includes a header called as one that came compiled anew: the new one may be found first."""
        for path in mirror.namesakes(self.source, headers):
            mirror.freshen(self.source, path)
        for path in mirror.namesakes(self.build, headers):
            if (self.build / path).is_file():
                (self.build / path).touch()


def _read(path: str, srcarch: str) -> bool:
    """Whether a build for this architecture may read the file at all."""
    parts = PurePosixPath(path).parts
    if parts[0] == "arch" and len(parts) > 2:
        return parts[1] == srcarch
    if parts[0] == "tools" and len(parts) > 2:
        return parts[1] in KERNELS_TOOLS
    return parts[0] not in DOCUMENTS


def _includable(path: str) -> bool:
    name = PurePosixPath(path).name
    return not name.endswith((".c", ".S")) and not name.startswith(("Makefile", "Kconfig", "Kbuild"))


def _untracked(changes: Changes, srcarch: str) -> str:
    """Why these changes need a build from nothing: a file that make does not know what depends on; empty for none."""
    for path in sorted(changes.all):
        name = PurePosixPath(path)
        if not _read(path, srcarch) or name.name.startswith("Kconfig"):
            continue
        tool = name.parts[0] in ("scripts", "tools") or (name.parts[0] == "arch" and "tools" in name.parts)
        top = name.name in _MAKEFILE and (len(name.parts) == 1 or str(name.parent) == f"arch/{srcarch}")
        if path in changes.links or tool or top or _SCRIPT.fullmatch(name.name):
            return f"{path} changed"
    return ""
