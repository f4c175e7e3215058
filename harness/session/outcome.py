# SPDX-License-Identifier: GPL-2.0-only
"""How a test ends: its exception, the evidence, and the TestResult made of both."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from harness.core.errors import Disagreed, GuestError, HarnessError, Inconclusive, KernelFailure, MachineEnded
from harness.core.records import Finding, Outcome
from harness.oracles import crash
from harness.oracles.hang import Resolve
from harness.oracles.splat.frames import Symbolize, neutral, signature


class KernelFinding(Exception):
    """Raised at a test's end so that pytest shows it as failed; the findings are in the event log."""


@dataclass(frozen=True)
class Ending:
    """What an exception means: an outcome, why, and the finding that it is."""

    outcome: Outcome
    why: str = ""
    findings: tuple[Finding, ...] = ()


def _finding(oracle: str, kind: str, title: str, function: str | None = None) -> Finding:
    return Finding(oracle, kind, title, signature(oracle, kind, (), neutral(title)), function)


def _machine_ended(error: MachineEnded, symbolize: Symbolize, expect: Sequence[str], resolve: Resolve | None) -> Ending:
    found = crash.of(error, symbolize, expect, resolve)
    if found:
        return Ending(Outcome.FAIL, found[0].title, tuple(found))
    lost = crash.classify(error.lines, error.ended, error.expired)
    return Ending(Outcome.INCONCLUSIVE, str(lost or error.what))


def ending_of(
    error: BaseException | None, symbolize: Symbolize, expect: Sequence[str] = (), resolve: Resolve | None = None
) -> Ending:
    """What a test's exception means. Failures of kernel, guest and harness are distinguished.

    An assertion is the kernel's failure; an unexpected exception is ours, never the kernel's.
    """
    if error is None:
        return Ending(Outcome.PASS)
    if isinstance(error, pytest.skip.Exception):
        return Ending(Outcome.SKIP, str(error.msg))
    if isinstance(error, MachineEnded):
        return _machine_ended(error, symbolize, expect, resolve)
    if isinstance(error, Disagreed):
        return Ending(Outcome.FAIL, str(error), (_finding("model", "disagreement", str(error), error.function),))
    if isinstance(error, AssertionError | pytest.fail.Exception):
        title = (str(error).splitlines() or ["assertion failed"])[0]
        return Ending(Outcome.FAIL, title, (_finding("test", "assertion", title),))
    if isinstance(error, KernelFailure):
        return Ending(Outcome.FAIL, error.what, (_finding("guest", error.kind, error.what),))
    if isinstance(error, Inconclusive | GuestError | HarnessError):
        return Ending(Outcome.INCONCLUSIVE, error.line())
    where = traceback.extract_tb(error.__traceback__)
    place = f" at {where[-1].filename}:{where[-1].lineno}" if where else ""
    return Ending(Outcome.INCONCLUSIVE, f"the harness itself failed: {type(error).__name__}: {error}{place}")
