# SPDX-License-Identifier: GPL-2.0-only
"""The kharness command as a child process: run to its end, or watched and interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.schema import validate

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 3600.0
"""For any command; four times what a toolchain and a kernel take that have to be made first, on an idle machine."""

GOODBYE_SECONDS = 30.0
"""From an interrupt to the end."""


@dataclass(frozen=True)
class Done:
    """A finished command; `cwd` is where it ran, and with it where its out/ lies."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    cwd: Path

    @property
    def error(self) -> str:
        """The line that says what was wrong."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("kharness: ")]
        assert len(lines) == 1, f"not one line of error but {len(lines)}:\n{self.stderr[-3000:]}"
        return lines[0]

    @property
    def verdict(self) -> str:
        """The last line of the summary."""
        return self.stdout.rstrip().rpartition("\n")[2]

    @property
    def results(self) -> dict[str, Any]:
        """out/latest/results.json, which fits its schema."""
        found: dict[str, Any] = json.loads((self.cwd / "out/latest/results.json").read_text())
        validate(found)
        return found

    def test(self, name: str) -> dict[str, Any]:
        """The one row of results.json whose id ends in `name`."""
        rows: list[dict[str, Any]] = [row for row in self.results["tests"] if row["id"].endswith(name)]
        assert len(rows) == 1, f"{len(rows)} rows for {name}: {[row['id'] for row in self.results['tests']]}"
        return rows[0]

    def expect(self, status: int) -> Done:
        """Itself, after its exit status was found to be `status`."""
        assert self.status == status, (
            f"exit status {self.status}, not {status}\n--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}"
        )
        return self


class Running:
    """A command under way."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self._start = time.monotonic()
        self._cwd = cwd
        self.process = subprocess.Popen(
            # A shell that starts us in the background has Ctrl-C ignored, nohup(1) SIGHUP, and children inherit that.
            ["env", "--default-signal=INT,HUP,TERM,TSTP", *argv],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._news = threading.Condition()
        self._text: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._open = 2
        assert self.process.stdout and self.process.stderr
        for name, stream in (("stdout", self.process.stdout), ("stderr", self.process.stderr)):
            threading.Thread(target=self._read, args=(name, stream), daemon=True).start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        while data := os.read(stream.fileno(), 1 << 16):
            with self._news:
                self._text[name] += data
                self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    def text(self, name: str) -> str:
        return self._text[name].decode(errors="replace")

    def wait_for(self, pattern: str, seconds: float = RUN_SECONDS) -> None:
        """Until what it says on stderr holds `pattern`; fails when it ends or the time is over before that."""
        with self._news:
            self._news.wait_for(lambda: re.search(pattern, self.text("stderr")) or not self._open, seconds)
        assert re.search(pattern, self.text("stderr")), f"it never said {pattern!r}:\n{self.text('stderr')[-3000:]}"

    def wait_until(
        self, what: str, happened: Callable[[], bool], seconds: float = RUN_SECONDS, *, may_end: bool = False
    ) -> None:
        """Until `happened`, which nothing announces; fails when it ends or the time is over before that.

        With `may_end` neither is a failure.
        """
        end = time.monotonic() + seconds
        while True:
            over, late = self.process.poll() is not None, time.monotonic() > end  # before the look, which counts
            if happened() or (may_end and (over or late)):
                return
            assert not over, f"it ended before {what}:\n{self.text('stderr')[-3000:]}"
            assert not late, f"not within {seconds:.0f} s: {what}"
            time.sleep(0.02)

    def finish(self, seconds: float = RUN_SECONDS) -> Done:
        """Until it ends by itself."""
        try:
            status = self.process.wait(seconds)
        finally:
            self.kill()
        with self._news:
            self._news.wait_for(lambda: not self._open, GOODBYE_SECONDS)
        print(self.text("stdout"))  # pytest shows it where a test fails, or with -rP
        return Done(status, self.text("stdout"), self.text("stderr"), time.monotonic() - self._start, self._cwd)

    def interrupt(self, number: int = signal.SIGINT) -> Done:
        """Sends the signal to the command alone, as a terminal would: its children lead sessions of their own."""
        self.process.send_signal(number)
        return self.finish(GOODBYE_SECONDS)

    def kill(self) -> None:
        """Ends it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Kharness:
    """Starts kharness in `cwd` on a private cache; `more` is added to the environment of every command."""

    def __init__(self, cwd: Path, more: Mapping[str, str], tree: str) -> None:
        self.cwd = cwd
        self._more = dict(more)
        self._tree = ["--tree", tree] if tree else []
        self._started: list[Running] = []

    def start(
        self, *args: str, env: Mapping[str, str] | None = None, before: Sequence[str] = (), cwd: Path | None = None
    ) -> Running:
        """The command under way; `before` is what it is started through, such as unshare(1)."""
        whole = self.environment(env)
        if args[:1] == ("run",) and "--arch" not in args:  # one is enough here, and the default is all
            args = ("run", "--arch", "x86_64", *args[1:])
        running = Running([*before, sys.executable, "-P", "-m", "harness", *args], cwd or self.cwd, whole)
        self._started.append(running)
        return running

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What every command is started with."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        fixed = {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**own, **fixed, **self._more, **(more or {})}

    def __call__(self, *args: str, timeout: float = RUN_SECONDS, env: Mapping[str, str] | None = None) -> Done:
        """The command, done."""
        return self.start(*args, env=env).finish(timeout)

    def run(self, *args: str, timeout: float = RUN_SECONDS, env: Mapping[str, str] | None = None) -> Done:
        """``kharness run`` on the default kernel, done."""
        return self("run", *self._tree, *args, timeout=timeout, env=env)

    def shell(self, *args: str, given: bytes = b"", timeout: float = RUN_SECONDS) -> Done:
        """``kharness shell`` on the default kernel with `given` as its input, done."""
        return self.start_shell(*args, given=given).finish(timeout)

    def start_shell(self, *args: str, given: bytes = b"") -> Running:
        """``kharness shell`` on the default kernel, under way."""
        before = ("sh", "-c", 'exec "$@" < "$0"', str(self._input(given)))
        return self.start("shell", *([] if "--kept" in args else self._tree), *args, before=before)

    def _input(self, given: bytes) -> Path:
        path = self.cwd / f"input{len(self._started)}"
        path.write_bytes(given)
        return path

    def start_run(
        self, *args: str, env: Mapping[str, str] | None = None, before: Sequence[str] = (), cwd: Path | None = None
    ) -> Running:
        """``kharness run`` on the default kernel, under way."""
        return self.start("run", *self._tree, *args, env=env, before=before, cwd=cwd)

    def kill(self) -> None:
        """Ends every command that a test left under way."""
        for running in self._started:
            running.kill()
