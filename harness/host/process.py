# SPDX-License-Identifier: GPL-2.0-only
"""Owns child processes: run to the end, or started to live on; none outlives the harness.

Each child leads its own session, so that a terminal's Ctrl-C reaches only us and we end the whole
group; the kernel kills it when the thread that started it dies (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import collections
import errno
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.errors import HarnessError

TAIL_LINES = 60
"""How many of a failed command's last lines its error carries."""

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_SPACE_TEXTS = ("No space left on device", "Disk quota exceeded")
NO_SPACE_STEP = "free space or run 'kharness cache prune'"

# setpriv asks for the death signal and execs, which needs no Python code between fork and exec; the
# shell then checks that the parent did not die before the asking (its $PPID is read after it).
_GUARD = 'if [ "$PPID" = "$0" ]; then exec "$@"; fi; exit 143'


class DiskFull(HarnessError):
    """No space left; `folder` is the place that ran full, as well as it can be told."""

    def __init__(self, folder: Path, *, detail: str = "") -> None:
        super().__init__(f"no space left on device in {folder}", step=NO_SPACE_STEP, detail=detail)
        self.folder = folder


class Expired(HarnessError):
    """A command was still running at its deadline and was killed."""


@dataclass(frozen=True)
class Done:
    """A finished command. `status` is the exit status, or minus the signal; seconds are wall time."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float


def guarded(argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
    """`argv` wrapped so that it dies with the calling thread. Raises HarnessError if argv[0] is not there."""
    path = (os.environ if env is None else env).get("PATH", os.defpath)
    found = shutil.which(argv[0], path=path)
    if found is None:
        raise HarnessError(f"{argv[0]}: no such command", step="run 'kharness doctor' for how to install it")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise HarnessError("setpriv: no such command", step="apt-get install util-linux")
    return [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", _GUARD, str(os.getpid()), found, *argv[1:]]


def spawn(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a long-lived child (QEMU); end it with :func:`end`.

    Call it from a thread that outlives the child: the death signal comes when that *thread* ends.
    Raises HarnessError when argv[0] cannot be found or started.
    """
    wrapped = guarded(argv, env)
    try:
        return subprocess.Popen(
            wrapped, cwd=cwd, env=None if env is None else dict(env), stdin=stdin, stdout=stdout,
            stderr=stderr, pass_fds=pass_fds, start_new_session=True, close_fds=True,
        )  # fmt: skip
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(cwd or Path(tempfile.gettempdir())) from error
        raise HarnessError(f"cannot start {argv[0]}: {error}", step="run 'kharness doctor'") from error


def end(child: subprocess.Popen[Any], grace: float = 0.0) -> int:
    """Ends the child's whole group (SIGTERM first if `grace` seconds are given) and returns its status."""
    if child.poll() is None and grace > 0:
        kill_group(child.pid, signal.SIGTERM)
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            kill_group(child.pid, signal.SIGKILL)  # it had its chance
    kill_group(child.pid, signal.SIGKILL)
    return child.wait()


