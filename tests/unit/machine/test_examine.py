# SPDX-License-Identifier: GPL-2.0-only
"""Tests of looking at a machine that answers no more, and of its memory's dump, against a stand-in for QEMU."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.core.errors import Ended, HarnessError, How, MachineEnded, MachineLost
from harness.machine import examine
from harness.machine.deadline import Deadline
from harness.machine.dump import dump
from harness.machine.examine import Hung, look_into
from tests.unit.machine.test_vm import machine

EXPIRED = MachineEnded("waited", Ended(How.RUNNING), ("a line",), expired=True, waiting="an answer, 3 s")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "REACT_SECONDS", 2.0)
    monkeypatch.setattr(examine, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(examine, "LETTERS", tuple((letter, header, 0.1) for letter, header, _ in examine.LETTERS))


@pytest.mark.parametrize("mode", ["sysrq", "sysrq:3"])
def test_cpus_are_read_twice_and_the_kernel_is_asked_until_it_hears(mode: str) -> None:
    with machine(mode) as fake:
        hung = look_into(fake, EXPIRED, 1.0)
    assert isinstance(hung, Hung)
    assert (hung.waiting, hung.lines, hung.expired) == ("an answer, 3 s", ("a line",), True)
    seen = hung.examined
    assert [(cpu.index, cpu.pc, cpu.masked) for cpu in seen.cpus] == [(n, 0xFFFFFFFF81000007, True) for n in (0, 1)]
    assert seen.later == seen.cpus
    asked = [line.partition("sysrq: ")[2] for line in seen.said if "sysrq: " in line]
    assert [line for line in asked if not line.startswith("HELP")] == [
        "Show Blocked State",
        "Show State",
        "Show backtrace of all active CPUs",
    ]
    assert seen.why == ()


def test_a_kernel_that_does_not_hear_is_looked_at_all_the_same() -> None:
    with machine("silent") as fake:
        hung = look_into(fake, EXPIRED, 1.0)
    assert isinstance(hung, Hung)
    assert len(hung.examined.cpus) == len(hung.examined.later) == 2
    assert hung.examined.why == ("sysrq-w on the console: waited 2 s for the kernel to answer",)


def test_qemu_that_goes_away_meanwhile_leaves_what_was_seen() -> None:
    with machine("broken:9") as fake:
        hung = look_into(fake, EXPIRED, 1.0)
    assert isinstance(hung, Hung)
    assert len(hung.examined.cpus) == 2 and not hung.examined.later
    assert "QEMU went away while sysrq-w was asked for" in hung.examined.why


def test_qemu_that_is_gone_is_no_hang() -> None:
    with machine("kill:9") as fake:
        fake.resume()
        fake.send(b"ping\n")
        with pytest.raises(MachineEnded):
            fake.receive(Deadline(10, "an answer"))
        shown = look_into(fake, EXPIRED, 1.0)
    assert not isinstance(shown, Hung)
    assert shown.ended == Ended(How.KILLED, signal=9)


@pytest.mark.parametrize(
    "error",
    [
        MachineEnded("it ended", Ended(How.EXITED, status=0), (), expired=False),
        MachineEnded("it was killed", Ended(How.KILLED, signal=9), (), expired=True),
    ],
)
def test_only_a_hang_is_examined(error: MachineEnded) -> None:
    with machine("silent") as fake:
        assert look_into(fake, error, 1.0) is error


def test_a_machine_that_resets_lingers_when_it_is_told_to() -> None:
    with machine("reset") as fake:
        fake.linger()
        fake.resume()
        fake.expect(["Linux version"], Deadline(10, "its line"))  # then no socket but the monitor's tells of anything
        fake.send(b"ping\n")
        with pytest.raises(MachineEnded) as raised:
            fake.receive(Deadline(10, "an answer"))
        assert raised.value.ended == Ended(How.EXITED, status=0) and not raised.value.expired
        assert fake.qmp("query-status") == {"status": "running"}, "and can still be asked"
        with pytest.raises(MachineEnded, match="QEMU ended during: more"):
            fake.receive(Deadline(10, "more"))


def test_memory_is_written_to_a_file_of_ours(tmp_path: Path) -> None:
    with machine("silent") as fake:
        path = dump(fake, tmp_path / "dumps" / "a test", 1.0)
    assert path == tmp_path / "dumps" / "a test.kdump"
    assert path.read_bytes() == b"memory as kdump-raw-zlib"


def test_a_dump_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with machine("full") as fake, pytest.raises(MachineLost, match="could not write"):
        dump(fake, tmp_path / "x", 1.0)
    assert not list(tmp_path.iterdir())


def test_a_dump_that_might_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 30))
    with machine("silent") as fake, pytest.raises(HarnessError, match="1024 MiB free, a dump may take 1088"):
        dump(fake, tmp_path / "x", 1.0)
    assert not list(tmp_path.iterdir())
