# SPDX-License-Identifier: GPL-2.0-only
"""The condition of --coverage: each caller of a fallible function has seen it fail, or the run is inconclusive.

Of a patch, whose lines are counted on a kernel beside, it is only asked that they were, and that no test failed there
alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.core.records import Role, Verdict
from harness.coverage.branches import Call
from harness.coverage.counters import FOLDER
from harness.coverage.coverage import Coverage
from harness.verdict.log import Log, Reason


def gaps(log: Log) -> Iterator[Reason]:
    """The gaps in coverage on the kernels under test. A replay's one test need not cover all."""
    plan = log.run.plan if log.run and isinstance(log.run.plan, dict) else {}
    if not plan.get("coverage") or plan.get("test_id"):
        return
    for kernel in log.standing():
        if kernel.role is Role.BASE or not log.on(kernel):
            continue
        found = log.coverage.get(kernel.id)
        if found and found.beside:
            lines, step = _beside(log, found), log.again()
        else:
            lines, step = _missing(found), log.again(drop="-k")
        for line in lines:
            yield Reason(Verdict.INCONCLUSIVE, f"{kernel.id}: {line}", step)


def _beside(log: Log, found: Coverage) -> Iterator[str]:
    if found.why:
        yield f"its lines were not counted: {found.why}"
    known = {test.id for test in log.rows() if test.kernel == found.kernel and test.bad}
    for test in found.failing:
        if test not in known:
            yield f"{test} fails on the kernel that counts lines, and not on this one (see OUT/{FOLDER}/{found.arch})"


def _missing(found: Coverage | None) -> Iterator[str]:
    if found is None:
        yield "its coverage was not measured"
    elif found.why:
        yield f"no coverage: {found.why}"
    else:
        yield from (unseen(call) for call in found.calls if not call.failed)


def unseen(call: Call) -> str:
    """A message for a caller that never saw a failure."""
    place = f"{call.file}:{call.line}"
    if call.why:
        return f"{call.function}() cannot be seen to handle a failure of {call.callee}(): {call.why} ({place})"
    return f"{call.function}() never saw {call.callee}() fail ({place})"
