# SPDX-License-Identifier: GPL-2.0-only
"""`kharness run --each`: the base, and the series up to each of its patches, built and tested one after the other.

Each must build, boot and pass by itself, or no bisection of the tree can pass it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bisect.drive import Step as Make
from harness.bisect.series import BASE, Series
from harness.bisect.state import Outcome, Run, State
from harness.bisect.steps import Stepper
from harness.core.errors import Exit, UsageError
from harness.core.plan import Plan
from harness.core.records import encode
from harness.core.words import plural
from harness.host.cache import Cache
from harness.host.progress import Progress, duration
from harness.host.scratch import sweep
from harness.report import results
from harness.report.text import one_line
from harness.source.series import Wanted, gather

FILE = "each.json"

BAD = (Outcome.FAILS, Outcome.BUILD, Outcome.BOOT)


@dataclass(frozen=True)
class SeriesStep:
    """The series up to patch `number` (0: the base) on one architecture. `new` are the signatures of what fails there
    and not on the base; `fixed_by` is the number of the first later patch with which none of them is left, or 0."""

    arch: str
    number: int
    name: str
    run: Run
    new: tuple[str, ...] = ()
    fixed_by: int = 0

    @property
    def bad(self) -> bool:
        """Whether it fails in a way in which the base does not."""
        return bool(self.new)


def run(plan: Plan) -> Exit:
    """Test each patch of the plan's series on its own step; the same call goes on where it was interrupted.

    Raises UsageError for a plan without a series.
    """
    options = plan.options
    if not options.patch:
        raise UsageError("--each needs a series", step="name it with --patch: a thread, a mailbox, a folder of patches")
    cache = Cache.default(plan.cache_cap_gib << 30)
    progress = Progress(cache.folder("durations"))
    sweep(progress.say)
    cache.sweep(progress.say)
    request = _request(plan)
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    out = Path(options.out) if options.out else Path("out") / f"each-{digest[:12]}"
    steps: list[SeriesStep] = []
    for arch in dict.fromkeys(kernel.arch for kernel in plan.kernels):
        series = Series(plan, options.patch, arch, out / arch / "series", cache)
        state = State.open(out / arch, {**request, "arch": arch})
        stepper = Stepper(plan, series, out / arch)
        try:
            runs = _runs(names(series), stepper, options.select, state, progress.say)
            steps += judged(arch, names(series), runs)
        finally:
            state.close()
    results.store(out / FILE, json.dumps(encode(steps), indent=1) + "\n")
    ended = verdict(steps)
    print("\n".join((*describe(steps), f"verdict: {ended.name}  {summary(steps)}  {out / FILE}")), file=sys.stdout)
    return ended


def _request(plan: Plan) -> dict[str, object]:
    """What decides the results, as plain values: another request is refused in the same folder."""
    options = plan.options
    patches = gather(options.patch, Wanted(options.series_version, options.replies)).patches
    return {
        "source": encode(plan.kernels[0].source),
        "patches": [hashlib.sha256(patch.data).hexdigest() for patch in patches],
        "suite": plan.suite,
        "select": options.select,
        "machines": list(plan.machines),
        "kconfig": list(plan.kconfig),
        "full": options.full,
    }


def names(series: Series) -> dict[str, str]:
    """The points by their ids, the base first."""
    return {BASE: "the base"} | {point.id: point.title for point in series.history.points}


def _runs(points: Mapping[str, str], step: Make, select: str, state: State, say: Callable[[str], None]) -> list[Run]:
    """The run of each point: those of a former call as they are."""
    found = []
    for number, (id, name) in enumerate(points.items()):
        if id not in state.runs:
            say(f"each: {number} of {len(points) - 1}, {name}")
            state.ran(id, step(id, number, None, select))
        found.append(state.runs[id][-1])
    return found


def judged(arch: str, points: dict[str, str], runs: Sequence[Run]) -> Iterator[SeriesStep]:
    """The steps, each compared with the base, which is the first."""
    known = _wrong(runs[0])
    bad = [tuple(sorted(_wrong(one) - known)) for one in runs]
    for number, (name, one) in enumerate(zip(points.values(), runs, strict=True)):
        later = range(number + 1, len(runs))
        sound = (at for at in later if runs[at].outcome is not Outcome.UNCLEAR and not set(bad[number]) & set(bad[at]))
        yield SeriesStep(arch, number, name, one, bad[number], next(sound, 0) if bad[number] else 0)


def _wrong(run: Run) -> set[str]:
    """The signatures of what fails in a run; one that has none is its own way of failing."""
    found = {finding.signature for finding in run.findings}
    return found or ({f"{run.outcome}: {run.why}"} if run.outcome in BAD else set())


def verdict(steps: Sequence[SeriesStep]) -> Exit:
    """FAIL where a step fails in a way in which its base does not, INCONCLUSIVE where one could not be judged."""
    if any(step.bad for step in steps):
        return Exit.FAIL
    unclear = any(step.run.outcome not in (*BAD, Outcome.PASSES) for step in steps)
    return Exit.INCONCLUSIVE if unclear else Exit.PASS


def describe(steps: Sequence[SeriesStep]) -> Iterator[str]:
    """A line for each step."""
    total = max((step.number for step in steps), default=0)
    for step in steps:
        which = step.name if not step.number else f"{step.number}/{total} {step.name}"
        tested = f"{plural(step.run.tests, 'test')}, {duration(step.run.seconds)}"
        yield one_line(f"{step.arch:<8}  {which}: {_word(step)} ({tested})")


def _word(step: SeriesStep) -> str:
    run = step.run
    if run.outcome is Outcome.PASSES:
        return "passes"
    words = {Outcome.BUILD: "DOES NOT BUILD", Outcome.BOOT: "DOES NOT BOOT", Outcome.FAILS: "FAILS"}
    word = words.get(run.outcome, "could not be judged")
    if run.outcome in BAD and not step.bad:
        word = "fails as the base does" if step.number else "fails"
    fixed = f"; patch {step.fixed_by} fixes that" if step.fixed_by else ""
    return f"{word}: {run.why}{fixed}"


def summary(steps: Sequence[SeriesStep]) -> str:
    """The first step that fails, and how many do."""
    bad = [step for step in steps if step.bad]
    tried = plural(sum(bool(step.number) for step in steps), "step")
    if not bad:
        return f"{tried} of the series build, boot and pass as the base does"
    first = bad[0]
    fixed = f", and patch {first.fixed_by} fixes it" if first.fixed_by else ""
    return f"{len(bad)} of {tried} fail; the first is {first.arch} {first.number}, {first.name!r}{fixed}"
