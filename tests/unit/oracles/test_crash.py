# SPDX-License-Identifier: GPL-2.0-only
"""Owns the tests of telling panic, oops, hang, reset and a lost QEMU apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.oracles.crash import Ended, How, classify, findings
from harness.records import Frame, KernelFailure, MachineLost

GOLDEN = Path(__file__).parent / "golden"
PANIC = (GOLDEN / "oops_x86" / "console.txt").read_text().splitlines()
OOPS = PANIC[:24]
CLEAN = (GOLDEN / "clean_boot_x86" / "console.txt").read_text().splitlines()
NO_ROOT = [*CLEAN, "[    4.000000][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"]
LOCKUP = [
    *CLEAN,
    "[   40.000000][    C1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [stress:105]",
    "[   40.000001][    C1] RIP: 0010:spinner+0x12/0x40",
    "[   40.000002][    C1] Call Trace:",
    "[   40.000003][    C1]  spin_caller+0x10/0x20",
]
RUNNING, RESET, SILENT = Ended(How.RUNNING), Ended(How.EXITED, status=0), Ended(How.SILENT)
KILLED, FAILED, PVPANIC = Ended(How.KILLED, signal=9), Ended(How.EXITED, status=1), Ended(How.GUEST_PANIC)


@pytest.mark.parametrize(
    ("lines", "ended", "late", "kind", "says"),
    [
        (CLEAN, RUNNING, False, None, ""),
        (CLEAN, RUNNING, True, "hang", "nothing on the console says why"),
        (LOCKUP, RUNNING, True, "hang", "soft lockup"),
        (OOPS, RUNNING, False, "oops", "NULL pointer dereference"),
        (OOPS, RUNNING, True, "oops", "NULL pointer dereference"),
        (OOPS, RESET, False, "oops", "NULL pointer dereference"),
        (PANIC, RUNNING, True, "panic", "Fatal exception (BUG: kernel NULL pointer dereference"),
        (PANIC, RESET, False, "panic", "Fatal exception"),
        (PANIC, FAILED, False, "panic", "Fatal exception"),
        (PANIC, SILENT, False, "panic", "Fatal exception"),
        (NO_ROOT, RUNNING, False, "panic", "VFS: Unable to mount root fs"),
        (CLEAN, PVPANIC, False, "panic", "without a message"),
        (CLEAN, RESET, False, "reset", "without a word"),
        ([*CLEAN, "[    5.000000][    T1] reboot: Restarting system"], RESET, False, "reset", "Restarting system"),
        ([], RUNNING, True, "hang", "no answer"),
        ([], RESET, False, "reset", ""),
        (CLEAN, KILLED, False, "lost", "SIGKILL"),
        (PANIC, KILLED, True, "lost", "SIGKILL"),
        (CLEAN, Ended(How.KILLED), True, "lost", "signal 0"),
        (CLEAN, FAILED, False, "lost", "status 1"),
        (CLEAN, SILENT, True, "lost", "without a word"),
        ([], SILENT, False, "lost", ""),
    ],
)
def test_classify(lines: list[str], ended: Ended, late: bool, kind: str | None, says: str) -> None:
    got = classify(lines, ended, late)
    if kind is None:
        assert got is None
    elif kind == "lost":
        assert isinstance(got, MachineLost) and got.step
    else:
        assert isinstance(got, KernelFailure) and got.kind == kind
    if got is not None:
        assert says in got.what and "\n" not in got.what
        assert got.detail == "\n".join(lines[-30:])


def test_a_hang_says_what_was_waited_for_and_no_seconds() -> None:
    (found,) = findings(CLEAN, RUNNING, True, "the kernel to boot")
    assert "waited in vain for the kernel to boot" in found.title


def test_user_space_cannot_fake_a_panic() -> None:
    assert classify([*CLEAN, "Kernel panic - not syncing: says a shell"], RUNNING, False) is None


def test_findings_carry_the_cause() -> None:
    (found,) = findings(PANIC, RESET, False)
    assert (found.oracle, found.kind, found.function) == ("crash", "panic", "exit_dsq")
    assert found.signature.startswith("crash:panic:exit_dsq<scx_alloc_and_add_sched")
    assert found.frames[0].function == "exit_dsq" and found.log
    (found,) = findings(LOCKUP, RUNNING, True, expect=["soft lockup"])
    assert (found.kind, found.function, found.expected) == ("hang", "spinner", True)
    (found,) = findings(CLEAN, RUNNING, True)
    assert (found.kind, found.function, found.frames) == ("hang", None, ()) and found.log


def test_findings_blame_no_kernel_for_a_lost_qemu() -> None:
    assert findings(PANIC, KILLED, True) == []
    assert findings(CLEAN, RUNNING, False) == []


def test_arm64_panic_is_not_blamed_on_what_prints_the_trace() -> None:
    """vmlinux has dump_backtrace() inlined into show_stack() there (arch/arm64/kernel/stacktrace.c)."""

    def symbolize(frame: Frame) -> list[Frame]:
        inlined = [Frame("dump_backtrace", inlined=True), Frame("show_stack")]
        return inlined if frame.function == "show_stack" else [frame]

    lines = (GOLDEN / "panic_arm64" / "console.txt").read_text().splitlines()
    (found,) = findings(lines, RESET, False, symbolize=symbolize)
    assert (found.kind, found.function) == ("panic", "kharness_panic")
    assert found.signature.startswith("crash:panic:kharness_panic<canary_write")
