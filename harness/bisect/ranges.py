# SPDX-License-Identifier: GPL-2.0-only
"""A range of commits as the subject of a search: how its kernels are made, and which commits need none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from harness.bisect.commits import Change, Repository
from harness.bisect.history import History
from harness.bisect.rows import Candidate
from harness.bisect.state import Run
from harness.core.definition import VM_FOLDER, load
from harness.core.errors import HarnessError
from harness.core.plan import KernelRequest, Plan, SourceRequest
from harness.host.cache import Cache
from harness.kbuild import inputs
from harness.kbuild.inputs import Inputs
from harness.suite import loader

MODULE = VM_FOLDER / "module"
"""Our module's source: the headers of the kernel that it includes take part in every build."""

MANY = 20000
"""Commits in a range beyond which only paths are compared, not texts."""


class Range:
    """The commits between `ends` (full ids, the older first), read once for all architectures.

    `names` are how the user named the ends. Raises UsageError where they are no range.
    """

    def __init__(self, repository: Repository, ends: tuple[str, str], names: tuple[str, str]) -> None:
        self.repository = repository
        self.old = ends[0]
        self.names = names
        self.history: History = repository.between(*ends, names)

    @cached_property
    def changes(self) -> Mapping[str, tuple[tuple[Change, ...], ...]]:
        """The changes of each commit against each of its parents."""
        return self.repository.changes([point.id for point in self.history.points])

    @cached_property
    def versions(self) -> Mapping[str, tuple[str, ...]]:
        """The texts that each file has in the range, where it differs."""
        if len(self.history) > MANY:
            return {}
        blobs: dict[str, list[str]] = {}
        for change in (change for sides in self.changes.values() for side in sides for change in side):
            if change.path.endswith((".c", ".h", ".S")) and not change.gone:
                blobs.setdefault(change.path, []).append(change.blob)
        texts = self.repository.texts(blob for own in blobs.values() for blob in own)
        return {path: tuple(texts[blob] for blob in dict.fromkeys(own) if blob in texts) for path, own in blobs.items()}


class Commits:
    """A range as the subject for one architecture."""

    what = "commit"

    def __init__(self, range: Range, plan: Plan, arch: str, cache: Cache) -> None:
        self.old = range.old
        self.names = range.names
        self.history: History = range.history
        self._range = range
        self._plan = plan
        self._arch = arch
        self._cache = cache

    def kernel(self, id: str) -> KernelRequest:
        """The kernel of a commit."""
        return KernelRequest(SourceRequest(tree=str(self._range.repository.folder), revision=id), self._arch)

    def kconfig(self, id: str) -> tuple[str, ...]:
        """No fragment but the plan's."""
        return ()

    def candidate(self, id: str, chance: float, runs: Sequence[Run] = ()) -> Candidate:
        """A commit as a candidate, with its change of the files that may take part in a build.

        `runs` are some whose kernels may show which these are, the best first.
        """
        repository = self._range.repository
        known = repository.describe(id)
        parts = (self._part(run) for run in runs)
        nothing = Inputs(load(self._arch).kernel.srcarch, frozenset(), frozenset())
        part = next((part for part in parts if part), None)
        why_not = part.unread if part else nothing.outside
        paths = [path for path in known.paths if not why_not(path)]
        diff = repository.diff(id, paths) if paths else ""
        return Candidate(id, chance, known.subject, known.author, known.date, diff)

    def dull(self, id: str, run: Run) -> Mapping[str, str]:
        """The commits that change nothing that is built, and why, as far as the kernel of a run of `id` shows."""
        part = self._part(run)
        return dull(self.history, self._range.changes, part, id) if part else {}

    def _part(self, run: Run) -> Inputs | None:
        return taking_part(run, self._plan, self._arch, self._cache, lambda path: self._range.versions.get(path, ()))


def taking_part(
    run: Run, plan: Plan, arch: str, cache: Cache, versions: Callable[[str], Iterable[str]]
) -> Inputs | None:
    """The files that took part in the kernel of a run; None where the cache no longer has it or its source.

    `versions` gives the texts that a file has elsewhere in what is searched.
    """
    if not (run.kernel and cache.has("kernel", run.kernel)):
        return None
    with contextlib.ExitStack() as stack:  # not get() and release(): this process may keep the source in use itself
        try:
            kernel = stack.enter_context(cache.hold("kernel", run.kernel))
            source = str(json.loads((kernel / "meta.json").read_text())["tree"])
            tree = stack.enter_context(cache.hold("source", source))
        except HarnessError:
            return None
        suite = loader.of(plan.suite)
        return inputs.of_build(
            tree,
            load(arch).kernel.srcarch,
            (kernel / "objects").read_text().split(),
            [path.read_text() for path in sorted(MODULE.rglob("*.[ch]"))],
            tools=suite.tools(user_programs=bool(plan.bpf)),
            versions=versions,
        )


def dull(
    history: History, changes: Mapping[str, Sequence[Sequence[Change]]], part: Inputs, built: str
) -> Mapping[str, str]:
    """The points that make the kernel of one of their parents, with the reason. Pure.

    `part` was found for the point `built`, or for the far end if that is no point. It holds for all points from which
    no change of a makefile or of the configuration lies between.
    """
    steering = 0
    for place, point in enumerate(history.points):
        if any(part.steers(change.path) for side in changes[point.id] for change in side):
            steering |= 1 << place
    here = history.contained[history.index[built]] if built in history.index else 0
    found: dict[str, str] = {}
    for place, point in enumerate(history.points):
        # The points between them, in either direction.
        same = not (here ^ history.contained[place]) & steering
        for side in changes[point.id]:
            why = [
                part.unread(change.path, change.new or change.gone) if same else part.outside(change.path)
                for change in side
            ]
            if all(why):
                found[point.id] = ", ".join(dict.fromkeys(why)) or "it changes no file"
    return found
