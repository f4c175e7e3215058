# SPDX-License-Identifier: GPL-2.0-only
"""`kharness doctor`: what this machine lacks."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from harness.cli.flags import takes
from harness.core.errors import Exit
from harness.core.options import DOCTOR, Options
from harness.core.printable import one_line


@takes(DOCTOR, Options)
def doctor(
    install: Annotated[
        bool, typer.Option("--install", help="Install first what a private Debian root needs on this host.")
    ] = False,
    **flags: Any,
) -> None:
    """What this machine can do; at the end the command that installs what is missing."""
    from harness.host import rootfs
    from harness.host.cache import Cache
    from harness.host.doctor import check
    from harness.host.listing import show_doctor
    from harness.run import planning

    if install:
        rootfs.install_missing(lambda said: print(one_line(said), file=sys.stderr))
    rows = check(flags["toolchain"], Cache.default(0), planning.arches(flags["arch"]))
    raise typer.Exit(Exit.PASS if show_doctor(rows, sys.stdout) else Exit.UNJUDGED)
