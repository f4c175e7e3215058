# SPDX-License-Identifier: GPL-2.0-only
"""Coverage in words."""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.records import Role
from harness.core.words import plural
from harness.coverage.coverage import Coverage
from harness.coverage.lines import PatchLine, State
from harness.verdict import Results

NEVER = 5
"""Lines of the patch that did not run and are shown on the terminal."""


def lines(results: Results) -> Iterator[str]:
    """A line for each kernel under test."""
    for found in results.coverage:
        if not any(kernel.id == found.kernel and kernel.role is Role.BASE for kernel in results.kernels):
            yield f"{found.arch} {summary(found)}"


def of_patch(results: Results) -> tuple[tuple[PatchLine, ...], tuple[PatchLine, ...]]:
    """The lines of the patch that could run on some architecture, and those of them that ran on none."""
    lines: dict[tuple[str, int], PatchLine] = {}
    for found in results.coverage:
        for line in found.executable:
            known = lines.get((line.file, line.line))
            if known is None or known.state is State.NEVER:
                lines[line.file, line.line] = line
    every = tuple(lines.values())
    return every, tuple(line for line in every if line.state is State.NEVER)


def patch_lines(results: Results) -> Iterator[str]:
    """What ran of the patch, and first of all what did not."""
    every, never = of_patch(results)
    other = {(line.file, line.line): line for found in results.coverage for line in found.patch if line.why}
    unbuilt = [line for line in other.values() if line.state in (State.NOT_BUILT, State.NOT_COUNTED)]
    if every or unbuilt:
        yield f"{len(every) - len(never)} of {plural(len(every), 'changed line')} ran"
    missing = (*never, *unbuilt)
    for line in missing[:NEVER]:
        state = "never ran" if line.state is State.NEVER else str(line.state)
        yield f"{line.file}:{line.line} {state}: {line.text.strip()}" + (f" ({line.why})" if line.why else "")
    if len(missing) > NEVER:
        yield f"and {plural(len(missing) - NEVER, 'more line')}, see the report and coverage/*/patch.txt"


def shortfall(results: Results) -> str:
    """For the last line: how many changed lines no test ran; empty where all ran, or none was counted."""
    every, never = of_patch(results)
    return f"{len(never)} of {plural(len(every), 'changed line')} never ran" if never else ""


def summary(found: Coverage) -> str:
    """Which callers saw a failure, and how many error branches were taken."""
    if found.why:
        return f"not measured: {found.why}"
    where = ", on a kernel beside that counts" if found.beside else ""
    return "; ".join((*_callers(found), _errors(found), f"counters of {plural(found.tests, 'test')}{where}"))


def _callers(found: Coverage) -> Iterator[str]:
    """A caller is a place: one function may call twice."""
    for callee in dict.fromkeys(call.callee for call in found.calls):
        mine = [call for call in found.calls if call.callee == callee]
        yield f"{sum(bool(call.failed) for call in mine)} of {plural(len(mine), 'caller')} saw {callee}() fail"


def _errors(found: Coverage) -> str:
    branches = f"{found.errors_taken} of {plural(found.errors, 'error branch')}"
    return f"{branches} taken in {plural(len(found.functions), 'function')}"
