# SPDX-License-Identifier: GPL-2.0-only
"""kharness shell: commands, a person at a terminal, files, gdb, kept guests, and guests that die meanwhile."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.e2e.command import GOODBYE_SECONDS, Done, Kharness, Running
from tests.e2e.leaks import below

SECONDS = 120
"""For one visit, under TCG on a busy host; some five are needed."""

CANARY = "/sys/kernel/debug/kharness/canary"
ARCHES = pytest.mark.parametrize("arch", ["x86_64", pytest.param("arm64", marks=pytest.mark.full)])


@pytest.fixture
def home(kharness: Kharness, passed: Done) -> Kharness:
    """The command, with the default kernel built."""
    return kharness


@ARCHES
def test_command_with_files_and_input(home: Kharness, arch: str) -> None:
    """Its words arrive as they are, its input whole, its status is ours; files go there and come back."""
    data = bytes(range(256)) * 4000
    tool = home.cwd / "a tool"
    tool.write_text('#!/bin/sh\necho "$# $2"; wc -c; echo oh >&2; uname -m > /tmp/arch; exit 7\n')
    tool.chmod(0o755)
    done = home.shell(
        "--arch",
        arch,
        "--put",
        "a tool:/tmp/deep/er/",
        "--get",
        "/tmp/arch:arch",
        "--get",
        "/bin/busybox:.",
        "/tmp/deep/er/a tool",
        "one",
        "two  three",
        given=data,
        timeout=SECONDS,
    ).expect(7)
    assert done.stdout.split("\n") == ["2 two  three", str(len(data)), ""]
    assert "oh\n" in done.stderr
    assert "kharness: " not in done.stderr, "a status of the command's comes without a line of ours"
    assert (home.cwd / "arch").read_text().strip() == {"x86_64": "x86_64", "arm64": "aarch64"}[arch]
    assert (home.cwd / "busybox").read_bytes()[:4] == b"\x7fELF"
    assert not (home.cwd / "out").exists()


def test_input_without_a_command_is_a_script(home: Kharness) -> None:
    """Ended by a signal: the shell's status for it. What the kernel warns of meanwhile is said."""
    script = f"echo warn > {CANARY}; sh -c 'kill -9 $$'; echo got $?; exit 9\n"
    done = home.shell(given=script.encode(), timeout=SECONDS).expect(9)
    assert "got 137" in done.stdout
    assert "the kernel's log has: warn: " in done.stderr
    assert "kharness_warn" in done.stderr


@pytest.fixture
def terminal(home: Kharness) -> Iterator[Callable[..., pexpect.spawn[str]]]:
    """Starts kharness on a terminal of its own."""
    started: list[pexpect.spawn[str]] = []

    def start(*args: str, columns: int = 80) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "harness", *args],
            cwd=str(home.cwd),
            timeout=SECONDS,
            env=home.environment({"TERM": "vt100"}),
            dimensions=(24, columns),
            encoding="latin-1",
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def ended(child: pexpect.spawn[str]) -> int | None:
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


def test_a_person_at_a_terminal(terminal: Callable[..., pexpect.spawn[str]]) -> None:
    """Prompt, window size, Ctrl-C for the guest, job control, and the way out."""
    child = terminal("shell", columns=91)
    child.expect(r"~\. at the beginning of a line leaves")
    child.expect(r"x86_64 \S+ ~ # ")
    child.sendline("stty size")
    child.expect("24 91\r\n")
    child.setwinsize(31, 77)
    child.expect(" # ")
    child.sendline("until [ \"$(stty size)\" = '31 77' ]; do :; done; echo re''sized")
    child.expect("resized\r\n.* # ")
    child.sendline("sh -c 'echo sle''eping; exec sleep 1000'")  # said by what is in the foreground by then
    child.expect("sleeping\r\n")
    child.sendintr()
    child.expect(" # ")
    child.sendline("echo status $?")
    child.expect("status 130\r\n")
    child.sendline("sleep 1000 &")
    child.sendline("jobs; kill %1; echo do''ne")
    child.expect(r"\[1\].*sleep 1000.*done\r\n.* # ")
    child.send("~.")
    assert ended(child) == 0


