# SPDX-License-Identifier: GPL-2.0-only
"""`kharness bisect`: from what was typed to the report, one architecture after the other."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from harness.bisect import gitlog, rows, show
from harness.bisect.commits import Repository
from harness.bisect.drive import FOLLOW, Answer, Asked, Bisection, Ending, Subject
from harness.bisect.history import History
from harness.bisect.identity import identity, of_its_day, unchanged
from harness.bisect.ranges import Commits, Range
from harness.bisect.rows import Candidate, Report, SearchRow, StepRow
from harness.bisect.search import Find
from harness.bisect.series import Series
from harness.bisect.state import STATE, Outcome, Run, State
from harness.bisect.steps import Source, Stepper
from harness.bisect.symbols import Symbols
from harness.core.definition import load
from harness.core.errors import Exit, UsageError
from harness.core.given import unknown
from harness.core.options import BisectOptions
from harness.core.plan import KernelRequest, Pinned, Plan
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.scratch import sweep
from harness.host.toolchain import open_toolchain
from harness.kbuild import configure
from harness.kbuild.make import BuildRequest
from harness.report import results
from harness.run.trees import Sources
from harness.source import debian, local

LOG = "bisect.log"


class Searched(Subject, Source, Protocol):
    """The subject of a search: its history, how its kernels are made, and the description of a point."""

    what: str

    def candidate(self, id: str, chance: float, runs: Sequence[Run] = ()) -> Candidate: ...


def bisect(plan: Plan, search: BisectOptions) -> Exit:
    """Do a bisection, or the rest of it, for each architecture of the plan.

    Raises UsageError for what cannot be bisected, and errors of the runs; the same call continues afterwards.
    """
    asked = asked_of(search, plan.options.select)
    fixups = tuple(_file(path, "--fixup") for path in search.fixup)
    cache = Cache.default(plan.cache_cap_gib << 30)
    progress = Progress(cache.folder("durations"))
    sweep(progress.say)
    cache.sweep(progress.say)
    arches = tuple(dict.fromkeys(kernel.arch for kernel in plan.kernels))
    request = _identity(plan, search, asked, fixups)
    if not request["ends"]:  # the present content of the source is the base of all points
        base = _base(plan, cache, progress)
        request["base"] = base.tree
        plan = replace(plan, kernels=tuple(_on(kernel, base) for kernel in plan.kernels))
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    out = Path(plan.options.out) if plan.options.out else Path("out") / f"bisect-{key[:12]}"
    _usable(out, arches)
    plan = replace(plan, seed=request["seed"])
    maker = _Maker(plan, search, out, cache, progress)
    subjects = {arch: maker.subject(arch) for arch in arches}
    progress.say(f"bisect: its state and results are in {out}")
    done: list[SearchRow] = []
    for arch, subject in subjects.items():
        state = State.open(out / arch, {**request, "arch": arch})
        try:
            if out.resolve().parent == Path("out").resolve():
                results.point(Path("out/latest"), out.name)
            stepper = Stepper(of_its_day(plan, state), subject, out / arch, fixups, lambda: unchanged(request, plan))
            answer = Bisection(subject, asked, state, stepper, progress.say).run()
            done.append(_row(arch, subject, asked, answer, state))
        finally:
            state.close()
        if isinstance(subject, Commits):
            log = gitlog.render(subject.history, subject.old, asked.find, answer)
            results.store(out / arch / LOG, log)
        report = Report(plan.argv, asked.find, asked.confidence, tuple(done))
        rows.write(report, out)
        show.write_html(report, out / "report.html")
        left = arches[len(done) :]
        if left:
            progress.say(f"{show.verdict(report, '')}; {', '.join(left)} to come")
    print(show.render(report, str(out / "report.html")), end="", file=sys.stdout)
    return report.exit


def asked_of(search: BisectOptions, select: str) -> Asked:
    """The request, checked. Raises UsageError for unknown words and numbers out of range."""
    if search.find not in list(Find):
        raise UsageError(f"--find: {unknown(search.find, list(Find), 'word')}", step="it is 'regression' if left out")
    follow = tuple(filter(None, search.follow.split(",")))
    for word in follow:
        if word not in FOLLOW:
            raise UsageError(f"--follow: {unknown(word, FOLLOW, 'word')}", step="what is not followed is skipped")
    if not 0.5 <= search.confidence < 1:
        raise UsageError(
            f"--confidence {search.confidence:g} is no chance to stop at", step="from 0.5 to below 1, as 0.99"
        )
    if search.runs > search.tries:
        search = replace(search, tries=search.runs)
    return Asked(Find(search.find), search.confidence, follow, search.signature, select, search.runs, search.tries)


def _usable(out: Path, arches: tuple[str, ...]) -> None:
    """Raise UsageError for a folder that has files, but no bisection."""
    if not out.is_dir() or any(out.glob(f"*/{STATE}")):
        return
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in arches)  # one killed at once left those
    if others:
        raise UsageError(
            f"{out} is not empty and holds no bisection (there is {others[0]})",
            step="choose an empty or new folder with --out",
        )


def _base(plan: Plan, cache: Cache, progress: Progress) -> Pinned:
    """The present content of the plan's source. This process keeps it in the cache."""
    kernel = plan.kernels[0]
    if kernel.source.tree:
        tree = local.snapshot(Path(kernel.source.tree), cache, progress)
    else:
        toolchain = open_toolchain(plan.options.toolchain, kernel.arch, cache, progress)
        tree = debian.fetch(kernel.source.version, toolchain, cache, progress)
    return Pinned(tree.tree, tree.commit, tree.dirty, tree.origin)


