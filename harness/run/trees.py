# SPDX-License-Identifier: GPL-2.0-only
"""The sources of one run: each taken once, patched, and compared before the build."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.core.records import Patches, Role
from harness.host.cache import Cache
from harness.host.files import filling
from harness.host.progress import Progress
from harness.host.toolchain import Toolchain
from harness.source import changed, debian, local, repository, series
from harness.source.diffs import Patch
from harness.source.patched import DoesNotApply
from harness.source.settle import Settled, settle
from harness.source.tree import Tree, kernel_version

PATCHES = "patches"
"""Folder of a run's results that holds the patches it tested."""


class Sources:
    """The trees of a plan. `toolchain` fetches Debian's sources; `out` is the run's folder."""

    def __init__(self, plan: Plan, toolchain: Toolchain, cache: Cache, progress: Progress, out: Path) -> None:
        self._plan = plan
        self._toolchain = toolchain
        self._cache = cache
        self._progress = progress
        self._out = out
        self._trees: dict[SourceRequest, Tree] = {}
        self._said: list[str] = []
        self._given: dict[tuple[str, ...], series.Given] = {}
        self._bases: dict[SourceRequest, SourceRequest] = {}
        self._settled: dict[tuple[SourceRequest, tuple[str, ...]], Settled] = {}
        self._added: dict[tuple[Path, Path], dict[str, tuple[int, ...]]] = {}

    def take(self) -> None:
        """Take every source and apply every patch.

        Raises UsageError for a source that is no tree or no longer what a replay tested, for a patch that does not
        apply, and for equal sides.
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
        if any(one.base is None for one in self._settled.values()):
            return
        for pair in pairs.values():
            base, new = pair.get(Role.BASE), pair.get(Role.PATCHED)
            if base and new and base.tree == new.tree:
                raise UsageError(
                    f"base and patched are the same content ({base.tree[:12]})",
                    step="name another --base, or commit or edit what is to be tested",
                )

    @property
    def plan(self) -> Plan:
        """The plan as it can be carried out: where the tree has the patches and cannot do without, the tree alone.

        Only after :meth:`take`.
        """
        if not any(one.base is None for one in self._settled.values()):
            return self._plan
        alone = [one for one in self._plan.kernels if one.role is not Role.BASE]
        kernels = (KernelRequest(self._based(one), one.arch, Role.TREE) for one in alone)
        return replace(self._plan, kernels=tuple(kernels))

    @property
    def fates(self) -> Patches:
        """What became of the patches, and what was left out of the places that they came from."""
        fates = dict.fromkeys(fate for one in self._settled.values() for fate in one.fates)
        remarks = dict.fromkeys(remark for one in self._given.values() for remark in one.remarks)
        return Patches(tuple(fates), (*remarks, *self._said))

    def tree(self, request: KernelRequest) -> Tree:
        """The source, read once in a run, so that every architecture tests the same content."""
        source = self._based(request)
        places = request.patches or (self._places(request) if request.role is Role.BASE else ())
        places = (*places, *request.own)
        if not places:
            return self._plain(source)
        if (source, places) not in self._settled:
            given = self._read_patches(places).patches
            self._settled[source, places] = settle(self._plain(source), given, self._cache, self._progress)
            self._keep(self._settled[source, places].patches or given)
        settled = self._settled[source, places]
        if request.role is Role.TREE and not settled.patches:
            raise DoesNotApply(f"{source} has {', '.join(places)} already", step="take a tree without it")
        return (settled.base or settled.patched) if request.role is Role.BASE else settled.patched

    def _plain(self, source: SourceRequest) -> Tree:
        if source not in self._trees:
            self._trees[source] = self._pinned(source) if source.pinned else self._read(source)
        return self._trees[source]

    def _places(self, request: KernelRequest) -> tuple[str, ...]:
        """The patches that the plan compares a base with."""
        return next((one.patches for one in self._plan.kernels if one.source == request.source and one.patches), ())

    def _there(self) -> dict[str, tuple[int, ...]]:
        """The lines, by file, that patches which the tree has already once added to it."""
        lines: dict[str, set[int]] = {}
        for hunk in (hunk for fate in self.fates.fates for hunk in fate.hunks if hunk.lines):
            lines.setdefault(hunk.path, set()).update(hunk.lines)
        return {path: tuple(sorted(numbers)) for path, numbers in lines.items()}

    def _read_patches(self, places: tuple[str, ...]) -> series.Given:
        """The patches of a request, read once in a run; what was left out is said."""
        if places not in self._given:
            options = self._plan.options
            self._given[places] = series.gather(places, series.Wanted(options.series_version, options.replies))
            for remark in self._given[places].remarks:
                self._progress.say(remark)
        return self._given[places]

    def _based(self, request: KernelRequest) -> SourceRequest:
        """The source of a request: at the commit that the series says it is for, where the user names no other base
        and the tree has it."""
        source = request.source
        if request.role is Role.TREE or source.revision or source.pinned:
            return source
        places = request.patches or self._places(request)
        commit = self._read_patches(places).base_commit if places else ""
        if not commit:
            return source
        if source not in self._bases:
            found = repository.resolve(Path(source.tree), commit) if source.tree else ""
            self._bases[source] = replace(source, revision=found)
            if found:
                said = f"base-commit {commit[:12]} of the series is the base; what lies in {source.tree} is not"
            else:
                said = f"{source} does not have base-commit {commit[:12]}: the series goes on what is there"
            self._progress.say(said)
            self._said.append(said)
        return self._bases[source]

    def added(self, arch: str) -> dict[str, tuple[int, ...]]:
        """The lines, by file, that the patched tree adds to its base, or that patches which it has already once added.

        None where nothing is compared.
        """
        if self._plan.added:
            return self._plan.added
        if self.fates.alone:
            return self._there()
        pair = {request.role: self.tree(request).path for request in self._plan.kernels if request.arch == arch}
        if not {Role.BASE, Role.PATCHED} <= pair.keys():
            return {}
        trees = pair[Role.BASE], pair[Role.PATCHED]
        if trees not in self._added:
            self._added[trees] = changed.added(*trees)
        return self._added[trees]

    def _read(self, source: SourceRequest) -> Tree:
        """The present content of a source."""
        if source.tree:
            return local.snapshot(Path(source.tree), self._cache, self._progress, source.revision)
        return debian.fetch(source.version, self._toolchain, self._cache, self._progress)

    def _pinned(self, source: SourceRequest) -> Tree:
        """The pinned content of a source: from the cache, or still unchanged. Raises UsageError where both are gone."""
        pinned = source.pinned
        assert pinned is not None
        path = self._cache.get("source", pinned.tree)
        if path is not None:
            return Tree(path, pinned.tree, pinned.commit, pinned.dirty, pinned.origin, kernel_version(path))
        tree = self._read(source)
        if tree.tree != pinned.tree:
            raise UsageError(
                f"{source} was {pinned.tree[:12]}, is now {tree.tree[:12]}, and the cache has the old content no more",
                step="bring the old content back, or start again",
            )
        return tree

    def patches(self) -> tuple[str, ...]:
        """Copies of the patches that were applied, in their order; none where the tree had them all."""
        if self._settled and not any(one.patches for one in self._settled.values()):
            return ()
        return tuple(sorted(str(file.resolve()) for file in (self._out / PATCHES).glob("*.patch")))

    def _keep(self, patches: Sequence[Patch]) -> None:
        """Copies of the patches that are tested, in the results' folder: for the reader, and for replay."""
        folder = self._out / PATCHES
        folder.mkdir(exist_ok=True)
        for number, patch in enumerate(patches, 1):
            words = re.sub(r"[^\w.-]+", "-", patch.name.removesuffix(".patch")).strip("-.")[:60]
            with filling(folder):
                (folder / f"{number:04}-{words}.patch").write_bytes(_text(patch))


def _text(patch: Patch) -> bytes:
    """A patch with its message before the diff, unless a line of that could be taken for a part of the diff."""
    if not patch.message or re.search(r"^(?:---|\+\+\+|@@|diff |Index:)", patch.message, re.MULTILINE):
        return patch.data
    gap = "\n" if patch.data.startswith(b"---\n") else "\n---\n\n"  # of a mail it begins with the diffstat
    return f"{patch.message}{gap}".encode(errors="replace") + patch.data
