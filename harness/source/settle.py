# SPDX-License-Identifier: GPL-2.0-only
"""From patches and a tree to what is compared: applied as they are, repaired, or found to be in the tree already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.core.errors import UsageError
from harness.core.records import HunkState, PatchFate, PatchHow, PatchHunk
from harness.core.words import plural
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.scratch import private_folder
from harness.source import hunks, repair
from harness.source.diffs import Patch
from harness.source.fit import Files, Fit, fits, in_tree
from harness.source.patched import DoesNotApply, Work, apply, finished
from harness.source.tree import Tree

SHOWN = 8
"""Lines of a hunk and of the tree that are said beside each other; the results have all of them."""


@dataclass(frozen=True)
class Settled:
    """What is compared: `base` (None: nothing, the tree is tested as it is) with `patched`. `patches` are those that
    make `patched` of the tree, as git took them; none of a tree that has them already."""

    base: Tree | None
    patched: Tree
    patches: tuple[Patch, ...]
    fates: tuple[PatchFate, ...]


@dataclass(frozen=True)
class _Step:
    """One patch: what is applied of it, and where its hunks are."""

    patch: Patch | None
    fate: PatchFate
    found: tuple[Fit, ...] = ()


def settle(tree: Tree, patches: Sequence[Patch], cache: Cache, progress: Progress) -> Settled:
    """Applies each patch, or what the tree lacks of it; says, hunk by hunk, what is not simply applied.

    Raises DoesNotApply, with each hunk's reason as its detail, for a patch of which part has no place, UsageError as
    :func:`harness.source.patched.apply` does.
    """
    with private_folder() as scratch:
        work = Work(tree, scratch / "tree", progress)
        for number, patch in enumerate(patches, 1):
            work.name(patch, _which(number, patches))
            _plain_words(work, patch, _which(number, patches))
        before = work.fill()
        steps = [_step(work, patch, _which(number, patches), progress) for number, patch in enumerate(patches, 1)]
        applied = tuple(step.patch for step in steps if step.patch)
        if applied:
            patched = finished(tree, applied, before, work.result(), cache, progress)
            return Settled(tree, patched, applied, tuple(step.fate for step in steps))
    base = _without(tree, steps, cache, progress)
    if base is None:
        fates = tuple(replace(step.fate, how=PatchHow.AS_IT_IS) for step in steps)
        many = "the patch" if len(steps) == 1 else f"the {len(steps)} patches"
        progress.say(f"{tree.origin} is tested as it is: {many} cannot be taken out of it")
        return Settled(None, tree, (), fates)
    progress.say(f"{tree.origin} has all of it: base is without, patched as it is")
    return Settled(base, tree, (), tuple(step.fate for step in steps))


_CODE = re.compile(r"\.(?:[chSs]|lds|rs)$|\.(?:dts|lds)\.?")


def _plain_words(work: Work, patch: Patch, which: str) -> None:
    """Says of a patch that it touches no code. Raises DoesNotApply for one of which the tree has no file at all."""
    if patch.paths and not any(map(_CODE.search, patch.paths)):
        work.progress.say(f"{which}, {patch.name!r}, touches no C: {', '.join(patch.paths[:3])}")
    olds = [change.old for change in patch.changes if change.old]
    if len(olds) == len(patch.changes) and not any(Files([work.base.path]).near(old) for old in olds):
        raise DoesNotApply(
            f"{which}, {patch.name!r}: {work.base.origin} has none of its files, as {olds[0]}",
            step="it seems to be for another project, or for a tree that this one was not yet",
        )


def _which(number: int, patches: Sequence[Patch]) -> str:
    return f"patch {number} of {len(patches)}"


def _step(work: Work, patch: Patch, which: str, progress: Progress) -> _Step:
    """Applies a patch in `work`, or what is missing of it. Raises DoesNotApply."""
    try:
        if not patch.damage:
            work.apply(patch, which)
            return _Step(patch, PatchFate(patch.name, PatchHow.APPLIED))
        trouble = DoesNotApply("", step=_RAW)
    except DoesNotApply as error:
        if error.final:
            raise
        trouble = error
    found = fits(hunks.read(patch.data.decode("utf-8", "surrogateescape")), work.folder, work.base.path)
    told = tuple(fit.told for fit in found)
    states = Counter(one.state for one in told)
    if not found:
        raise trouble
    if set(states) <= {HunkState.MISSING, HunkState.CONTAINED} and states[HunkState.MISSING]:
        return _repaired(work, patch, which, found, trouble, progress)
    if in_tree(found):
        _say(which, patch, told, "is in the tree already (or it is the wrong way round)", progress.say)
        how = PatchHow.TAKEN_OUT if set(states) == {HunkState.CONTAINED} else PatchHow.AS_IT_IS
        return _Step(None, PatchFate(patch.name, how, told), tuple(found))
    lost = [one for one in told if one.state not in (HunkState.MISSING, HunkState.CONTAINED)]
    many = f"{len(lost)} of {plural(len(told), 'hunk')}, the first {lost[0].told()}" if lost else "git refuses it"
    many += f" ({patch.damage})" if patch.damage else ""
    what = f"{which}, {patch.name!r}, does not apply to {work.base.origin} ({work.base.version}): {many}"
    raise DoesNotApply(trouble.what or what, step=trouble.step, detail="\n".join(one.told() for one in told))


_RAW = "take the raw mail, or another tree: --tree or --kernel names one"


def _repaired(
    work: Work, patch: Patch, which: str, found: Sequence[Fit], trouble: DoesNotApply, progress: Progress
) -> _Step:
    """What is missing of a patch, applied with the tree's white space. Raises `trouble` where git still refuses."""
    told = tuple(fit.told for fit in found)
    fixed = repair.missing(patch, found, f"{which}, {patch.name!r}")
    work.name(fixed, which)
    try:
        work.apply(fixed, which)
    except DoesNotApply as error:
        raise trouble from error
    there = sum(one.state is HunkState.CONTAINED for one in told)
    if there:
        _say(
            which,
            patch,
            told,
            f"is in the tree in part; applied: {plural(len(told) - there, 'hunk')} of {len(told)}",
            progress.say,
        )
        return _Step(fixed, PatchFate(patch.name, PatchHow.COMPLETED, told))
    why = "each hunk fits in one place; its white space is the tree's"
    progress.say(f"{which}, {patch.name!r}, was repaired: {why} (OUT/patches has it)")
    return _Step(fixed, PatchFate(patch.name, PatchHow.REPAIRED, told, why))


def _without(tree: Tree, steps: Sequence[_Step], cache: Cache, progress: Progress) -> Tree | None:
    """The tree without the patches that it has; None where they cannot be taken out."""
    if any(step.fate.how is not PatchHow.TAKEN_OUT for step in steps):
        return None
    names = [step.fate.name for step in steps]
    try:
        taken = [repair.without(Patch(f"without {step.fate.name}", b"", ()), step.found, "it") for step in steps[::-1]]
        return apply(tree, taken, cache, progress)
    except UsageError as error:
        progress.say(f"{', '.join(names[:2])} cannot be taken out: {error.what}")
        return None


def _say(which: str, patch: Patch, told: Sequence[PatchHunk], what: str, say: Callable[[str], None]) -> None:
    """Each hunk in a line, and of one that was merged in other words both texts."""
    say(f"{which}, {patch.name!r}, {what}:")
    for hunk in told:
        say(f"  {hunk.told()}")
        if hunk.state is HunkState.DIFFERS:
            for left, right in hunk.beside()[:SHOWN]:
                say(f"    {left:<60} | {right}")
