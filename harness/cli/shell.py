# SPDX-License-Identifier: GPL-2.0-only
"""`kharness shell`: a person or a command in a guest."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from harness.cli.flags import Verdict, given, options, takes
from harness.core.options import SHELL, Options, ShellOptions


@takes(SHELL, ShellOptions, Options)
def shell(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(help="Runs there instead of a shell; one word is a line of shell.")
    ] = None,
    **flags: Any,
) -> None:
    """Build and boot a kernel and give a shell in it, or run COMMAND there and return its exit status."""
    from harness.run import planning
    from harness.run import shell as guest

    asked = options(ShellOptions, flags, command=tuple(command or ()))
    plan = planning.visit(planning.gather("", given(context, SHELL)), asked)
    raise Verdict(guest.visit(plan, asked))
