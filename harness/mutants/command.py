# SPDX-License-Identifier: GPL-2.0-only
"""`kharness mutants`: from what was typed to the table."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from harness.bisect.state import STATE, State
from harness.bisect.steps import carry_out
from harness.core.errors import Exit, HarnessError, UsageError
from harness.core.event_log import EventLog
from harness.core.given import convert, keyed, listed
from harness.core.options import MutantOptions
from harness.core.plan import KernelRequest, Plan
from harness.core.records import Kernel, Outcome, Role, encode
from harness.coverage import lines
from harness.coverage.counters import FOLDER
from harness.coverage.measure import FILE
from harness.host.below import text_of
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.scratch import private_folder, sweep
from harness.host.toolchain import open_toolchain
from harness.mutants import edits, rows
from harness.mutants.engine import ABOVE, BASELINE, Engine, Reach
from harness.mutants.operators import Mutant, mutants
from harness.mutants.rows import Table
from harness.report import results
from harness.run import counted
from harness.run.planning import budget
from harness.run.targets import Workbench
from harness.run.trees import Sources
from harness.source.tree import Tree

TABLE, TEXT = "mutants.json", "mutants.txt"


def run(plan: Plan, asked: MutantOptions) -> Exit:
    """Try the mutants of the plan's patch, or what is left of them.

    Raises UsageError for a plan without a patch and for a patch that fails unbroken. The status is that of a pass
    unless the user ends it: a survivor is no defect of the kernel.
    """
    seconds = budget(asked.budget, "--budget") if asked.budget else None
    equivalent = marked(asked.equivalent)
    arches = {request.arch for request in plan.kernels}
    given = asked.edits or any(request.role is Role.PATCHED for request in plan.kernels)
    if len(arches) != 1 or not given:
        raise UsageError(
            "mutants are made of what a patch adds, on one architecture",
            step="name the patch with --patch, the revision before it with --base, or --edits, and one --arch",
        )
    cache = Cache.default(plan.cache_cap_gib << 30)
    progress = Progress(cache.folder("durations"))
    sweep(progress.say)
    cache.sweep(progress.say)
    (arch,) = arches
    toolchain = open_toolchain(plan.options.toolchain, arch, cache, progress)
    out = Path(plan.options.out) if plan.options.out else Path("out") / "mutants"
    with private_folder() as scratch:
        sources = Sources(plan, toolchain, cache, progress, scratch)
        sources.take()
        # A patch that the tree has already may leave the tree alone to be tested.
        patched = next(request for request in sources.plan.kernels if request.role is not Role.BASE)
        tree = sources.tree(patched)
        found = edits.read(asked.edits, tree.path) if asked.edits else _of(tree, sources.added(arch))
        added = _lines(found) if asked.edits else sources.added(arch)
        asked_of: dict[str, object] = {"tree": tree.tree, "suite": plan.suite, "arch": arch, "lines": added}
        asked_of["select"] = plan.options.select
        alone = replace(plan, kernels=(counted.alone(patched, tree),), added=added, incremental=True)
        with contextlib.closing(_state(out, asked_of)) as state, EventLog(Path(os.devnull), "") as log:
            reach = _baseline(alone, state)
            own = Sources(alone, toolchain, cache, progress, scratch)

            def build(request: KernelRequest) -> Kernel:
                kernel, _ = Workbench(alone, toolchain, cache, progress, log, own).build(request)
                return kernel

            tried = Engine(alone, reach, state, build, progress.say).run(found, equivalent, seconds)
    table = Table(arch, tree.tree, len(found), tried)
    results.store(out / TABLE, json.dumps(encode(table), indent=1) + "\n")
    results.store(out / TEXT, rows.render(table))
    print("\n".join((*rows.summary(table), f"table     {out / TEXT}")), file=sys.stdout)
    return Exit.PASS


def _of(tree: Tree, added: Mapping[str, Sequence[int]]) -> list[Mutant]:
    """The mutants of the lines that a patch adds. Raises UsageError where there are none."""
    sources = {file: lines for file, lines in added.items() if file.endswith(".c")}
    found = [one for file, lines in sources.items() for one in mutants(file, text_of(tree.path, file), set(lines))]
    if not found:
        raise UsageError("the patch adds no line of C that can be broken", step="name one that changes code")
    return list({one.id: one for one in found}.values())


def _lines(found: Sequence[Mutant]) -> dict[str, tuple[int, ...]]:
    """The lines to be counted: those of the edits, and the few above that stand for one without code of its own."""
    lines: dict[str, set[int]] = {}
    for one in found:
        lines.setdefault(one.file, set()).update(range(max(1, one.line - ABOVE), one.line + 1))
    return {file: tuple(sorted(numbers)) for file, numbers in lines.items()}


def _state(out: Path, what: dict[str, object]) -> State:
    """The state in a folder, of this patch and these tests. Raises UsageError where it holds anything else."""
    if out.is_dir() and any(out.iterdir()) and not (out / STATE).is_file():
        raise UsageError(f"{out} is not empty and holds no mutants", step="choose an empty folder with --out")
    return State.open(out, what, "run of mutants")


def _baseline(plan: Plan, state: State) -> Reach:
    """Which tests execute which line of the unbroken patch. Raises UsageError where that fails its tests."""
    out = state.path.parent
    folder = out / BASELINE
    if BASELINE not in state.notes or not (folder / results.RESULTS).exists():
        carry_out(plan.with_options(out=str(folder), coverage=True), out / f"{BASELINE}.log")
        state.note(BASELINE, True)
    told = results.read(folder)
    failing = next((test for test in told.under_test() if test.outcome is Outcome.FAIL and not test.excused), None)
    if failing is not None:
        raise UsageError(
            f"the patch fails as it is: {failing.id}: {failing.describe()}",
            step=f"see {folder}; mutants tell nothing before it passes",
        )
    files = sorted((folder / FOLDER).glob(f"*/{FILE}"))
    if not files:
        why = next((found.why for found in told.coverage if found.why), "no test gave counters")
        raise HarnessError(f"which tests execute the patch is not known: {why}", step=f"see {out / BASELINE}.log")
    data = json.loads(files[0].read_text())
    never: dict[str, set[int]] = {}
    for line in data["patch"]:
        if line["state"] in (lines.State.NEVER, lines.State.NOT_BUILT, lines.State.NOT_COUNTED):
            never.setdefault(line["file"], set()).add(line["line"])
    return Reach(data["ran"], never)


def marked(path: str) -> dict[str, str]:
    """The mutants that the user says break nothing, each with the reason.

    ``- {mutant: 0123456789, why: both orders are the same to every reader}``

    Raises UsageError, naming file and line, for a file of another form.
    """
    file, step = Path(path).expanduser(), "an entry is {mutant: its id, why: the reason}"

    def text(node: yaml.Node, name: str, where: str) -> str:
        value = str(convert(node, str, f"{where}: {name}", step))
        if name == "mutant" and not re.fullmatch(r"[0-9a-f]{10}", value):
            raise UsageError(f"{where}: {value!r} is no mutant", step="copy its id from the table")
        return value

    nodes = listed(file, "the list of equivalent mutants", "- mutant: ...", step) if path else []
    found = [keyed(node, file, text, ("mutant", "why"), ("mutant", "why"), step)[0] for node in nodes]
    return {entry["mutant"]: entry["why"] for entry in found}
