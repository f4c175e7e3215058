# SPDX-License-Identifier: GPL-2.0-only
"""Tests of one machine's life against a stand-in for QEMU: what is said when it ends, is killed or keeps silent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from harness.core import definition
from harness.core.errors import Ended, How, MachineEnded, MachineLost
from harness.host.sandbox import Bind
from harness.host.toolchain import Toolchain
from harness.machine import vm
from harness.machine.deadline import Deadline
from harness.machine.qemu import Launch
from harness.machine.stopped import is_stopped
from harness.machine.vm import Vm, _ended

FAKE = Path(__file__).parents[1] / "fakes" / "qemu.py"


class Fake:
    """A toolchain whose QEMU is fakes/qemu.py."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    kind = "root"

    def argv(self, command: Sequence[str], *, binds: Sequence[Bind] = (), kvm: bool = False) -> list[str]:
        return [sys.executable, str(FAKE), self.mode, *command[1:]]


def machine(mode: str) -> Vm:
    known = definition.load("x86_64")
    here = Path("/dev/null")
    launch = Launch(known, known.spec("default"), "tcg", here, here, {"tsc_khz": "0"})
    return Vm(launch, cast(Toolchain, Fake(mode)))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_bytes_go_to_the_agent_and_come_back() -> None:
    with machine("echo") as fake:
        fake.resume()
        assert fake.expect([r"Linux version [^\n]*\n"], Deadline(10, "the first line")) == 0
        fake.send(b"hello\n")
        got = b""
        while not got.endswith(b"\n"):
            got += fake.receive(Deadline(10, "the echo"))
        assert got == b"hello\n"
        assert fake.console_lines == ["[    0.000000] Linux version 0.0 (fake)"]


def test_leaving_ends_qemu_and_removes_its_folder() -> None:
    with machine("silent") as fake:
        pid, folder = fake.pid, fake.sockets.folder
        assert alive(pid) and folder.is_dir()
    assert not alive(pid) and not folder.exists()
    fake.close()


@pytest.mark.parametrize(
    ("mode", "ended"),
    [
        ("exit:0", Ended(How.EXITED, status=0)),
        ("exit:3", Ended(How.EXITED, status=3)),
        ("kill:9", Ended(How.KILLED, signal=9)),
        ("kill:6", Ended(How.KILLED, signal=6)),
    ],
)
def test_qemu_that_ends_tells_how_and_what_it_printed(mode: str, ended: Ended) -> None:
    with machine(mode) as fake:
        fake.resume()
        fake.send(b"ping\n")
        with pytest.raises(MachineEnded, match="QEMU ended during: an answer") as raised:
            fake.receive(Deadline(10, "an answer"))
        assert raised.value.ended == ended
        assert not raised.value.expired
        assert "Linux version 0.0" in raised.value.lines[-1]
        assert "Linux version 0.0" in raised.value.what, "the last console line belongs in the line"


def test_a_monitor_that_ends_before_the_other_channels_is_watched_no_more() -> None:
    """The library closes its socket, whose number may then be another file's."""
    with machine("unplugged") as fake:
        fake.linger()
        fake.resume()
        fake.send(b"1 ping\n")
        with pytest.raises(MachineEnded) as raised:
            fake.receive(Deadline(1.5, "an answer"))
        assert raised.value.expired and raised.value.ended == Ended(How.RUNNING)


@pytest.mark.parametrize("lingers", [False, True])
def test_qemu_that_a_signal_ends_in_order_was_killed(lingers: bool) -> None:
    """Its status is 0, as that of a guest that resets."""
    with machine("terminated") as fake:
        if lingers:
            fake.linger()
        fake.resume()
        fake.send(b"1 ping\n")
        with pytest.raises(MachineEnded) as raised:
            fake.receive(Deadline(10, "an answer"))
    assert raised.value.ended == Ended(How.KILLED, signal=15)


@pytest.mark.parametrize("channel", ["agent", "console"])
def test_silence_expires_while_qemu_runs(channel: str) -> None:
    with machine("silent") as fake:
        fake.resume()
        wait = Deadline(0.3, "a word")
        with pytest.raises(MachineEnded, match="waited 0 s for a word; last console line: ") as raised:
            if channel == "agent":
                fake.receive(wait)
            else:
                fake.expect(["never printed"], wait)
        assert raised.value.ended == Ended(How.RUNNING)
        assert raised.value.expired
        assert any("Linux version" in line for line in raised.value.lines)


