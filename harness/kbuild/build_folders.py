# SPDX-License-Identifier: GPL-2.0-only
"""The build folders that stay from one kernel to the next: which there are, and what in one is no longer true.

make's own dependency tracking does the rest. It knows sources, headers and commands; what it does not know (programs of
the build, symlinks, objects that no makefile names any more, a header that now is found first) is seen to here.
"""

from __future__ import annotations

import contextlib
import json
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from harness.host import below
from harness.host.below import Unsafe
from harness.host.cache import Cache, write_atomically
from harness.host.files import sync, sync_file_system
from harness.host.removal import remove
from harness.host.toolchain import Toolchain
from harness.kbuild import mirror
from harness.kbuild.inputs import DOCUMENTS, KERNELS_TOOLS
from harness.kbuild.make import FORMAT, BuildRequest, key
from harness.kbuild.mirror import Changes
from harness.kbuild.steps import Steps

KIND = "build"
"""Their kind in the cache, where they are entries as all others: listed, capped and pruned."""

MOST = 2
"""Folders that stay; each takes some 2.5 GB."""

LAYOUT = 1
"""Version of the content of a folder, and of what this module does to it."""

_MAKEFILE = ("Makefile", "Kbuild")
_SCRIPT = re.compile(r".*\.(sh|pl|py|awk|mk|include)|(Makefile|Kbuild)[._-].*")
_GENERATED = (".c", ".h", ".S", ".s", ".inc")


@contextlib.contextmanager
def opened(
    request: BuildRequest, toolchain: Toolchain, config_sha256: str, cache: Cache, say: Callable[[str], None]
) -> Iterator[Kept]:
    """The folder for kernels of this recipe, toolchain and final .config, locked within the block.

    Another process that needs the same one waits and says so: the two would share the CPUs, and after the wait there is
    little left to build. First the least recently used folders beyond MOST are removed.
    """
    # The build of the next tree trusts what this one left there (programs of the build, objects).
    trust = (request.tree.origin, *(() if request.own else request.tree.patches[:1]))
    name = key(LAYOUT, FORMAT, request.recipe, request.make_vars, toolchain.id, config_sha256, trust)
    with cache.workplace(KIND, name, what=f"{request.what} in the folder that is kept", say=say) as folder:
        cache.trim(KIND, MOST)
        yield Kept(folder, request)


class Kept:
    """One folder: ``src`` the source, ``build`` make's output, ``steps.json`` the record of its targets. ``busy`` is
    there during a build: the next build that finds it starts from nothing."""

    def __init__(self, folder: Path, request: BuildRequest) -> None:
        self.folder = folder
        self.source, self.build = folder / "src", folder / "build"
        self.steps = Steps()
        self.why = ""
        """Why the build starts from nothing; empty where it continues."""
        self._busy, self._record = folder / "busy", folder / "steps.json"
        self._tree, self._srcarch = request.tree.path, request.definition.kernel.srcarch
        self.request = replace(request, tree=replace(request.tree, path=self.source))
        """The request, with the source in this folder."""

    def begin(self, config: Path) -> None:
        """Prepare the folder for make. Until :meth:`end` it counts as broken. Raises OSError, HarnessError."""
        self.why = self._unusable()
        self._busy.touch()
        sync(self.folder)  # before make writes files, which a power cut may damage
        if self.why:
            for path in self.folder.iterdir():
                if path != self._busy:
                    remove(path)
            mirror.fill(self._tree, self.source)
        else:
            changes = mirror.update(self._tree, self.source)
            self.why = _untracked(changes, self._srcarch) or self._undo(changes)
            if self.why:
                remove(self.build)
                self.steps = Steps()
        self.build.mkdir(exist_ok=True)
        # A build from nothing has neither: the count of links goes into the image, extmod is only added to.
        remove(self.build / ".version")
        remove(self.build / "extmod")
        data = config.read_bytes()
        if self._config() != data:
            remove(self.build / ".config")
            below.write(self.build, ".config", data)

    def end(self) -> None:
        """Record that make ended, well or with an error of the tree: the next build can continue in the folder."""
        write_atomically(self._record, json.dumps(self.steps.encode()))
        sync_file_system(self.folder)
        self._busy.unlink()

    def _unusable(self) -> str:
        if self._busy.exists():
            return "the last build in it did not come to an end"
        if not self._record.exists():
            return "there was none"
        if self._record.stat().st_mtime > time.time():
            return "it was last written in the future"  # files that change now would be older than their objects
        try:
            self.steps = Steps.decode(json.loads(self._record.read_text()))
        except (OSError, ValueError, AttributeError, TypeError):
            return "its record is damaged"
        return ""

    def _config(self) -> bytes | None:
        """The .config in the build folder; None where there is none, or something else."""
        try:
            return below.read_bytes(self.build, ".config")
        except (OSError, Unsafe):
            return None

    def _undo(self, changes: Changes) -> str:
        """Remove what these changes make stale; returns why that cannot be done, else empty.

        The last tree's programs wrote the build folder: it may contain links to anywhere.
        """
        try:
            why = self._generated(changes)
            if not why:
                self._forget(changes)
            return why
        except (Unsafe, OSError) as error:
            return f"{error.name} {error.why}" if isinstance(error, Unsafe) else f"it cannot be read: {error.strerror}"

    def _generated(self, changes: Changes) -> str:
        """A reason if a new file is also in the build folder, generated by another tree: either might be found."""
        path = next((path for path in sorted(changes.new) if below.inspect(self.build, path) is not None), "")
        return f"{path} was generated before" if path else ""

    def _forget(self, changes: Changes) -> None:
        """Remove what make would neither make again nor delete after these changes."""
        folders = {str(PurePosixPath(path).parent) for path in changes.all if PurePosixPath(path).name in _MAKEFILE}
        # An object may now come from another source, or from none.
        stems = {path.rpartition(".")[0] for path in changes.new | changes.gone if path.endswith((".c", ".S"))}

        def doubtful(target: str) -> bool:
            return target.rpartition(".")[0] in stems or any(target.startswith(f"{top}/") for top in folders)

        for name in self.steps.forget(doubtful):
            below.unlink(self.build, name)
        for top in folders:
            for path, found in below.walk(self.build, top) if below.inspect(self.build, top) is not None else ():
                if PurePosixPath(path).suffix in _GENERATED and not stat.S_ISDIR(found.st_mode):
                    below.unlink(self.build, path)
        headers = {path for path in changes.new if _read(path, self._srcarch) and _includable(path)}
        if headers:
            self._look_again(headers)

    def _look_again(self, headers: set[str]) -> None:
        """Recompile all that includes a header of the name of a new one, which may be found first."""
        for path in mirror.namesakes(self.source, headers):
            mirror.freshen(self.source, path)
        for path in mirror.namesakes(self.build, headers):
            if below.is_file(self.build, path, links=True):
                below.touch(self.build, path)


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
    """Why these changes need a build from nothing: a file whose dependents make does not know; empty if none."""
    for path in sorted(changes.all):
        name = PurePosixPath(path)
        if not _read(path, srcarch) or name.name.startswith("Kconfig"):
            continue
        tool = name.parts[0] in ("scripts", "tools") or (name.parts[0] == "arch" and "tools" in name.parts)
        top = name.name in _MAKEFILE and (len(name.parts) == 1 or str(name.parent) == f"arch/{srcarch}")
        if path in changes.links or tool or top or _SCRIPT.fullmatch(name.name):
            return f"{path} changed"
    return ""