def _on(kernel: KernelRequest, base: Pinned) -> KernelRequest:
    return replace(kernel, source=replace(kernel.source, pinned=base))


def _file(path: str, flag: str) -> str:
    file = Path(path).expanduser()
    if not file.exists():
        raise UsageError(f"{path}: no such file", step=f"check {flag}")
    return str(file.resolve())


class _Maker:
    """Makes the subjects of a search. Raises UsageError for an invalid one."""

    def __init__(self, plan: Plan, search: BisectOptions, out: Path, cache: Cache, progress: Progress) -> None:
        self._plan = plan
        self._search = search
        self._out = out
        self._cache = cache
        self._progress = progress

    def subject(self, arch: str) -> Searched:
        """The subject for one architecture."""
        if self._search.patch:
            return Series(self._plan, self._search.patch, arch, self._out / arch / "series", self._cache)
        if any(self._search.kconfig):
            return self._symbols(arch)
        return Commits(self._range, self._plan, arch, self._cache)

    @cached_property
    def _range(self) -> Range:
        repository, good, bad = revisions(self._plan, self._search)
        ends, names = _ordered(self._search, (good, bad), (f"--good {self._search.good}", f"--bad {self._search.bad}"))
        return Range(repository, ends, names)

    def _symbols(self, arch: str) -> Symbols:
        kernel = next(kernel for kernel in self._plan.kernels if kernel.arch == arch)
        toolchain = open_toolchain(self._plan.options.toolchain, arch, self._cache, self._progress)
        sources = Sources(self._plan, toolchain, self._cache, self._progress, self._out)
        users = tuple(Path(path) for path in self._plan.kconfig)

        def attempt(fragment: Path) -> None:
            tree = sources.tree(kernel)
            request = BuildRequest(tree, load(arch), (*users, fragment), self._plan.options.jobs)
            configure.configure(request, toolchain, self._cache, self._progress)

        ends, names = _ordered(self._search, self._search.kconfig, self._search.kconfig)
        files = (Path(ends[0]), Path(ends[1]))
        return Symbols(kernel, files, names, self._out / arch / "kconfig", attempt, self._progress.say)


