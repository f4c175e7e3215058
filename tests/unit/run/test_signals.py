# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what ends a command: once in order, twice in a hurry, three times at once; real processes, no guest."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import Exit
from harness.host import interrupts
from harness.host.process import run
from tests.unit.cli.test_main import ROOT

SECONDS = 120.0
"""Until a process that hangs fails its test, also where the machine is loaded."""

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from harness.cli import main as cli
from harness.run import runner as run
from harness.core.errors import Exit
from harness.host import interrupts, process
def say(*words):
    print(*words, flush=True)
def conduct(plan):
{body}
run.conduct = conduct
sys.argv = ["kharness", "run"]
cli.main()
"""

IN_ORDER = """
try:
    say("ready")
    time.sleep(600)
finally:
    say("cleaning")
    sys.stdin.readline()
    Path("cleaned").touch()
"""


class Command:
    """`kharness run` with another runner, in a process of its own."""

    def __init__(self, folder: Path, body: str, before: Callable[[], object] | None = None) -> None:
        indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
        (folder / "program.py").write_text(PROGRAM.format(body=indented))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
        self.folder = folder

        def prepare() -> None:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)  # whatever those are ignored by that started us
            if before is not None:
                before()

        self.process = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=folder,
            env=env,
            bufsize=0,
            preexec_fn=prepare,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said = {"out": "", "err": ""}

    def read(self, seconds: float) -> bool:
        """What comes within this time; False if nothing did."""
        assert self.process.stdout and self.process.stderr
        streams = {self.process.stdout.fileno(): "out", self.process.stderr.fileno(): "err"}
        ready = select.select(list(streams), [], [], seconds)[0]
        for descriptor in ready:
            self.said[streams[descriptor]] += os.read(descriptor, 65536).decode()
        return bool(ready)

    def wait_for(self, text: str, where: str = "out") -> bool:
        until = time.monotonic() + SECONDS
        while text not in self.said[where] and time.monotonic() < until:
            self.read(0.1)
        return text in self.said[where]

    def again(self, number: int, text: str, where: str) -> None:
        """Sends another signal, which is answered: two that are near together are one, and a third is no second."""
        time.sleep(interrupts.APART_SECONDS)
        self.process.send_signal(number)
        assert self.wait_for(text, where), self.said

    def end(self, typed: bytes = b"\n") -> int:
        try:
            out, err = self.process.communicate(typed, timeout=SECONDS)
        finally:
            self.process.kill()
        self.said["out"] += out.decode()
        self.said["err"] += err.decode()
        assert "Traceback" not in self.said["err"]
        return self.process.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_ends_the_command_in_order(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(tmp_path, IN_ORDER)
    assert command.wait_for("ready")
    command.process.send_signal(number)
    assert command.end() == Exit.INTERRUPTED
    assert (tmp_path / "cleaned").exists()
    assert command.said["err"].splitlines()[-1].startswith("kharness: interrupted; ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_one_breaks_nothing_off(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(tmp_path, IN_ORDER)
    assert command.wait_for("ready")
    command.process.send_signal(number)
    assert command.wait_for("cleaning")
    command.again(number, "interrupted again", "err")
    assert command.end() == Exit.INTERRUPTED
    assert (tmp_path / "cleaned").exists()


def test_the_second_one_has_nobody_waited_for(tmp_path: Path) -> None:
    body = """
child = process.spawn(["sleep", "1000"])
try:
    say("ready")
    time.sleep(600)
finally:
    say("cleaning")
    say("waited", interrupts.wait(child, 1000))
    process.end(child)
"""
    command = Command(tmp_path, body)
    assert command.wait_for("ready")
    command.process.send_signal(signal.SIGINT)
    assert command.wait_for("cleaning")
    command.again(signal.SIGINT, "interrupted again", "err")
    assert command.end() == Exit.INTERRUPTED
    assert "waited False" in command.said["out"]


def test_a_child_that_ends_is_waited_for(tmp_path: Path) -> None:
    body = """
child = process.spawn(["true"])
say("waited", interrupts.wait(child, 1000))
return Exit.PASS
"""
    command = Command(tmp_path, body)
    assert command.end() == Exit.PASS
    assert "waited True" in command.said["out"]


def test_the_third_one_ends_a_cleanup_that_hangs(tmp_path: Path) -> None:
    body = """
child = process.spawn(["sleep", "1000"])
try:
    say("ready", child.pid, "child")
    time.sleep(600)
finally:
    say("cleaning")
    while True:
        time.sleep(600)
"""
    command = Command(tmp_path, body)
    assert command.wait_for("child")
    child = int(command.said["out"].split()[1])
    command.process.send_signal(signal.SIGINT)
    assert command.wait_for("cleaning")
    command.again(signal.SIGTERM, "interrupted again", "err")
    until = time.monotonic() + SECONDS
    while command.process.poll() is None and time.monotonic() < until:
        command.process.send_signal(signal.SIGINT)
        command.read(0.5)
    assert command.end() == Exit.INTERRUPTED
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_a_hangup_that_nohup_has_ignored_is_ignored(tmp_path: Path) -> None:
    body = """
