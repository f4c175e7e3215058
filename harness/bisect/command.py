# SPDX-License-Identifier: GPL-2.0-only
"""Owns `kharness bisect`: from what was typed to the report, one architecture after the other."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from harness.build import configure
from harness.build.make import BuildRequest
from harness.definition import load
from harness.errors import Exit, UsageError
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.toolchain import open_toolchain
from harness.plan import CONFIDENCE, DEFAULT_FIND, END_RUNS, END_TRIES, KernelRequest, Pinned, Plan
from harness.planfile import unknown
from harness.report import results
from harness.source import debian, local
from harness.sources import Sources

LOG = "bisect.log"


@dataclass(frozen=True)
class Hunt:
    """What is asked of a bisection beside its runs.

    `good` and `bad` are revisions of the plan's tree. Instead of them, `patch` are the files of a series on the plan's
    source, or `kconfig` two .config files, one that passes and one that fails.
    """

    good: str = ""
    bad: str = ""
    find: str = DEFAULT_FIND
    confidence: float = CONFIDENCE
    follow: str = ""
    fixup: tuple[str, ...] = ()
    signature: str = ""
    runs: int = END_RUNS
    tries: int = END_TRIES
    patch: tuple[str, ...] = ()
    kconfig: tuple[str, str] = ("", "")


class Searched(Subject, Source, Protocol):
    """What is searched, whole: its shape, how its kernels are made, and what is told of a point."""

    what: str

    def candidate(self, id: str, chance: float, runs: Sequence[Run] = ()) -> Candidate: ...


def bisect(plan: Plan, hunt: Hunt) -> Exit:
    """Does a bisection, or what is left of it, for each architecture of the plan.

    Raises UsageError for what cannot be bisected, and what the runs raise; the same call goes on afterwards.
    """
    asked = wish(hunt, plan.select)
    fixups = tuple(_file(path, "--fixup") for path in hunt.fixup)
    cache = Cache.default(plan.cache_cap_gib << 30)
    progress = Progress(cache.folder("durations"))
    arches = tuple(dict.fromkeys(kernel.arch for kernel in plan.kernels))
    told = _identity(plan, hunt, asked, fixups)
    if not told["ends"]:  # what the source holds now is the base of all points, whatever becomes of it
        base = _base(plan, cache, progress)
        told["base"] = base.tree
        plan = replace(plan, kernels=tuple(_on(kernel, base) for kernel in plan.kernels))
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    out = Path(plan.out) if plan.out else Path("out") / f"bisect-{key[:12]}"
    _usable(out, arches)
    plan = replace(plan, seed=told["seed"])
    maker = _Maker(plan, hunt, out, cache, progress)
    subjects = {arch: maker.subject(arch) for arch in arches}
    progress.say(f"bisect: its state and results are in {out}")
    done: list[SearchRow] = []
    for arch, subject in subjects.items():
        state = State.open(out / arch, {**told, "arch": arch})
        try:
            if out.resolve().parent == Path("out").resolve():
                results.point(Path("out/latest"), out.name)
            stepper = Stepper(
                of_its_day(plan, state), subject, out / arch, fixups, lambda: unchanged(told, plan)
            )
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


def wish(hunt: Hunt, select: str) -> Asked:
    """What is asked, checked. Raises UsageError for words that are none and numbers out of range."""
    if hunt.find not in list(Find):
        raise UsageError(
            f"--find: {unknown(hunt.find, list(Find), 'word')}", step="it is 'regression' if left out"
        )
    follow = tuple(filter(None, hunt.follow.split(",")))
    for word in follow:
        if word not in FOLLOW:
            raise UsageError(
                f"--follow: {unknown(word, FOLLOW, 'word')}", step="what is not followed is skipped"
            )
    if not 0.5 <= hunt.confidence < 1:
        raise UsageError(
            f"--confidence {hunt.confidence:g} is no chance to stop at", step="from 0.5 to below 1, as 0.99"
        )
    if hunt.runs > hunt.tries:
        hunt = replace(hunt, tries=hunt.runs)
    return Asked(Find(hunt.find), hunt.confidence, follow, hunt.signature, select, hunt.runs, hunt.tries)


def _usable(out: Path, arches: tuple[str, ...]) -> None:
    """Raises UsageError for a folder that holds something, but no bisection."""
    if not out.is_dir() or any(out.glob(f"*/{STATE}")):
        return
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in arches)  # one killed at once left those
    if others:
        raise UsageError(
            f"{out} is not empty and holds no bisection (there is {others[0]})",
            step="choose an empty or new folder with --out",
        )


def _base(plan: Plan, cache: Cache, progress: Progress) -> Pinned:
    """What the plan's source holds now. This process keeps it in the cache."""
    kernel = plan.kernels[0]
    if kernel.source.tree:
        tree = local.snapshot(Path(kernel.source.tree), cache, progress)
    else:
        toolchain = open_toolchain(plan.toolchain, kernel.arch, cache, progress)
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
    """Makes what is searched. Raises UsageError where it is none."""

    def __init__(self, plan: Plan, hunt: Hunt, out: Path, cache: Cache, progress: Progress) -> None:
        self._plan = plan
        self._hunt = hunt
        self._out = out
        self._cache = cache
        self._progress = progress

    def subject(self, arch: str) -> Searched:
        """What is searched for one architecture."""
        if self._hunt.patch:
            return Series(self._plan, self._hunt.patch, arch, self._out / arch / "series", self._cache)
        if any(self._hunt.kconfig):
            return self._symbols(arch)
        return Commits(self._range, self._plan, arch, self._cache)

    @cached_property
    def _range(self) -> Range:
        repository, good, bad = revisions(self._plan, self._hunt)
        ends, names = _ordered(
            self._hunt, (good, bad), (f"--good {self._hunt.good}", f"--bad {self._hunt.bad}")
        )
        return Range(repository, ends, names)

    def _symbols(self, arch: str) -> Symbols:
        kernel = next(kernel for kernel in self._plan.kernels if kernel.arch == arch)
        toolchain = open_toolchain(self._plan.toolchain, arch, self._cache, self._progress)
        sources = Sources(self._plan, toolchain, self._cache, self._progress, self._out)
        users = tuple(Path(path) for path in self._plan.kconfig)

        def attempt(fragment: Path) -> None:
            tree = sources.tree(kernel)
            request = BuildRequest(tree, load(arch), (*users, fragment), self._plan.jobs)
            configure.configure(request, toolchain, self._cache, self._progress)

        ends, names = _ordered(self._hunt, self._hunt.kconfig, self._hunt.kconfig)
        files = (Path(ends[0]), Path(ends[1]))
        return Symbols(kernel, files, names, self._out / arch / "kconfig", attempt, self._progress.say)


