# SPDX-License-Identifier: GPL-2.0-only
"""One run of the runner in a process of its own: what kills it, or what it leaves in memory, is not ours.

``python -m harness.bisect.child PLAN ANSWER``: a Plan as JSON; the answer has the errors that are no result.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import Exit, KharnessError
from harness.core.plan import Plan
from harness.core.records import decode, encode
from harness.host import interrupts, streams
from harness.host.cache import write_atomically
from harness.run.runner import conduct


@dataclass(frozen=True)
class Answer:
    """How the runner ended: `error` is the class of its exception, if any, with its message."""

    exit: int
    error: str = ""
    what: str = ""
    step: str = ""
    detail: str = ""


def main(plan: Path, answer: Path) -> Exit:
    """Run the plan; its exception goes to `answer`."""
    try:
        status = Exit(conduct(decode(json.loads(plan.read_text()), Plan)))
        done = Answer(status)
    except KharnessError as error:
        done = Answer(error.exit, type(error).__name__, error.what, error.step, error.detail[-4000:])
    write_atomically(answer, json.dumps(encode(done)))
    return Exit(done.exit)


if __name__ == "__main__":
    streams.settle()
    interrupts.watch(signal.SIGINT, signal.SIGTERM, also_ignored=True)
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
