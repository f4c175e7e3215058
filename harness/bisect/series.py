# SPDX-License-Identifier: GPL-2.0-only
"""A patch series as the subject of a search: the n-th point is the base with the first n patches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from harness.bisect.commits import Change
from harness.bisect.history import History, line
from harness.bisect.ranges import dull, taking_part
from harness.bisect.rows import Candidate
from harness.bisect.state import Run
from harness.core.errors import HarnessError, UsageError
from harness.core.plan import KernelRequest, Plan
from harness.core.records import Role
from harness.host.cache import Cache
from harness.kbuild.inputs import Inputs
from harness.source.diffs import Patch
from harness.source.series import Wanted, gather

BASE = "base"


class Series:
    """The patches of `given` (files and folders) on the source of the plan. Copies of them are kept in `folder`.

    Raises UsageError for an invalid patch, and for a series of less than two.
    """

    what = "patch"
    old = BASE

    def __init__(self, plan: Plan, given: Sequence[str], arch: str, folder: Path, cache: Cache) -> None:
        self._patches: tuple[Patch, ...] = self._read(plan, given)
        if len(self._patches) < 2:
            raise UsageError(
                f"{given[0]} is one patch: there is nothing to search", step="'kharness run --patch' tests it alone"
            )
        self.names = ("the base", f"all {len(self._patches)} patches")
        self.history: History = line([(f"p{number:04}", patch.name) for number, patch in enumerate(self._patches, 1)])
        self._folder = folder
        self._plan = plan
        self._arch = arch
        self._cache = cache

    @staticmethod
    def _read(plan: Plan, given: Sequence[str]) -> tuple[Patch, ...]:
        return gather(given, Wanted(plan.options.series_version, plan.options.replies)).patches

    @cached_property
    def _files(self) -> Sequence[str]:
        """The copies, which are written on first use: only then the folder is known to be this bisection's."""
        files: list[str] = []
        for number, patch in enumerate(self._patches, 1):
            words = re.sub(r"[^\w.-]+", "-", patch.name.removesuffix(".patch")).strip("-.")[:60]
            file = self._folder / f"{number:04}-{words}.patch"
            _write(file, patch.data)
            files.append(str(file.resolve()))
        return files

    def kernel(self, id: str) -> KernelRequest:
        """The base with the patches up to this one."""
        number = 0 if id == BASE else self.history.index[id] + 1
        base = next(kernel for kernel in self._plan.kernels if kernel.arch == self._arch)
        return replace(base, role=Role.TREE, patches=tuple(self._files[:number]))

    def kconfig(self, id: str) -> tuple[str, ...]:
        """No fragment but the plan's."""
        return ()

    def candidate(self, id: str, chance: float, runs: Sequence[Run] = ()) -> Candidate:
        """A patch with its text."""
        patch = self._patches[self.history.index[id]]
        return Candidate(id, chance, patch.name, diff=patch.data.decode(errors="replace"))

    def dull(self, id: str, run: Run) -> Mapping[str, str]:
        """The patches that change nothing that is built, and why."""
        added: dict[str, list[str]] = {}
        for patch in self._patches:
            text = "\n".join(row[1:] for row in patch.data.decode(errors="replace").splitlines() if row[:1] == "+")
            for change in patch.changes:
                added.setdefault(change.new, []).append(text)
        part: Inputs | None = taking_part(run, self._plan, self._arch, self._cache, lambda path: added.get(path, ()))
        changes = {
            point.id: (_changes(patch),) for point, patch in zip(self.history.points, self._patches, strict=True)
        }
        return dull(self.history, changes, part, id) if part else {}


def _write(file: Path, data: bytes) -> None:
    """Writes a copy whole or not at all. Raises HarnessError when the disk refuses."""
    draft = file.with_name(f".{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(file)
    except OSError as error:
        raise HarnessError(
            f"cannot write {file}: {error.strerror}", step="free space on that disk; the same command goes on"
        ) from error


def _changes(patch: Patch) -> tuple[Change, ...]:
    """The changes of a patch; a moved file is a removed and a new one."""
    found: list[Change] = []
    for change in patch.changes:
        if change.old and change.old != change.new:
            found.append(Change(change.old, gone=True))
        if change.new:
            found.append(Change(change.new, new=change.old != change.new))
    return tuple(found)
