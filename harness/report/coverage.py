# SPDX-License-Identifier: GPL-2.0-only
"""Owns how coverage is told in words."""

from __future__ import annotations

from collections.abc import Iterator

from harness.oracles.coverage import Coverage
from harness.records import Role
from harness.verdict import Results
from harness.words import plural


def lines(results: Results) -> Iterator[str]:
    """A line for each kernel under test."""
    for found in results.coverage:
        if not any(kernel.id == found.kernel and kernel.role is Role.BASE for kernel in results.kernels):
            yield f"{found.arch} {summary(found)}"


def summary(found: Coverage) -> str:
    """Who saw a failure, and how many error branches were taken."""
    if found.why:
        return f"not measured: {found.why}"
    return "; ".join((*_callers(found), _errors(found), f"counters of {plural(found.tests, 'test')}"))


def _callers(found: Coverage) -> Iterator[str]:
    """A caller is a place: one function may call twice."""
    for callee in dict.fromkeys(call.callee for call in found.calls):
        mine = [call for call in found.calls if call.callee == callee]
        yield f"{sum(bool(call.failed) for call in mine)} of {plural(len(mine), 'caller')} saw {callee}() fail"


def _errors(found: Coverage) -> str:
    branches = f"{found.errors_taken} of {plural(found.errors, 'error branch')}"
    return f"{branches} taken in {plural(len(found.functions), 'function')}"