def test_a_console_that_shows_the_end_is_not_waited_for_long() -> None:
    with machine("silent") as fake:
        fake.resume()
        wait = Deadline(30, "a word")
        with pytest.raises(MachineEnded, match="for a word") as raised:
            fake.receive(wait, re.compile("Linux version"), 0.2)
        assert raised.value.expired and wait.left > 20
        with pytest.raises(MachineEnded):
            fake.receive(Deadline(0.2, "a word"), re.compile("never shown"), 30)


def test_qemu_that_does_not_start_is_no_fault_of_the_kernels() -> None:
    fake = machine("refuse")
    with pytest.raises(MachineLost, match="did not start: fake-qemu: no such machine") as raised:
        fake.__enter__()
    assert "doctor" in raised.value.step
    assert not fake.sockets.folder.exists()


def test_qemu_that_opens_no_socket_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "STARTUP_SECONDS", 0.5)
    fake = machine("deaf")
    with pytest.raises(MachineLost, match=r"QEMU to open its sockets.*console\.sock"):
        fake.__enter__()
    assert not fake.sockets.folder.exists()


def test_qemu_whose_monitor_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "STARTUP_SECONDS", 3.0)  # its sockets are to be there by then
    fake = machine("mute")
    with pytest.raises(MachineLost, match="QMP said nothing"):
        fake.__enter__()
    assert not fake.sockets.folder.exists()


def test_qemu_whose_monitor_greets_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "STARTUP_SECONDS", 3.0)
    fake, start = machine("stammer"), time.monotonic()
    with pytest.raises(MachineLost, match="did not start"):
        fake.__enter__()
    assert time.monotonic() - start < 15
    assert not fake.sockets.folder.exists()


def test_qemu_that_tells_of_events_for_ever_answers_all_the_same() -> None:
    with machine("events") as fake:
        fake.resume()
        start = time.monotonic()
        for _ in range(5):
            assert fake.qmp("query-status") == {"status": "running"}
        assert time.monotonic() - start < 15
        assert fake._qmp is not None and len(fake._qmp.get_events()) < 1000, "they are not kept"


def test_qemu_that_ends_during_a_monitor_command_tells_how() -> None:
    with machine("kill:9") as fake:
        fake.resume()
        for _ in range(2):  # the connection breaks under the first; the second finds it broken
            with pytest.raises(MachineEnded, match="QEMU ended during: QMP stop") as raised:
                fake.qmp("stop")
            assert raised.value.ended == Ended(How.KILLED, signal=9)


def test_qemu_whose_monitor_says_a_line_without_an_end_is_ended_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "GOODBYE_SECONDS", 0.1)
    with machine("babble") as fake:
        with pytest.raises(MachineEnded, match="QEMU ended during: QMP stop"):
            fake.qmp("stop")
    assert not fake.sockets.folder.exists()


def test_qmp_that_refuses_is_not_the_guests_end() -> None:
    with machine("silent") as fake:
        with pytest.raises(MachineLost, match="QMP no-such-command: .*no such command"):
            fake.qmp("no-such-command")
        fake.resume()


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (0, Ended(How.EXITED, status=0)),
        (1, Ended(How.EXITED, status=1)),
        (128, Ended(How.EXITED, status=128)),
        (137, Ended(How.KILLED, signal=9)),
        (-6, Ended(How.KILLED, signal=6)),
    ],
)
def test_a_sandbox_passes_signals_on_as_128_and_more(status: int, ended: Ended) -> None:
    assert _ended(status) == ended


def test_a_qemu_that_was_stopped_is_no_hang() -> None:
    """Its guest did not run: whatever was waited for is not late."""
    with machine("echo") as fake:
        fake.resume()
        os.kill(fake.pid, signal.SIGSTOP)
        try:
            while not is_stopped(fake.pid):
                pass
            with pytest.raises(MachineEnded) as caught:
                fake.receive(Deadline(0.2, "an answer"))
        finally:
            os.kill(fake.pid, signal.SIGCONT)
    assert (caught.value.ended.how, caught.value.expired) == (How.STOPPED, False)
    assert "QEMU was stopped during: an answer" in caught.value.what


def test_what_runs_below_us_may_be_stopped() -> None:
    """The sandbox around QEMU runs on: the process that it waits for does not."""
    script = "import os, signal, sys; sys.stdout.write('up'); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGSTOP)"
    above = subprocess.Popen(["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, script], stdout=subprocess.PIPE)
    assert above.stdout and above.stdout.read(2) == b"up"
    (task,) = Path(f"/proc/{above.pid}/task").iterdir()
    child = int((task / "children").read_text())
    while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass
    try:
        assert is_stopped(above.pid) and is_stopped(child)
    finally:
        os.kill(child, signal.SIGCONT)
    assert above.wait(10) == 0
    assert not is_stopped(above.pid)
