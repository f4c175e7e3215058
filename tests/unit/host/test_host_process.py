# SPDX-License-Identifier: GPL-2.0-only
"""Tests of child processes: streams, deadlines, and that nothing outlives us."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.host.process import DiskFull, Expired, end, how_ended, run, spawn


def gone(pid: int, within: float = 10.0) -> bool:
    """Waits until a process has ended (a zombie has)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


def test_streams_are_read_while_input_is_written() -> None:
    text = "0123456789abcdef" * 65536  # more than any pipe holds, both ways
    lines: list[str] = []
    done = run(
        ["sh", "-c", "tee /dev/stderr"], what="tee", input=text + "\n", on_line=lines.append, deadline=60
    )
    assert done.stdout == text + "\n"
    assert done.stderr == text + "\n"
    assert sorted(lines) == [text, text]


def test_child_that_does_not_read_its_input_is_no_error() -> None:
    assert run(["true"], what="true", input="x" * 1_000_000, deadline=60).status == 0


def test_last_line_without_newline_is_seen() -> None:
    lines: list[str] = []
    run(["printf", "a\\nb"], what="printf", on_line=lines.append)
    assert lines == ["a", "b"]


def test_failure_names_work_and_carries_the_last_lines() -> None:
    with pytest.raises(HarnessError) as caught:
        run(["sh", "-c", "echo out; echo broken >&2; exit 3"], what="frobbing")
    assert caught.value.what == "frobbing failed (exit status 3): broken"
    assert "out" in caught.value.detail.splitlines()
    assert run(["sh", "-c", "exit 3"], what="frobbing", check=False).status == 3


def test_missing_command_is_named() -> None:
    with pytest.raises(HarnessError, match="no-such-tool: no such command"):
        run(["no-such-tool"], what="x")


def test_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(Expired, match="napping"):
        run(["sh", "-c", f"sleep 100 & echo $! > {tmp_path}/pid; wait"], what="napping", deadline=0.5)
    assert time.monotonic() - start < 10
    assert gone(int((tmp_path / "pid").read_text()))


def test_exception_in_on_line_ends_the_group() -> None:
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", "sleep 100 & echo $!; wait"], what="x", on_line=interrupt)
    assert gone(int(seen[0]))


def test_straggler_that_holds_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run(["sh", "-c", "sleep 100 & echo $!"], what="x")
    assert time.monotonic() - start < 10
    assert gone(int(done.stdout))


def test_disk_full_is_told_from_other_failures(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught:
        run(["sh", "-c", "cat /etc/passwd > /dev/full"], what="writing", cwd=tmp_path)
    assert str(tmp_path) in caught.value.line()
    assert "kharness cache prune" in caught.value.line()


@pytest.mark.parametrize(("status", "words"), [
    (0, "exit status 0"), (2, "exit status 2"), (-9, "killed by SIGKILL"), (137, "killed by SIGKILL"),
    (255, "exit status 255"),
])  # fmt: skip
def test_how_ended(status: int, words: str) -> None:
    assert how_ended(status) == words


def test_signalled_child_has_a_negative_status() -> None:
    assert run(["sh", "-c", "kill -9 $$"], what="x", check=False).status == -signal.SIGKILL


CHILD = """
import sys, subprocess
from harness.host.process import {name}
{call}
"""


@pytest.mark.parametrize("call", [
    "run(['sh', '-c', 'echo $$ > {pid}; exec sleep 100'], what='x')",
    "spawn(['sh', '-c', 'echo $$ > {pid}; exec sleep 100']).wait()",
])  # fmt: skip
def test_child_dies_when_we_are_killed(tmp_path: Path, call: str) -> None:
    pid = tmp_path / "pid"
    os.mkfifo(pid)  # opening it waits for the child to be there
    code = CHILD.format(name=call.partition("(")[0], call=call.format(pid=pid))
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        child = int(pid.read_text())
    finally:
        parent.kill()
        parent.wait()
    assert gone(child)


def test_spawn_and_end() -> None:
    child = spawn(
        ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert end(child, grace=10) == 7
    child.stdout.close()
    assert end(child) == 7  # a second time is harmless


def test_run_works_in_threads() -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(run(["echo", str(n)], what="echo").stdout))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{n}\n" for n in range(8)]