def kill_group(leader: int, number: int) -> None:
    """Sends a signal to the group of `leader`; a group that is gone already is what was wanted."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def run(
    argv: Sequence[str],
    *,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    deadline: float | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Done:
    """Runs a command to its end and returns what it said.

    `what` names the work for error lines ("unpacking linux-source-7.2"); `deadline` is seconds of wall
    time; `on_line` sees each line of both streams as it comes, in the caller's thread; `env` replaces
    the environment. The whole group is killed on an exception, at the deadline and once the leader has
    ended. Raises Expired, DiskFull, or (with `check`) HarnessError with the last lines as `detail`.
    """
    start = time.monotonic()
    child = spawn(
        argv, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    talk = _Talk(child, input, on_line)
    try:
        finished = talk.until_end(None if deadline is None else start + deadline)
    finally:
        end(child)
        talk.close()
    done = Done(tuple(argv), child.returncode, talk.text("out"), talk.text("err"), time.monotonic() - start)
    if not finished:
        raise Expired(
            f"{what} was not done after {deadline:g} s", step="see its last lines", detail=talk.last()
        )
    if done.status != 0:
        _refuse(done, what, check, talk.last(), cwd)
    return done


def how_ended(status: int) -> str:
    """An exit status in words: ``exit status 2`` or ``killed by SIGKILL``.

    A status above 128 is how bubblewrap and shells pass on a signal.
    """
    number = -status if status < 0 else status - 128
    if (status < 0 or status > 128) and number in set(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return f"exit status {status}"


def _refuse(done: Done, what: str, check: bool, detail: str, cwd: Path | None) -> None:
    """Turns a failed command into the error that says why; a full disk is one even without `check`."""
    if any(text in done.stderr or text in done.stdout for text in NO_SPACE_TEXTS):
        raise DiskFull(cwd or Path(tempfile.gettempdir()), detail=detail)
    if check:
        last = next((line for line in reversed(detail.splitlines()) if line.strip()), "")
        said = f": {last.strip()[:200]}" if last else ""
        raise HarnessError(
            f"{what} failed ({how_ended(done.status)}){said}",
            step=f"command: {shlex.join(done.argv)[:300]}",
            detail=detail,
        )


class _Talk:
    """The three streams of one child, served from one thread without a deadlock."""

    def __init__(
        self, child: subprocess.Popen[bytes], given: str | None, on_line: Callable[[str], None] | None
    ) -> None:
        assert child.stdin and child.stdout and child.stderr
        self.on_line = on_line
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.whole: dict[str, list[bytes]] = {"out": [], "err": []}
        self.partial: dict[str, bytes] = {"out": b"", "err": b""}
        self.pending = memoryview((given or "").encode())
        self.stdin = child.stdin
        self.pidfd = os.pidfd_open(child.pid)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.pidfd, selectors.EVENT_READ, "end")
        for name, stream in (("out", child.stdout), ("err", child.stderr)):
            os.set_blocking(stream.fileno(), False)
            self.selector.register(stream, selectors.EVENT_READ, name)
        self.streams = [child.stdin, child.stdout, child.stderr]
        os.set_blocking(child.stdin.fileno(), False)
        if self.pending:
            self.selector.register(child.stdin, selectors.EVENT_WRITE, "in")
        else:
            child.stdin.close()

    def until_end(self, until: float | None) -> bool:
        """Serves the streams until the child ends (True) or the monotonic time `until` (False)."""
        while True:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                self._drain()
                return False
            events = self.selector.select(left)
            for key, _ in events:
                if key.data == "in":
                    self._write()
                elif key.data != "end":
                    self._read(key.data, key.fileobj)
            if any(key.data == "end" for key, _ in events):
                self._drain()
                return True

    def _write(self) -> None:
        try:
            self.pending = self.pending[os.write(self.stdin.fileno(), self.pending[:65536]) :]
        except BrokenPipeError:
            self.pending = self.pending[:0]  # the child does not want to hear more: its right
        if not self.pending:
            self.selector.unregister(self.stdin)
            self.stdin.close()

    def _read(self, name: str, stream: Any) -> bool:
        """One read; False once there is nothing more for now."""
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self.selector.unregister(stream)
            return False
        self.whole[name].append(data)
        *lines, self.partial[name] = (self.partial[name] + data).split(b"\n")
        for line in lines:
            self._line(line)
        return True

    def _line(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip("\r")
        self.tail.append(line)
        if self.on_line is not None:
            self.on_line(line)

    def _drain(self) -> None:
        """Reads what lies in the pipes; a straggler that holds them open is not waited for."""
        for key in list(self.selector.get_map().values()):
            if key.data in self.whole:
                while self._read(key.data, key.fileobj):
                    continue
        for name, rest in self.partial.items():
            if rest:
                self._line(rest)
                self.partial[name] = b""

    def text(self, name: str) -> str:
        return b"".join(self.whole[name]).decode(errors="replace")

    def last(self) -> str:
        return "\n".join(self.tail)

    def close(self) -> None:
        self.selector.close()
        os.close(self.pidfd)
        for stream in self.streams:
            stream.close()
