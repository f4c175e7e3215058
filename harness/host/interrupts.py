# SPDX-License-Identifier: GPL-2.0-only
"""How signals end us: the first one as Ctrl-C does, the second in a hurry, the third at once.

No later signal breaks into what the first one began: guests are ended and results written once. QEMU, make and all else
that we started die with us in any case (harness/host/process.py). Ctrl-Z stops us as it does any command; the time
until it goes on is on no deadline of ours, for guests and compilers went on meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

STATUS = 130
"""A shell's status of a command that Ctrl-C ended; harness.core.errors.Exit.INTERRUPTED."""

APART_SECONDS = 0.3
"""Signals closer together than this, in seconds, are one: timeout(1) and a vanishing terminal send theirs twice."""

LOOK_SECONDS = 0.2
AGAIN_SECONDS = 0.05
_HURRY = b"interrupted again: nothing is waited for; once more ends it at once\n"


class _Arrivals:
    """Counts the signals since :func:`watch`."""

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0
        self.terminal: list[Any] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.count and (now - self.last < APART_SECONDS or number == signal.SIGHUP):
            return
        self.count, self.last = self.count + 1, now
        if self.count == 1:
            raise KeyboardInterrupt
        if self.count == 2:
            with contextlib.suppress(OSError):  # the terminal is gone
                os.write(2, _HURRY)  # print() might be what was interrupted
            return
        self.at_once()

    def at_once(self) -> None:
        """End this process, with the terminal's settings as they were at its start."""
        if self.terminal is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(0, termios.TCSANOW, self.terminal)
        os._exit(STATUS)


_arrivals = _Arrivals()
_paused = 0.0


def paused() -> float:
    """Seconds for which Ctrl-Z has stopped this process so far: no deadline counts them."""
    return _paused


def _pause(number: int, frame: FrameType | None) -> None:
    """Stops this process, as SIGTSTP would, until SIGCONT."""
    global _paused
    began = time.monotonic()
    signal.raise_signal(signal.SIGSTOP)
    _paused += time.monotonic() - began


def watch(*numbers: signal.Signals, also_ignored: bool = False) -> None:
    """Let these signals raise KeyboardInterrupt, once, in the main thread.

    A signal that was ignored when we were started, as by nohup(1), stays without effect here, unless `also_ignored`;
    but our child processes do not inherit that, as we end them by it. SIGCHLD must not stay ignored: the kernel would
    reap our children itself, and their statuses would be lost (waitpid(2)).
    """
    global _arrivals
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _arrivals = _Arrivals()
    with contextlib.suppress(termios.error, ValueError):  # no terminal
        _arrivals.terminal = termios.tcgetattr(0)
    for number in numbers:
        ignored = signal.getsignal(number) in (signal.SIG_IGN, _heedless)
        signal.signal(number, _heedless if ignored and not also_ignored else _arrivals)
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, _pause)
    sys.unraisablehook = _swallowed(sys.unraisablehook)
    atexit.register(_ignore, numbers)


def _heedless(number: int, frame: FrameType | None) -> None:
    """Handles a signal as if it were ignored: exec(2) resets a handler, but not SIG_IGN."""


def _ignore(numbers: Sequence[signal.Signals]) -> None:
    """Ignore the signals while Python shuts down: nothing is left that they could end in order.

    Python remembers an interrupt that broke off code which exec() got as text (dataclasses are made that way), and
    kills itself by SIGINT at its end although the exception was caught (run_eval_code_obj() in Python/pythonrun.c,
    exit_sigint() in Modules/main.c). With SIGINT blocked it exits with STATUS.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))


def _swallowed(before: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Interrupt again after a swallowed interrupt: Python ignores exceptions of ``__del__`` and of weak references."""

    def hook(about: Any) -> None:
        if not issubclass(about.exc_type, KeyboardInterrupt):
            before(about)
            return
        _arrivals.count = 0
        timer = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    return hook


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals within the block, which is short and must not be interrupted: they arrive at its end.

    A ``finally`` around it must clean up what the block made, as KeyboardInterrupt may be raised at its end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until a child has ended; returns False after `seconds`, or once a second signal asks to hurry."""
    deadline = time.monotonic() + seconds
    while child.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0 or _arrivals.count > 1:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(min(left, LOOK_SECONDS))
    return True
