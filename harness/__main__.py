# SPDX-License-Identifier: GPL-2.0-only
"""`python -m harness`, and refuses a Python that removes assertions."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

UNJUDGED = 4
"""harness.core.errors.Exit.UNJUDGED, which is not imported yet."""


def main() -> NoReturn:
    """The command line, see harness.cli.main. Exits with status 4 where assertions are removed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Before anything is imported, until the command line is read: nothing is there to be ended.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.flags.optimize:
        print(
            "kharness: this Python removes assertions (PYTHONOPTIMIZE or -O), which judge; unset PYTHONOPTIMIZE",
            file=sys.stderr,
        )
        sys.exit(UNJUDGED)
    try:
        from harness.host import streams

        streams.in_utf8()
        from harness.cli.main import main as command

        command()
    except Exception as error:  # such as a library that is not there: Python would end with 1, the kernel's
        print(f"kharness: cannot start: {type(error).__name__}: {str(error)!a}; see 'make doctor'", file=sys.stderr)
        sys.exit(UNJUDGED)


if __name__ == "__main__":
    main()
