# SPDX-License-Identifier: GPL-2.0-only
"""The tests of telling panic, oops, hang, reset and a lost QEMU apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import KernelFailure, MachineEnded, MachineLost
from harness.core.records import Finding, Frame
from harness.guest.guest import Guest
from harness.oracles import crash
from harness.oracles.crash import Ended, How, classify, findings
from harness.oracles.registry import KernelTarget
from harness.oracles.splat.log import parse_kmsg

GOLDEN = Path(__file__).parent / "golden"
PANIC = (GOLDEN / "oops_x86" / "console.txt").read_text().splitlines()
OOPS = PANIC[:24]
WARN = parse_kmsg((GOLDEN / "warn_7x_x86" / "kmsg.txt").read_text())
CLEAN = (GOLDEN / "clean_boot_x86" / "console.txt").read_text().splitlines()
NO_ROOT = [
    *CLEAN,
    "[    4.000000][    T1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
]
LOCKUP = [
    *CLEAN,
    "[   40.000000][    C1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [stress:105]",
    "[   40.000001][    C1] RIP: 0010:spinner+0x12/0x40",
    "[   40.000002][    C1] Call Trace:",
    "[   40.000003][    C1]  spin_caller+0x10/0x20",
]
OUT_OF_MEMORY = [*CLEAN, "[    5.000000][   T70] Out of memory: Killed process 70 (agent) total-vm:2048kB"]
AGENT = "kharness: agent ended with status {}"
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
        (CLEAN, RESET, False, "reset", "without a message"),
        ([*CLEAN, "[    5.000000][    T1] reboot: Restarting system"], RESET, False, "reset", "Restarting system"),
        ([], RUNNING, True, "hang", "no answer"),
        ([], RESET, False, "reset", ""),
        (CLEAN, KILLED, False, "lost", "SIGKILL"),
        (PANIC, KILLED, True, "lost", "SIGKILL"),
        (CLEAN, Ended(How.KILLED), True, "lost", "signal 0"),
        (CLEAN, FAILED, False, "lost", "status 1"),
        (CLEAN, SILENT, True, "lost", "without a message"),
        (CLEAN, Ended(How.STOPPED), False, "lost", "stopped from outside"),
        (PANIC, Ended(How.STOPPED), False, "panic", "Fatal exception"),
        ([*CLEAN, AGENT.format(137)], RESET, False, "lost", "the agent in the guest was killed by SIGKILL"),
        ([*CLEAN, AGENT.format(143)], RESET, False, "lost", "the agent in the guest was killed by SIGTERM"),
        ([*CLEAN, AGENT.format(139)], RESET, False, "reset", "without a message"),
        ([*CLEAN, AGENT.format(0)], RESET, False, "reset", "without a message"),
        ([*OOPS, AGENT.format(137)], RESET, False, "oops", "NULL pointer dereference"),
        ([*OUT_OF_MEMORY, AGENT.format(137)], RESET, False, "reset", ""),
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


@pytest.mark.parametrize(
    ("name", "ended", "kind", "title"),
    [
        (
            "oops_twice_x86",
            RESET,
            "panic",
            "the kernel panicked: Fatal exception in interrupt (BUG: kernel NULL pointer",
        ),
        ("oops_twice_arm64", RUNNING, "oops", "the kernel oopsed: Unable to handle kernel NULL pointer dereference"),
        ("oops_twice_arm64", RESET, "oops", "the kernel oopsed: Unable to handle kernel NULL pointer dereference"),
    ],
)
def test_of_two_oopses_the_first_is_the_cause_and_the_second_is_shown(
    name: str, ended: Ended, kind: str, title: str
) -> None:
    lines = (GOLDEN / name / "console.txt").read_text().splitlines()
    (found,) = findings(lines, ended, False)
    assert (found.kind, found.function) == (kind, "exit_dsq")
    assert found.title.startswith(title)
    assert found.signature == f"crash:{kind}:exit_dsq<scx_alloc_and_add_sched<scx_root_enable_workfn<kthread_worker_fn"
    (at,) = [number for number, line in enumerate(found.log) if line.startswith("also on the console")]
    first, second = "\n".join(found.log[:at]), "\n".join(found.log[at:])
    assert "exit_dsq" in first and "destroy_dsq" not in first
    assert found.log[at].startswith("also on the console, after it: ")
    assert " scx_bpf_destroy_dsq+" in second and "[#2]" in second


def test_what_was_reported_before_the_oops_is_shown_and_not_blamed() -> None:
    """A use after free that KASAN saw may be what the oops comes of."""
    kasan = [f"[    3.{line[7:]}" for line in (GOLDEN / "kasan_uaf_x86" / "console.txt").read_text().splitlines()]
    (found,) = findings([*kasan, *OOPS], RUNNING, False)
    assert (found.kind, found.function) == ("oops", "exit_dsq")
    assert [line for line in found.log if line.startswith("also on the console, before it: BUG: KASAN: ")]


def test_a_panic_that_no_oops_came_before_is_its_own_cause() -> None:
    """A warning is no oops, whatever else it is."""
    warned = [f"[    3.000000][   T91] {record.text}" for record in WARN]
    (found,) = findings([*warned, *NO_ROOT[len(CLEAN) :]], RESET, False)
    assert found.title == "the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)"
    assert found.function is None
    assert [line for line in found.log if line.startswith("also on the console, before it: WARNING at ")]


def test_what_is_shown_beside_has_an_end() -> None:
    many = [f"[   {n}.000000][ T{n}] WARNING: mm/slub.c:{n} at kfree+0x1/0x20, CPU#1: a/{n}" for n in range(100, 999)]
    (found,) = findings([*OOPS, *many], RUNNING, False)
    assert found.function == "exit_dsq"
    assert 400 < len(found.log) < 440


def test_a_hang_shows_what_was_reported_before_it() -> None:
    warned = [f"[    3.000000][   T91] {record.text}" for record in WARN]
    for rest, function in ((LOCKUP[len(CLEAN) :], "spinner"), ([], None)):
        (found,) = findings([*warned, *rest], RUNNING, True)
        assert (found.kind, found.function) == ("hang", function)
        assert [line for line in found.log if line.startswith("also on the console, before it: WARNING at ")]


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


@pytest.mark.parametrize(
    ("ends", "caught"),
    [(["stopped", "hangs"], True), (["hangs"], True), (["stopped"], False), (["stopped"] * 2, False)],
)
def test_a_canary_whose_qemu_was_stopped_waits_once_more(
    monkeypatch: pytest.MonkeyPatch, ends: list[str], caught: bool
) -> None:
    """A guest that was stopped from outside when its time was over had none."""
    left = list(ends)

    def call(verb: str, /, **args: object) -> dict[str, Any]:
        if not left:
            return {"ok": True}
        how = How.STOPPED if left.pop(0) == "stopped" else How.RUNNING
        raise MachineEnded("no answer", Ended(how), (), how is How.RUNNING)

    def shown(error: MachineEnded, *args: object, **named: object) -> list[Finding]:
        hangs = error.ended.how is How.RUNNING
        return [Finding("hang", "hang", "it hangs", "hang", function="hang_here")] if hangs else []

    monkeypatch.setattr(crash, "look_into", lambda vm, error, scale, readers: error)
    monkeypatch.setattr(crash, "of", shown)
    guest = SimpleNamespace(agent=SimpleNamespace(call=call), vm=None)
    target = SimpleNamespace(pristine=SimpleNamespace(scale=1.0), readers=(), symbols=None, addresses=None)
    assert crash.dies("hang", "hang", "hang_here")(cast(Guest, guest), cast(KernelTarget, target)) == {"hang": caught}