def _ordered(
    search: BisectOptions, ends: tuple[str, str], names: tuple[str, str]
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Ends and their names, given good first, with the older first."""
    if search.find == Find.FIXED:
        return (ends[1], ends[0]), (names[1], names[0])
    return ends, names


def revisions(plan: Plan, search: BisectOptions) -> tuple[Repository, str, str]:
    """The plan's repository, with the commits of good and bad. Raises UsageError where there is none."""
    if not (search.good and search.bad):
        raise UsageError(
            "bisect needs --good REV and --bad REV",
            step="as --tree ~/linux --good v7.1 --bad v7.2; or --patch, --kconfig",
        )
    tree = plan.kernels[0].source.tree
    if not tree:
        raise UsageError(
            "bisect needs --tree: a Debian source has no history",
            step="give a clone, or make one of releases with 'kharness source import'",
        )
    repository = Repository(Path(tree))
    return repository, repository.commit(search.good, "--good"), repository.commit(search.bad, "--bad")


def _identity(plan: Plan, search: BisectOptions, asked: Asked, fixups: tuple[str, ...]) -> dict[str, Any]:
    """The identity of a bisection. Raises UsageError where there are no ends, or more than two."""
    kinds = [bool(search.good or search.bad), bool(search.patch), any(search.kconfig)]
    if sum(kinds) > 1:
        raise UsageError("--good and --bad, --patch and --kconfig exclude each other", step="give one of them")
    ends: list[str] = []
    files = [*plan.kconfig, *fixups]
    if search.patch:
        files += [_file(path, "--patch") for path in search.patch]
    elif any(search.kconfig):
        files += [_file(path, "--kconfig") for path in search.kconfig]
    else:
        ends = list(revisions(plan, search)[1:])
    return identity(plan, asked, ends, files, fixups)


# --- the report -----------------------------------------------------------------------------


def _row(arch: str, subject: Searched, asked: Asked, answer: Answer, state: State) -> SearchRow:
    """The report's row of one search."""
    history = subject.history
    titles = {point.id: point.title for point in history.points} | {subject.old: f"({subject.names[0]})"}
    steps = tuple(
        StepRow(name.partition(" ")[0], titles[name.partition(" ")[0]], name.partition(" ")[2], run)
        for name, run in state.order
    )
    failing, passing = nearest(history, subject.old, asked.find, answer, steps)
    runs = tuple(step.run for step in (failing, passing, *steps) if step and step.run.kernel)
    return SearchRow(
        arch=arch,
        what=subject.what,
        ending=answer.ending,
        names=subject.names,
        old=subject.old,
        new=history.points[-1].id,
        points=len(history),
        wanted=answer.wanted,
        rate=answer.rate,
        interior=answer.interior,
        select=answer.select,
        candidates=tuple(subject.candidate(id, chance, runs) for id, chance in answer.candidates),
        steps=steps,
        folder=arch,
        failing=failing,
        passing=passing,
        dull=answer.dull,
        unfit=answer.unfit,
    )


def nearest(
    history: History, old: str, find: Find, answer: Answer, steps: tuple[StepRow, ...]
) -> tuple[StepRow | None, StepRow | None]:
    """The runs nearest to the culprit: one that failed on its failing side, one that passed on the other."""
    if answer.ending is not Ending.FOUND:
        return None, None
    culprit = history.index[answer.candidates[0][0]]
    sides: dict[bool, list[tuple[int, StepRow]]] = {True: [], False: []}
    for step in steps:
        place = -1 if step.id == old else history.index[step.id]
        within = place >= 0 and bool(history.contained[place] >> culprit & 1)
        failing = within == (find is Find.REGRESSION)
        if step.run.outcome is (Outcome.FAILS if failing else Outcome.PASSES):
            sides[failing].append((abs(place - culprit), step))
    first = [min(side, key=lambda item: item[0])[1] if side else None for side in (sides[True], sides[False])]
    return first[0], first[1]
