# SPDX-License-Identifier: GPL-2.0-only
"""Owns what --coverage demands of a run: who calls what may fail has seen it fail, or the run is inconclusive."""

from __future__ import annotations

from collections.abc import Iterator

from harness.oracles.coverage import Call, Coverage
from harness.records import Role, Verdict
from harness.verdict.log import Log, Reason


def gaps(log: Log) -> Iterator[Reason]:
    """What a run with --coverage leaves open on the kernels under test. A replay's one test need not cover all."""
    plan = log.run.plan if log.run and isinstance(log.run.plan, dict) else {}
    if not plan.get("coverage") or plan.get("test_id"):
        return
    for kernel in log.standing():
        if kernel.role is Role.BASE or not log.on(kernel):
            continue
        for line in _missing(log.coverage.get(kernel.id)):
            yield Reason(Verdict.INCONCLUSIVE, f"{kernel.id}: {line}", log.again(drop="-k"))


def _missing(found: Coverage | None) -> Iterator[str]:
    if found is None:
        yield "its coverage was not measured"
    elif found.why:
        yield f"no coverage: {found.why}"
    else:
        yield from (unseen(call) for call in found.calls if not call.failed)


def unseen(call: Call) -> str:
    """That a caller never saw a failure, in one line."""
    place = f"{call.file}:{call.line}"
    if call.why:
        return f"{call.function}() cannot be seen to handle a failure of {call.callee}(): {call.why} ({place})"
    return f"{call.function}() never saw {call.callee}() fail ({place})"