def _ordered(
    hunt: Hunt, ends: tuple[str, str], names: tuple[str, str]
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Ends and their names, given good first, with the older first."""
    if hunt.find == Find.FIXED:
        return (ends[1], ends[0]), (names[1], names[0])
    return ends, names


def revisions(plan: Plan, hunt: Hunt) -> tuple[Repository, str, str]:
    """The plan's repository, with the commits of good and bad. Raises UsageError where there is none."""
    if not (hunt.good and hunt.bad):
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
    return repository, repository.commit(hunt.good, "--good"), repository.commit(hunt.bad, "--bad")


def _identity(plan: Plan, hunt: Hunt, asked: Asked, fixups: tuple[str, ...]) -> dict[str, Any]:
    """What makes a bisection this one and no other. Raises UsageError where there are no ends, or more than two."""
    kinds = [bool(hunt.good or hunt.bad), bool(hunt.patch), any(hunt.kconfig)]
    if sum(kinds) > 1:
        raise UsageError(
            "--good and --bad, --patch and --kconfig exclude each other", step="give one of them"
        )
    ends: list[str] = []
    files = [*plan.kconfig, *fixups]
    if hunt.patch:
        files += [_file(path, "--patch") for path in hunt.patch]
    elif any(hunt.kconfig):
        files += [_file(path, "--kconfig") for path in hunt.kconfig]
    else:
        ends = list(revisions(plan, hunt)[1:])
    return identity(plan, asked, ends, files, fixups)


# --- the report -----------------------------------------------------------------------------


def _row(arch: str, subject: Searched, asked: Asked, answer: Answer, state: State) -> SearchRow:
    """What the report tells of one search."""
    history = subject.history
    titles = {point.id: point.title for point in history.points} | {subject.old: f"({subject.names[0]})"}
    steps = tuple(
        StepRow(name.partition(" ")[0], titles[name.partition(" ")[0]], name.partition(" ")[2], run)
        for name, run in state.order
    )
    failing, passing = nearest(history, subject.old, asked.find, answer, steps)
    runs = tuple(step.run for step in (failing, passing, *steps) if step and step.run.kernel)
    return SearchRow(
        arch=arch, what=subject.what, ending=answer.ending, names=subject.names, old=subject.old,
        new=history.points[-1].id, points=len(history), wanted=answer.wanted, rate=answer.rate,
        interior=answer.interior,
        select=answer.select, candidates=tuple(subject.candidate(id, chance, runs) for id, chance in answer.candidates),
        steps=steps, folder=arch, failing=failing, passing=passing, dull=answer.dull, unfit=answer.unfit,
    )  # fmt: skip


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
