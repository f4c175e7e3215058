# SPDX-License-Identifier: GPL-2.0-only
"""Tests of child processes: streams, deadlines, and that nothing outlives us."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.host.process import MAX_LINE, Child, DiskFull, Expired, end, how_ended, run, spawn


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
    done = run(["sh", "-c", "tee /dev/stderr"], what="tee", input=text + "\n", on_line=lines.append, deadline=60)
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
        run(["sh", "-c", f"sleep 100 & echo $! > {tmp_path}/pid; wait"], what="napping", deadline=2.0)
    assert time.monotonic() - start < 2 * SOON
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


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (2, "exit status 2"),
        (-9, "killed by SIGKILL"),
        (137, "killed by SIGKILL"),
        (255, "exit status 255"),
    ],
)
def test_how_ended(status: int, words: str) -> None:
    assert how_ended(status) == words


def test_signalled_child_has_a_negative_status() -> None:
    assert run(["sh", "-c", "kill -9 $$"], what="x", check=False).status == -signal.SIGKILL


CHILD = """
import sys, subprocess
from harness.host.process import {name}
{call}
"""


@pytest.mark.parametrize(
    "call",
    [
        "run(['sh', '-c', 'echo $$ > {pid}; exec sleep 100'], what='x')",
        "spawn(['sh', '-c', 'echo $$ > {pid}; exec sleep 100']).wait()",
    ],
)
def test_child_dies_when_we_are_killed(tmp_path: Path, call: str) -> None:
    pid = tmp_path / "pid"
    os.mkfifo(pid)  # opening it waits for the child to be there
    code = CHILD.format(name=call.partition("(")[0], call=call.format(pid=pid))
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        child = int(pid.read_text())
    finally:
        parent.kill()
        parent.wait()
    assert gone(child)


def test_spawn_and_end() -> None:
    child = spawn(["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert end(child, grace=10) == 7
    child.stdout.close()
    assert end(child) == 7  # a second time is harmless


def test_run_works_in_threads() -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(run(["echo", str(n)], what="echo").stdout)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{n}\n" for n in range(8)]


# --- what a child may do to us ------------------------------------------------------------

SOON = 10.0
"""Seconds within which a deadline of one second has been kept on a loaded machine; without it nothing ever ends."""


@pytest.mark.parametrize("say", ["exec cat /dev/zero", "exec yes", "exec yes >&2"])
@pytest.mark.parametrize("watched", [True, False])
def test_a_command_that_prints_for_ever_ends_at_its_deadline(
    say: str, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.host.process.MAX_ANSWER", 1 << 40)  # what the deadline alone does
    longest = 0

    def look(line: str) -> None:
        nonlocal longest
        longest = max(longest, len(line))

    start = time.monotonic()
    with pytest.raises(Expired, match="talking was not done after 1 s"):
        run(["sh", "-c", say], what="talking", deadline=1.0, on_line=look if watched else None)
    assert time.monotonic() - start < SOON
    assert longest <= MAX_LINE + 65536


def test_an_answer_that_is_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.host.process.MAX_ANSWER", 1 << 20)
    with pytest.raises(HarnessError, match="listing printed more than 1 MiB"):
        run(["yes"], what="listing", deadline=60.0, check=False)
    with pytest.raises(HarnessError, match="listing printed more than 1 MiB"):
        run(["head", "-c", "1100000", "/dev/zero"], what="listing", deadline=60.0)
    assert len(run(["head", "-c", "500000", "/dev/zero"], what="listing").stdout) == 500000


def test_of_a_long_log_both_ends_are_kept_and_the_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.host.process.MAX_LOG", 1 << 20)
    lines: list[str] = []
    done = run(["sh", "-c", "echo first; seq 1000000; echo last"], what="x", on_line=lines.append)
    assert len(lines) == 1_000_002
    assert done.stdout.startswith("first\n1\n") and done.stdout.endswith("1000000\nlast\n")
    assert done.cut > 5 << 20 and f"[{done.cut} bytes are missing here]" in done.stdout
    assert len(done.stdout) < 1_100_000
    whole = run(["sh", "-c", "echo first; seq 1000"], what="x", on_line=lines.append)
    assert whole.cut == 0 and "missing" not in whole.stdout


def test_a_line_without_an_end_comes_in_pieces() -> None:
    lines: list[str] = []
    run(["sh", "-c", "head -c 16777216 /dev/zero; echo; echo x"], what="x", on_line=lines.append, deadline=60.0)
    assert lines[-1] == "x" and "".join(lines[:-1]) == "\0" * (16 << 20)
    assert max(map(len, lines)) <= MAX_LINE + 65536


def test_the_last_lines_of_a_failure_are_short() -> None:
    with pytest.raises(HarnessError) as caught:
        run(["sh", "-c", "head -c 900000 /dev/zero; echo; exit 1"], what="x")
    assert len(caught.value.detail) < 3000


def test_one_that_left_the_group_and_prints_for_ever_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "left")
    talks = f"setsid sh -c 'echo $$; echo > {tmp_path}/left; exec yes' & read nothing < {tmp_path}/left"
    start = time.monotonic()
    done = run(["sh", "-c", talks], what="x", deadline=60.0, on_line=lambda line: None)
    with contextlib.suppress(ProcessLookupError):  # nobody reads what it says any more: SIGPIPE
        os.kill(int(done.stdout.split("\n", 1)[0]), signal.SIGKILL)
    assert time.monotonic() - start < SOON


def test_one_that_is_deaf_and_mute_ends_at_its_deadline() -> None:
    start = time.monotonic()
    with pytest.raises(Expired):
        run(["sh", "-c", "trap '' TERM INT HUP; exec <&- >&- 2>&-; while :; do sleep 1; done"], what="x", deadline=1.0)
    assert time.monotonic() - start < SOON


@pytest.mark.parametrize("wait", ["wait", "poll", "end"])
def test_a_group_is_ended_with_its_leader_and_never_signalled_again(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    child = spawn(["sh", "-c", "sleep 100 & echo $!"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    straggler = int(child.stdout.readline())
    assert child.over(SOON) and child.returncode is None
    assert (child.poll() if wait == "poll" else child.wait() if wait == "wait" else end(child)) == 0
    assert gone(straggler), "its group was its own until now"
    child.stdout.close()
    signalled: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: signalled.append(group))
    end(child)
    end(child, grace=1.0)
    assert not signalled, "the number may be somebody else's by now"


def test_a_child_that_lives_is_neither_reaped_nor_waited_for() -> None:
    child = spawn(["sleep", "100"])
    assert child.poll() is None and not child.over(0)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    assert end(child) == -signal.SIGKILL


def test_a_child_that_was_killed_before_it_led_a_group_is_waited_for() -> None:
    """Between fork() and setsid() it is in its parent's group: there is none of its own to be signalled."""
    child = Child([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    assert child.wait(30) == -signal.SIGKILL


def test_a_child_that_another_thread_reaps_first_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that watches a machine while it is closed."""
    child = Child([sys.executable, "-c", "raise SystemExit(3)"])
    opened = os.pidfd_open

    def late(pid: int) -> int:
        thread = threading.Thread(target=subprocess.Popen.wait, args=(child,))
        thread.start()
        thread.join()
        return opened(pid)

    monkeypatch.setattr(os, "pidfd_open", late)
    assert child.wait(30) == 3
