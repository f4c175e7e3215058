# SPDX-License-Identifier: GPL-2.0-only
"""Owns one run of the conductor in a process of its own: what kills it, or what it leaves in memory, is not ours.

``python -m harness.bisect.child PLAN ANSWER``: a Plan as JSON; the answer tells what was not a result.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness.errors import Exit, KharnessError
from harness.host.cache import write_atomically
from harness.plan import Plan
from harness.records import decode, encode
from harness.run import conduct


@dataclass(frozen=True)
class Answer:
    """How the conductor ended: `error` is the exception's class where it raised one, with its words."""

    exit: int
    error: str = ""
    what: str = ""
    step: str = ""
    detail: str = ""


def main(plan: Path, answer: Path) -> Exit:
    """Runs the plan; what it raised goes to `answer`."""
    try:
        status = Exit(conduct(decode(json.loads(plan.read_text()), Plan)))
        told = Answer(status)
    except KharnessError as error:
        told = Answer(error.exit, type(error).__name__, error.what, error.step, error.detail[-4000:])
    write_atomically(answer, json.dumps(encode(told)))
    return Exit(told.exit)


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _terminated)  # also where we were started with it ignored
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