def test_leaving_by_exit(terminal: Callable[..., pexpect.spawn[str]]) -> None:
    child = terminal("shell")
    child.expect(" # ")
    child.sendline("false")
    child.sendline("exit")
    assert ended(child) == 0, "that the last command failed is no failure of the visit"


@ARCHES
def test_panic(home: Kharness, arch: str) -> None:
    done = home.shell("--arch", arch, f"echo panic > {CANARY}; sleep 1000", timeout=SECONDS).expect(1)
    assert done.error.startswith("kharness: the kernel panicked: kharness: deliberate panic")
    assert "kharness_panic" in done.error or "canary_write" in done.error, "whose fault it was"
    assert "Kernel panic - not syncing" in done.stderr, "the log follows"


def test_qemu_is_killed(home: Kharness) -> None:
    running = home.start_shell("echo up >&2; sleep 1000")
    running.wait_for("(?m)^up$", SECONDS)
    (qemu,) = below(running.process.pid, "qemu-system")
    os.kill(qemu, signal.SIGKILL)
    assert "QEMU was killed by SIGKILL" in running.finish(SECONDS).expect(4).error


def test_the_ssh_server_ends(home: Kharness) -> None:
    """The guest still stands, but what ran in it has no status that we could know."""
    done = home.shell("killall dropbear; sleep 1000", timeout=SECONDS).expect(255)
    assert "SSH server" in done.error


def test_ctrl_c_leaves_a_command(home: Kharness) -> None:
    running = home.start_shell("echo up >&2; sleep 1000")
    running.wait_for("(?m)^up$", SECONDS)
    done = running.interrupt().expect(130)
    assert done.seconds < SECONDS + GOODBYE_SECONDS


@pytest.mark.full
@ARCHES
def test_hang(home: Kharness, arch: str) -> None:
    """Nobody answers, so nothing of the guest's can say it."""
    done = home.shell("--arch", arch, f"echo hang > {CANARY}", timeout=300).expect(1)
    assert done.error.startswith("kharness: the kernel hangs")


@pytest.mark.full
def test_boot_that_panics(home: Kharness) -> None:
    done = home.shell("--cmdline", "rdinit=/nonexistent", "true", timeout=SECONDS).expect(1)
    assert "the kernel panicked" in done.error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--put", "none:/tmp"], ["none", "no such file"]),
        (["--put", "file:tmp"], ["HOSTFILE:GUESTPATH"]),
        (["--put", ".:/tmp"], ["a folder", "tar"]),
        (["--get", "/etc/passwd:file"], ["file is there already", "--force"]),
        (["--get", "/etc/passwd:no/such/file"], ["no folder no/such"]),
        (["--kept", "."], ["no kept guest", "run --keep"]),
        (["--kept", ".", "--gdb"], ["--kept", "--gdb"]),
        (["--arch", "x86_64,arm64"], ["one guest", "name one --arch"]),
    ],
    ids=["no-file", "no-path", "folder", "overwrite", "no-folder", "not-kept", "kept-gdb", "two-arches"],
)
def test_mistakes(kharness: Kharness, args: list[str], words: list[str]) -> None:
    (kharness.cwd / "file").write_text("precious")
    done = kharness("shell", *args, "true", timeout=30).expect(2)
    for word in words:
        assert word in done.error
    assert (kharness.cwd / "file").read_text() == "precious"


def test_what_the_guest_refuses(home: Kharness) -> None:
    """No such file there: our line and status, although the command ended well."""
    done = home.shell("--get", "/no/such:file", "true", timeout=SECONDS).expect(2)
    assert "--get /no/such: the guest says " in done.error
    assert "No such file" in done.error
    assert not (home.cwd / "file").exists()


# --- gdb --------------------------------------------------------------------------------------


