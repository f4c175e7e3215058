# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the watch over a session: what it finds, whom it tells, and that nobody waits for a hung guest."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from harness.core.errors import Ended, How, MachineEnded
from harness.guest import remote
from harness.guest.remote import Watch, shell_line

DEAD = MachineEnded("QEMU ended", Ended(How.KILLED, signal=9), ["last words"], False)


class FakeVm:
    def __init__(self) -> None:
        self.console_lines = ["a line"]
        self.error: MachineEnded | None = None

    def attend(self, seconds: float, wake: int) -> None:
        if self.error is not None:
            raise self.error
        select.select([wake], [], [], 0.01)

    def qmp(self, command: str) -> None:
        if self.error is not None:
            raise self.error


class FakeAgent:
    """Answers at once, unless it is to be silent: then as a hung guest does."""

    scale = 1.0

    def __init__(self) -> None:
        self.silent = threading.Event()
        self.asked = threading.Event()
        self.server_ended = False

    def call(self, verb: str, **args: Any) -> dict[str, Any]:
        assert args["seconds"] == remote.PATIENCE
        self.asked.set()
        if self.silent.is_set():
            raise MachineEnded("waited", Ended(How.RUNNING), [], expired=True, waiting=verb)
        return {"ok": verb == "ping" or self.server_ended}


class Machine:
    def __init__(self) -> None:
        self.vm: Any = FakeVm()
        self.agent: Any = FakeAgent()


def watch(machine: Machine, broken: threading.Event, patience: float | None = remote.PATIENCE) -> Watch:
    return Watch(machine, lambda lines: None, broken.set, patience)


def test_a_guest_that_lives_is_left_in_peace() -> None:
    machine, broken = Machine(), threading.Event()
    it = watch(machine, broken)
    assert machine.agent.asked.wait(10)
    it.stop()
    assert not broken.is_set()


def test_a_guest_that_does_not_answer_breaks_the_session() -> None:
    machine, broken = Machine(), threading.Event()
    machine.agent.silent.set()
    it = watch(machine, broken)
    assert broken.wait(10)
    with pytest.raises(MachineEnded) as raised:
        it.stop()
    assert raised.value.expired


def test_qemu_that_ends_breaks_the_session_also_under_a_debugger() -> None:
    machine, broken = Machine(), threading.Event()
    it = watch(machine, broken, None)
    machine.vm.error = DEAD
    assert broken.wait(10)
    with pytest.raises(MachineEnded, match="QEMU ended"):
        it.stop()
    assert not machine.agent.asked.is_set(), "a guest that a debugger stopped cannot answer"


def test_the_last_question_finds_what_the_watch_had_no_time_for() -> None:
    machine, broken = Machine(), threading.Event()
    it = watch(machine, broken)
    assert machine.agent.asked.wait(10)
    it._over = True
    it._thread.join()
    machine.agent.silent.set()
    with pytest.raises(MachineEnded):
        it.stop()


def test_a_server_that_ended_breaks_the_session_but_blames_nobody() -> None:
    machine, broken = Machine(), threading.Event()
    machine.agent.server_ended = True
    it = watch(machine, broken)
    assert broken.wait(10)
    it.stop()


def test_what_the_console_shows_can_end_the_session() -> None:
    machine, broken = Machine(), threading.Event()
    seen: list[str] = []

    def look(lines: Sequence[str]) -> None:
        seen.extend(lines)
        raise DEAD

    it = Watch(machine, look, broken.set)
    assert broken.wait(10)
    with pytest.raises(MachineEnded):
        it.stop()
    assert seen == ["a line"]


@pytest.mark.parametrize(
    ("words", "status", "out"),
    [
        (["echo a  b; exit 3"], 3, "a b\n"),
        (["echo", "a  b; exit 3"], 0, "a  b; exit 3\n"),
        (["printf", "%s|", "", "it's", "$HOME", "*"], 0, "|it's|$HOME|*|"),
        (["kill -9 $$"], 137, ""),
        (["exit 7 # '"], 7, ""),
    ],
)
def test_words_arrive_as_they_are(words: list[str], status: int, out: str) -> None:
    """What the SSH server does with the line: hands it to a shell."""
    done = subprocess.run(["/bin/sh", "-c", shell_line(words)], capture_output=True, text=True, cwd=os.sep)
    assert (done.returncode, done.stdout) == (status, out), shlex.join(words)
