# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what a raised exception means: whose failure it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.core.errors import (
    Disagreed,
    Ended,
    GuestError,
    HarnessError,
    How,
    Inconclusive,
    KernelFailure,
    MachineEnded,
    MachineLost,
    UsageError,
)
from harness.core.records import Frame, Outcome
from harness.guest.agent import AgentError
from harness.session.outcome import Ending, KernelFinding, ending_of

PANIC = ("[    1.000000][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs",)


def plain(frame: Frame) -> Sequence[Frame]:
    return (frame,)


def ended(error: BaseException | None, expect: Sequence[str] = ()) -> Ending:
    return ending_of(error, plain, expect)


def test_nothing_raised_is_a_pass_for_now() -> None:
    assert ended(None) == Ending(Outcome.PASS)


def test_a_skip_keeps_its_reason() -> None:
    assert ended(pytest.skip.Exception("no NUMA here")) == Ending(Outcome.SKIP, "no NUMA here")


@pytest.mark.parametrize(
    ("error", "why", "oracle", "kind"),
    [
        (AssertionError("3 == 4\nmore"), "3 == 4", "test", "assertion"),
        (AssertionError(), "assertion failed", "test", "assertion"),
        (pytest.fail.Exception("the worker starved"), "the worker starved", "test", "assertion"),
        (Disagreed("create(7): 0, the model wants -17"), "create(7): 0, the model wants -17", "model", "disagreement"),
        (KernelFailure("hang", "the kernel hangs"), "the kernel hangs", "guest", "hang"),
    ],
    ids=["assertion", "bare-assertion", "pytest.fail", "model", "kernel"],
)
def test_the_kernels_failures(error: BaseException, why: str, oracle: str, kind: str) -> None:
    end = ended(error)
    assert (end.outcome, end.why) == (Outcome.FAIL, why)
    (found,) = end.findings
    assert (found.oracle, found.kind, found.counts) == (oracle, kind, True)
    assert found.signature


@pytest.mark.parametrize(
    "error",
    [
        GuestError("workload died"),
        AgentError("load", {"ok": False, "errno": 22, "error": "refused by the verifier"}),
        HarnessError("disk full", step="free space"),
        MachineLost("QEMU did not start"),
        Inconclusive("no fault was injected"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_kernels_failure(error: BaseException) -> None:
    end = ended(error)
    assert end.outcome is Outcome.INCONCLUSIVE and not end.findings
    assert str(error) in end.why


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("y"), RecursionError(), UsageError("z"), KernelFinding("f")]
)
def test_what_nobody_foresaw_is_never_the_kernels(error: BaseException) -> None:
    end = ended(error)
    assert end.outcome is Outcome.INCONCLUSIVE and not end.findings
    assert type(error).__name__ in end.why


def test_an_unforeseen_error_names_its_place() -> None:
    try:
        raise TypeError("no such thing")
    except TypeError as error:
        end = ended(error)
    assert "TypeError: no such thing at " in end.why and "test_outcome.py:" in end.why


def test_a_panic_is_the_kernels() -> None:
    end = ended(MachineEnded("no answer", Ended(How.EXITED, status=0), PANIC, False))
    assert end.outcome is Outcome.FAIL
    assert [found.kind for found in end.findings] == ["panic"]


def test_an_expected_panic_stays_in_the_findings_but_does_not_count() -> None:
    end = ended(MachineEnded("no answer", Ended(How.EXITED, status=0), PANIC, False), ["Unable to mount"])
    assert [found.counts for found in end.findings] == [False]


def test_a_deadline_that_ran_out_is_a_hang() -> None:
    end = ended(MachineEnded("waited 15 s", Ended(How.RUNNING), ("[    1.0] x",), True))
    assert (end.outcome, [found.kind for found in end.findings]) == (Outcome.FAIL, ["hang"])


@pytest.mark.parametrize("lines", [(), PANIC], ids=["silent", "after a panic"])
def test_qemu_killed_is_not_the_kernel_dying(lines: Sequence[str]) -> None:
    end = ended(MachineEnded("gone", Ended(How.KILLED, signal=9), lines, False))
    assert end.outcome is Outcome.INCONCLUSIVE and not end.findings
    assert "SIGKILL" in end.why


def test_two_tests_that_fail_alike_have_one_signature() -> None:
    first, second = ended(Disagreed("create(7) answered 0")), ended(Disagreed("create(7) answered 0"))
    assert first.findings[0].signature == second.findings[0].signature
    assert ended(Disagreed("destroy(7)")).findings[0].signature != first.findings[0].signature
