# SPDX-License-Identifier: GPL-2.0-only
"""Child processes: run to the end, or started to live on; none outlives the harness.

Each child leads its own session, so that a terminal's Ctrl-C reaches only us and we end the whole
group; the kernel kills it when the thread that started it dies (prctl(2), PR_SET_PDEATHSIG). What a child
prints is kept within a bound, and a child that prints for ever ends at its deadline as any other.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
import select
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

from harness.core.errors import HarnessError
from harness.host.interrupts import paused

TAIL_LINES = 60
"""How many of a failed command's last lines its error carries."""

TAIL_CHARS = 2000
"""Characters of each of these lines; a longer one is cut."""

MAX_LINE = 1 << 20
"""Bytes of a line; a longer one is given to `on_line` in pieces of about so many."""

MAX_LOG = 64 << 20
"""Bytes of a stream that are kept of a command whose lines are watched: its beginning and its end, half of it
each. A build of a whole kernel prints less than one."""

MAX_ANSWER = 256 << 20
"""Bytes of a stream that are kept of any other command, whose output is an answer to be parsed: more is an error.
The largest answer, of llvm-dwarfdump on a vmlinux, has some 20 MiB."""

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_SPACE_TEXTS = ("No space left on device", "Disk quota exceeded")
NO_SPACE_STEP = "free space or run 'kharness cache prune'"

# setpriv asks for the death signal and execs, which needs no Python code between fork and exec; the
# shell then checks that the parent did not die before the asking (its $PPID is read after it). What stays in the group
# meanwhile waits for the end of a pipe that only we hold open: a process of the child's that has not asked for a death
# signal of its own yet ends with us all the same.
_GUARD = """\
[ "$PPID" = "$0" ] || exit 143
{ trap "" HUP INT TERM; read -r _ <"/proc/self/fd/$1"; kill -KILL -$$; } </dev/null >/dev/null 2>&1 &
shift
exec "$@"
"""


class DiskFull(HarnessError):
    """No space left; `folder` is the place that ran full, as far as it is known."""

    def __init__(self, folder: Path, *, detail: str = "") -> None:
        super().__init__(f"no space left on device in {folder}", step=NO_SPACE_STEP, detail=detail)
        self.folder = folder


class Expired(HarnessError):
    """A command was still running at its deadline and was killed."""