say("ready")
sys.stdin.readline()
return Exit.PASS
"""
    command = Command(tmp_path, body, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert command.wait_for("ready")
    command.process.send_signal(signal.SIGHUP)
    assert command.end() == Exit.PASS


def test_children_are_never_born_deaf(tmp_path: Path) -> None:
    """A background shell starts us with SIGINT ignored, by which we end our children."""
    body = """
say(process.run(["grep", "SigIgn", "/proc/self/status"], what="x").stdout)
return Exit.PASS
"""

    def deaf() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = Command(tmp_path, body, deaf)
    assert command.end() == Exit.PASS
    ignored = int(command.said["out"].split()[1], 16)
    assert not ignored & (1 << signal.SIGINT - 1 | 1 << signal.SIGHUP - 1)


def test_children_have_a_status_whoever_starts_us(tmp_path: Path) -> None:
    """With SIGCHLD ignored, as some programs start theirs, the kernel reaps them itself."""
    body = """
say(process.run(["sh", "-c", "exit 3"], what="x", check=False).status)
return Exit.PASS
"""
    command = Command(tmp_path, body, lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert (command.end(), command.said["out"].strip()) == (Exit.PASS, "3")


REMEMBERED = """
import os, signal, sys
from harness.host import interrupts
interrupts.watch(signal.SIGINT, signal.SIGTERM)
try:
    exec("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
except KeyboardInterrupt:
    pass
sys.exit(130)
"""


def test_an_interrupt_that_python_remembers_is_no_death_by_signal(tmp_path: Path) -> None:
    """It kills itself at its end for one that broke off text given to exec(), as dataclasses do, whoever caught it."""
    (tmp_path / "remembered.py").write_text(REMEMBERED)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    argv = ["env", "--default-signal=INT,TERM", sys.executable, "-m", "remembered"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, timeout=SECONDS, check=False)
    assert done.returncode == interrupts.STATUS


def test_an_interrupt_that_python_swallows_comes_again(tmp_path: Path) -> None:
    """An exception in a destructor goes nowhere."""
    body = """
class Slow:
    def __del__(self):
        say("ready")
        time.sleep(600)
slow = Slow()
del slow
try:
    while True:
        time.sleep(600)
finally:
    say("cleaning")
"""
    command = Command(tmp_path, body)
    assert command.wait_for("ready")
    command.process.send_signal(signal.SIGINT)
    assert command.end() == Exit.INTERRUPTED
    assert "cleaning" in command.said["out"]


def test_a_terminal_that_goes_away_ends_in_order(tmp_path: Path) -> None:
    body = """
try:
    say("ready")
    time.sleep(600)
finally:
    say("nobody", "reads", "this")
    print("nor this", file=sys.stderr, flush=True)
    Path("cleaned").touch()
"""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    (tmp_path / "program.py").write_text(PROGRAM.format(body=indented))
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        os.execve(sys.executable, [sys.executable, "program.py"], env)
    said = b""
    while b"ready" not in said:
        assert select.select([master], [], [], SECONDS)[0]
        said += os.read(master, 4096)
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Exit.INTERRUPTED
    assert (tmp_path / "cleaned").exists()


def state(pid: int) -> str:
    """The letter that proc(5) has for a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_ctrl_z_stops_has_its_deadlines_left(tmp_path: Path) -> None:
    """A guest that boots goes on meanwhile, and a kernel that did boot would be said to hang."""
    body = """
from harness.machine.deadline import Deadline
before, deadline = time.monotonic(), Deadline(1000, "x")
say("ready")
sys.stdin.readline()
gone = time.monotonic() - before
say("gone", gone, deadline.left - 1000 + gone, interrupts.paused())
return Exit.PASS
"""
    command = Command(tmp_path, body)
    assert command.wait_for("ready")
    command.process.send_signal(signal.SIGTSTP)
    until = time.monotonic() + SECONDS
    while state(command.process.pid) != "T":
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(2)  # that is what is measured
    command.process.send_signal(signal.SIGCONT)
    assert command.end() == Exit.PASS
    gone, spared, paused = map(float, command.said["out"].split()[2:5])
    assert gone >= 2 and paused >= 1.9
    assert spared == pytest.approx(paused, abs=1.5)


def test_a_command_that_is_waited_for_has_it_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = iter([0.0, *[1000.0] * 1000])
    monkeypatch.setattr("harness.host.process.paused", lambda: next(sums))
    assert run(["sleep", "1"], what="x", deadline=0.5).status == 0


def test_a_command_in_a_guest_may_end_as_an_interrupt_does(tmp_path: Path) -> None:
    """130 is then its own status, and comes without a line of ours."""
    command = Command(tmp_path, "return 130")
    assert command.end() == Exit.INTERRUPTED
    assert command.said["err"] == ""
