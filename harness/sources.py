# SPDX-License-Identifier: GPL-2.0-only
"""Owns the sources of one run: each taken once, patched, and compared before hours go into a build."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.errors import UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain
from harness.plan import KernelRequest, Plan, SourceRequest
from harness.records import Role
from harness.source import debian, local, patched, series
from harness.source.tree import Tree, kernel_version

PATCHES = "patches"
"""Folder of a run's results that holds the patches it tested."""


class Sources:
    """The trees of a plan. `toolchain` fetches Debian's sources; `out` is the folder of the run's results."""

    def __init__(self, plan: Plan, toolchain: Toolchain, cache: Cache, progress: Progress, out: Path) -> None:
        self._plan = plan
        self._toolchain = toolchain
        self._cache = cache
        self._progress = progress
        self._out = out
        self._trees: dict[tuple[SourceRequest, tuple[str, ...]], Tree] = {}

    def take(self) -> None:
        """Takes every source and applies every patch.

        Raises UsageError for what is no tree, does not apply, is the same on both sides, or is no longer what a
        replay tested.
        """
        for request in self._plan.kernels:
            tree = self.tree(request)
            if self._plan.tree and tree.tree != self._plan.tree:
                raise UsageError(
                    f"{request.source} has changed since: its content is {tree.tree[:12]}, "
                    f"{self._plan.tree[:12]} was tested",
                    step="bring the old content back, or run the suite on the new one",
                )
        pairs: dict[str, dict[Role, Tree]] = {}
        for request in self._plan.kernels:
            pairs.setdefault(request.arch, {})[request.role] = self.tree(request)
        for pair in pairs.values():
            base, new = pair.get(Role.BASE), pair.get(Role.PATCHED)
            if base and new and base.tree == new.tree:
                raise UsageError(
                    f"base and patched are the same content ({base.tree[:12]})",
                    step="name another --base, or commit or edit what is to be tested",
                )

    def tree(self, request: KernelRequest) -> Tree:
        """The source, read once in a run: every architecture tests the same content."""
        source, key = request.source, (request.source, request.patches)
        if key in self._trees:
            return self._trees[key]
        if request.patches:
            given = series.read(request.patches)
            tree = patched.apply(self.tree(replace(request, patches=())), given, self._cache, self._progress)
            self._keep(given)
        else:
            tree = self._pinned(source) if source.pinned else self._read(source)
        self._trees[key] = tree
        return tree

    def _read(self, source: SourceRequest) -> Tree:
        """What a source holds now."""
        if source.tree:
            return local.snapshot(Path(source.tree), self._cache, self._progress, source.revision)
        return debian.fetch(source.version, self._toolchain, self._cache, self._progress)

    def _pinned(self, source: SourceRequest) -> Tree:
        """What a source once held: from the cache, whatever lies there now. Raises UsageError where both are gone."""
        pinned = source.pinned
        assert pinned is not None
        path = self._cache.get("source", pinned.tree)
        if path is not None:
            return Tree(path, pinned.tree, pinned.commit, pinned.dirty, pinned.origin, kernel_version(path))
        tree = self._read(source)
        if tree.tree != pinned.tree:
            raise UsageError(
                f"{source} was {pinned.tree[:12]}, is now {tree.tree[:12]}, and the cache has the old content no more",
                step="bring the old content back, or begin anew",
            )
        return tree

    def patches(self) -> tuple[str, ...]:
        """Copies of the patches that were applied, in their order."""
        return tuple(sorted(str(file.resolve()) for file in (self._out / PATCHES).glob("*.patch")))

    def _keep(self, patches: Sequence[series.Patch]) -> None:
        """Copies of the patches that are tested, in the results' folder: for the reader, and for replay."""
        folder = self._out / PATCHES
        folder.mkdir(exist_ok=True)
        for number, patch in enumerate(patches, 1):
            words = re.sub(r"[^\w.-]+", "-", patch.name.removesuffix(".patch")).strip("-.")[:60]
            (folder / f"{number:04}-{words}.patch").write_bytes(patch.data)