class Stub:
    """A client of gdb's remote protocol (gdb manual, appendix E): $DATA#SUM, answered by + and another packet."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(path)
        self._pending = b""

    def ask(self, command: str) -> str:
        self._socket.sendall(f"${command}#{sum(command.encode()) % 256:02x}".encode())
        return self.answer()

    def answer(self) -> str:
        while (end := self._pending.find(b"#")) < 0 or len(self._pending) < end + 3:
            data = self._socket.recv(1 << 16)
            assert data, "the stub hung up"
            self._pending += data
        packet, self._pending = self._pending[: end + 3], self._pending[end + 3 :]
        self._socket.sendall(b"+")
        return packet[packet.index(b"$") + 1 : end].decode("latin-1")

    def go(self) -> None:
        self._socket.sendall(b"$c#63")

    def close(self) -> None:
        self._socket.close()


def attached(running: Running) -> tuple[list[str], Stub]:
    """The line that was printed, and a connection to the socket that it names."""
    running.wait_for(r"(?m)^gdb.*\n", SECONDS)
    (line,) = [text for text in running.text("stderr").splitlines() if text.startswith("gdb")]
    words = shlex.split(line)
    return words, Stub(next(word for word in words if word.startswith("target remote ")).split()[-1])


def symbol(vmlinux: str, name: str) -> int:
    lines = (Path(vmlinux).parent / "System.map").read_text().splitlines()
    return next(int(line.split()[0], 16) for line in lines if line.split()[2] == name)


@ARCHES
def test_gdb(home: Kharness, arch: str) -> None:
    """The machine stands until gdb continues it, stops at start_kernel, goes on, and then there is the shell."""
    running = home.start_shell("--arch", arch, "--gdb", "echo up; exit 5")
    words, stub = attached(running)
    assert words[0].startswith("gdb") and words[1].endswith("/vmlinux")
    assert stub.ask("?").startswith("T05"), "it stands"
    assert "Linux version" not in running.text("stderr")
    start = symbol(words[1], "start_kernel")
    assert stub.ask(f"Z1,{start:x},4") == "OK"
    stub.go()
    assert stub.answer().startswith("T05"), "it stopped again"
    counter = {"x86_64": 16, "arm64": 32}[arch]  # number of the program counter: org.gnu.gdb.i386.core, aarch64.core
    assert int.from_bytes(bytes.fromhex(stub.ask(f"p{counter:x}")), "little") == start
    assert stub.ask(f"z1,{start:x},4") == "OK"
    stub.go()
    done = running.finish(300).expect(5)
    stub.close()
    assert "Linux version" in done.stderr, "the console is shown while it boots"
    assert done.stdout == "up\n"


def test_gdb_that_never_comes(home: Kharness) -> None:
    """Ctrl-C leaves a machine that stands."""
    running = home.start_shell("--gdb")
    running.wait_for(r"(?m)^gdb.*\n", SECONDS)
    running.interrupt().expect(130)


# --- kept guests ------------------------------------------------------------------------------


@pytest.mark.full
@ARCHES
def test_a_kept_guest_is_as_the_test_left_it(home: Kharness, suite: Callable[[str], str], arch: str) -> None:
    """The failed test's scheduler is still there; the guest of one that crashed cannot be kept, and that is said."""
    done = home.run("--arch", arch, "--suite", suite("keep"), "--keep", timeout=600).expect(1)
    row = done.test("test_wants_another_state")
    (line,) = [text.strip() for text in done.stdout.splitlines() if "kharness shell --kept" in text]
    assert shlex.split(line) == ["kharness", "shell", "--kept", row["kept"]["path"]]
    assert "kept" in (home.cwd / "out/latest/report.html").read_text()
    dead = done.test("test_that_panics")
    assert dead["kept"] == {"path": "", "why": "it is dead"}
    assert "guest not kept: it is dead" in done.stdout
    for _ in range(2):  # nothing that is done in it stays
        seen = home.shell(
            *shlex.split(line)[2:], "cat /sys/kernel/sched_ext/state; date +%s; touch /tmp/x", timeout=SECONDS
        ).expect(0)
        state, now = seen.stdout.split()
        assert state == "enabled"
        assert abs(int(now) - time.time()) < 60
    (home.cwd / row["kept"]["path"] / "image").unlink()
    assert "not whole" in home.shell(*shlex.split(line)[2:], "true", timeout=60).expect(2).error