@dataclass(frozen=True)
class Done:
    """A finished command. `status` is the exit status, or minus the signal; seconds are wall time.

    `cut` is how many bytes of its output are missing in the middle of `stdout` and `stderr`, where a line says so:
    never any of a command that was run without `on_line`.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float
    cut: int = 0


class Child(subprocess.Popen[bytes]):
    """A child that leads a process group of its own. Waiting for its end also ends the rest of its group.

    The group is signalled only as long as the child has not been reaped: later the kernel may give its number to other
    processes (alloc_pid() in kernel/pid.c). Closing `lifeline` kills the group, too.
    """

    lifeline: IO[bytes] | None = None

    def over(self, seconds: float | None) -> bool:
        """Whether it has ended or does so within `seconds` (None: for ever). It is not reaped."""
        if self.returncode is not None:
            return True
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True  # another thread has just reaped it
        try:
            ending = select.poll()
            ending.register(descriptor, select.POLLIN)
            return bool(ending.poll(None if seconds is None else max(0, round(seconds * 1000))))
        finally:
            os.close(descriptor)

    def kill_group(self, number: int) -> None:
        """Sends a signal to the whole group, unless the child was reaped."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it was killed between fork() and setsid(): it has no group
                os.killpg(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Its status, once it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if not self.over(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.kill_group(signal.SIGKILL)
        if self.lifeline is not None:
            self.lifeline.close()
        return super().wait()

    def poll(self) -> int | None:
        """Its status if it has ended, else None."""
        return self.wait() if self.over(0) else None


def _guarded(argv: Sequence[str], env: Mapping[str, str] | None, watched: int) -> list[str]:
    """`argv` wrapped so that it dies with the calling thread, and its whole group when the pipe `watched` has ended.

    Raises HarnessError if argv[0] is not there.
    """
    path = (os.environ if env is None else env).get("PATH", os.defpath)
    found = shutil.which(argv[0], path=path)
    if found is None:
        raise HarnessError(f"{argv[0]}: no such command", step="run 'kharness doctor' for how to install it")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise HarnessError("setpriv: no such command", step="apt-get install util-linux")
    return [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", _GUARD, str(os.getpid()), str(watched), found, *argv[1:]]


def spawn(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Starts a long-lived child (QEMU); end it with :func:`end`.

    Call it from a thread that outlives the child: the death signal comes when that *thread* ends.
    Raises HarnessError when argv[0] cannot be found or started.
    """
    watched, ours = os.pipe2(os.O_CLOEXEC)
    lifeline = os.fdopen(ours, "wb")
    try:
        child = Child(
            _guarded(argv, env, watched),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(*pass_fds, watched),
            start_new_session=True,
            close_fds=True,
        )
    except BaseException as error:
        lifeline.close()
        if not isinstance(error, OSError):
            raise
        if error.errno in NO_SPACE:
            raise DiskFull(cwd or Path(tempfile.gettempdir())) from error
        raise HarnessError(f"cannot start {argv[0]}: {error}", step="run 'kharness doctor'") from error
    finally:
        os.close(watched)
    child.lifeline = lifeline
    return child


def end(child: Child, grace: float = 0.0) -> int:
    """Ends the child's whole group (SIGTERM first if `grace` seconds are given) and returns its status."""
    if grace > 0 and not child.over(0):
        child.kill_group(signal.SIGTERM)
        child.over(grace)
    child.kill_group(signal.SIGKILL)
    return child.wait()


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
    """Run a command to its end and return its output.

    `what` names the work for error lines ("unpacking linux-source-7.2"); `deadline` is seconds of wall
    time; `on_line` sees each line of both streams as it comes, in the caller's thread; `env` replaces
    the environment. The whole group is killed on an exception, at the deadline and once the leader has
    ended. Of each stream MAX_LOG bytes are kept where `on_line` is given, else MAX_ANSWER. Raises Expired,
    DiskFull, HarnessError for an answer that is longer, or (with `check`) for a failure, with the last lines
    as `detail`.
    """
    start = time.monotonic()
    child = spawn(argv, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    talk = _Talk(child, input, on_line)
    try:
        finished = talk.until_end(None if deadline is None else start + deadline)
        end(child)
        talk.drain()
    finally:
        end(child)
        talk.close()
    if talk.cut and on_line is None:
        raise HarnessError(
            f"{what} printed more than {MAX_ANSWER >> 20} MiB", step="see its last lines", detail=talk.last()
        )
    if not finished:
        raise Expired(f"{what} was not done after {deadline:g} s", step="see its last lines", detail=talk.last())
    seconds = time.monotonic() - start
    done = Done(tuple(argv), child.returncode, talk.text("out"), talk.text("err"), seconds, talk.cut)
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
    """Raise the error that says why a command failed; a full disk is one even without `check`."""
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


class _Kept:
    """What one stream printed, up to `most` bytes: its first half as it came, and the last bytes of the rest."""

    def __init__(self, most: int) -> None:
        self.head = bytearray()
        self.tail: collections.deque[bytes] = collections.deque()
        self.cut = self._within = 0
        self._half = most // 2

    def add(self, data: bytes) -> None:
        left = self._half - len(self.head)
        self.head += data[:left]
        if data := data[left:]:
            self.tail.append(data)
            self._within += len(data)
        while self._within > self._half:
            gone = len(self.tail.popleft())
            self._within -= gone
            self.cut += gone

    def text(self) -> str:
        note = f"\n[{self.cut} bytes are missing here]\n".encode() if self.cut else b""
        return b"".join((self.head, note, *self.tail)).decode(errors="replace")


class _Talk:
    """The three streams of one child, served from one thread without a deadlock."""

    def __init__(self, child: Child, given: str | None, on_line: Callable[[str], None] | None) -> None:
        assert child.stdin and child.stdout and child.stderr
        self.on_line = on_line
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        most = MAX_ANSWER if on_line is None else MAX_LOG
        self.whole = {"out": _Kept(most), "err": _Kept(most)}
        self.partial = {"out": bytearray(), "err": bytearray()}
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

    @property
    def cut(self) -> int:
        """Bytes that were not kept."""
        return sum(kept.cut for kept in self.whole.values())

    def until_end(self, until: float | None) -> bool:
        """Serves the streams until the child ends (True), or until the monotonic time `until` or an answer that is too
        long (False)."""
        before = paused()
        while True:
            left = None if until is None else until - time.monotonic() + paused() - before
            if left is not None and left <= 0:
                return False
            events = self.selector.select(left)
            for key, _ in events:
                if key.data == "in":
                    self._write()
                elif key.data != "end":
                    self._read(key.data, key.fileobj)
            if any(key.data == "end" for key, _ in events):
                return True
            if self.cut and self.on_line is None:
                return False

    def _write(self) -> None:
        try:
            self.pending = self.pending[os.write(self.stdin.fileno(), self.pending[:65536]) :]
        except BrokenPipeError:
            self.pending = self.pending[:0]  # the child has closed its stdin, which is no error
        if not self.pending:
            self.selector.unregister(self.stdin)
            self.stdin.close()

    def _read(self, name: str, stream: Any) -> int:
        """Read once; returns the number of bytes, 0 if there is nothing more for now."""
        try:
            data = os.read(stream.fileno(), 1 << 16)
        except BlockingIOError:
            return 0
        if not data:
            self.selector.unregister(stream)
            return 0
        self.whole[name].add(data)
        first, *lines = data.split(b"\n")
        self.partial[name] += first
        for line in lines:
            self._ended(name)
            self.partial[name] += line
        if len(self.partial[name]) > MAX_LINE:
            self._ended(name)
        return len(data)

    def _ended(self, name: str) -> None:
        """Hand on the line that is now whole."""
        line = self.partial[name].decode(errors="replace").rstrip("\r")
        self.partial[name].clear()
        self.tail.append(line[:TAIL_CHARS])
        if self.on_line is not None:
            self.on_line(line)

    def drain(self) -> None:
        """Read what is left in the pipes of a child that has ended, at most as much as fits into each.

        A process that left the group may keep them open, and print for ever.
        """
        for key in list(self.selector.get_map().values()):
            if key.data in self.whole:
                left = fcntl.fcntl(key.fd, fcntl.F_GETPIPE_SZ)
                while left > 0 and (count := self._read(key.data, key.fileobj)):
                    left -= count
        for name, rest in self.partial.items():
            if rest:
                self._ended(name)

    def text(self, name: str) -> str:
        return self.whole[name].text()

    def last(self) -> str:
        return "\n".join(self.tail)

    def close(self) -> None:
        self.selector.close()
        os.close(self.pidfd)
        for stream in self.streams:
            stream.close()
