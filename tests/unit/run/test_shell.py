# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what the shell says of its guest: reports heard meanwhile, and how it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import Ended, Exit, How, KernelFailure, MachineEnded, MachineLost
from harness.core.records import Frame
from harness.run import shell
from harness.run.shell import Ear, judged

GOLDEN = Path(__file__).parents[1] / "oracles/golden"
NO_SYMBOLS = None


def console(name: str) -> list[str]:
    return (GOLDEN / name / "console.txt").read_text().splitlines()


LOCKUP = [
    "[   40.000000][    C1] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [stress:105]",
    "[   40.000001][    C1] RIP: 0010:spinner+0x12/0x40",
    "[   40.000002][    C1] Call Trace:",
    "[   40.000003][    C1]  spin_caller+0x10/0x20",
]


def test_each_report_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    ear = Ear(NO_SYMBOLS, patience=True)
    lines = console("warn_612_x86")
    for length in (0, 3, len(lines), len(lines)):
        ear(lines[:length])
    ear([*lines, *lines])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("the kernel's log has: ")
    assert not said[0].startswith("kharness: "), "which begins a line about an exit status of ours"


def test_a_clean_console_is_nothing_to_speak_of(capsys: pytest.CaptureFixture[str]) -> None:
    Ear(NO_SYMBOLS, patience=False)(console("clean_boot_real_x86"))
    assert capsys.readouterr().err == ""


def test_a_stuck_cpu_ends_a_command_and_is_said_to_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    Ear(NO_SYMBOLS, patience=True)(LOCKUP)
    assert "soft lockup" in capsys.readouterr().err
    with pytest.raises(MachineEnded) as raised:
        Ear(NO_SYMBOLS, patience=False)(LOCKUP)
    failure = judged(raised.value, NO_SYMBOLS)
    assert isinstance(failure, KernelFailure)
    assert failure.exit is Exit.FAIL
    assert "the kernel hangs" in failure.what and "soft lockup" in failure.what


@pytest.mark.parametrize(
    ("lines", "ended", "expired", "kind", "status", "says"),
    [
        ("oops_x86", Ended(How.EXITED, status=0), False, KernelFailure, Exit.FAIL, "the kernel panicked"),
        (
            "panic_arm64",
            Ended(How.EXITED, status=0),
            False,
            KernelFailure,
            Exit.FAIL,
            "deliberate panic in kharness_panic",
        ),
        ("oops_x86", Ended(How.KILLED, signal=9), False, MachineLost, Exit.UNJUDGED, "QEMU was killed by SIGKILL"),
        ("clean_boot_x86", Ended(How.RUNNING), True, KernelFailure, Exit.FAIL, "the kernel hangs: waited in vain"),
        ("clean_boot_x86", Ended(How.EXITED, status=1), False, MachineLost, Exit.UNJUDGED, "QEMU failed"),
    ],
)
def test_how_it_ended_is_the_crash_oracles_word(
    lines: str, ended: Ended, expired: bool, kind: type[Exception], status: Exit, says: str
) -> None:
    failure = judged(MachineEnded("gone", ended, console(lines), expired, "an answer"), NO_SYMBOLS)
    assert isinstance(failure, kind)
    assert failure.exit is status
    assert says in failure.line() and "\n" not in failure.line()


def test_a_line_on_a_raw_terminal_starts_at_its_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.say("plain \x1b[31m")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shell.say("raw")
    assert capsys.readouterr().err == "plain \\x1b[31m\n\rraw\r\n"


def test_places_are_named() -> None:
    def known(frame: Frame) -> list[Frame]:
        return [Frame(frame.function, frame.offset, frame.size, "drivers/x.c", 7, module=frame.module)]

    ended = MachineEnded("gone", Ended(How.EXITED, status=0), console("panic_arm64"), False)
    assert "in kharness_panic (drivers/x.c:7)" in judged(ended, known).line()
