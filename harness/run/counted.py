# SPDX-License-Identifier: GPL-2.0-only
"""The lines of a patch are counted on a kernel of their own, beside those that the verdict is about."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.plan import KernelRequest, Pinned, Plan
from harness.core.records import Kernel
from harness.coverage.counters import FOLDER
from harness.coverage.coverage import Coverage
from harness.coverage.measure import FILE, PATCH
from harness.source.tree import Tree
from harness.verdict import Results


def alone(request: KernelRequest, tree: Tree) -> KernelRequest:
    """The request for the tree that was made of it, as it is now: a kernel without a base and without patches."""
    pinned = Pinned(tree.tree, tree.commit, tree.dirty, tree.origin)
    return KernelRequest(replace(request.source, pinned=pinned), request.arch)


def plan_of(plan: Plan, request: KernelRequest, tree: Tree, added: Mapping[str, Sequence[int]], out: Path) -> Plan:
    """The run that counts: the same tests, on the patched tree alone, into a folder below `out`."""
    lines = {file: tuple(numbers) for file, numbers in added.items()}
    counting = replace(plan, kernels=(alone(request, tree),), added=lines)
    place = str(out / FOLDER / request.arch)
    return counting.with_options(out=place, coverage=True, patch=(), base="", keep=False, dump=False, fail_fast=False)


def taken(results: Results, kernel: Kernel, out: Path) -> Coverage:
    """What a run that counts found, as of the plain `kernel`; its files go to OUT/coverage/KERNEL."""
    found = next((one for one in results.coverage), Coverage(kernel.id, kernel.arch, why=_without(results)))
    for file in (out / FOLDER / kernel.arch / FOLDER / found.kernel / name for name in (FILE, PATCH)):
        if file.is_file():
            place = out / FOLDER / kernel.id
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file.name)
    failing = tuple(dict.fromkeys(test.id for test in results.under_test() if test.bad and not test.excused))
    return replace(found, kernel=kernel.id, beside=True, failing=failing)


def _without(results: Results) -> str:
    """Why a run that counts has no counters: what befell its kernel comes before what its tests lack."""
    bad = next((test for test in results.under_test() if test.id in ("build", "boot") and test.bad), None)
    return f"{bad.id} of the kernel that counts: {bad.describe()}" if bad else "no test gave counters"
