# SPDX-License-Identifier: GPL-2.0-only
"""`kharness mutants`: which broken versions of a patch would be caught."""

from __future__ import annotations

from typing import Any

import typer

from harness.cli.flags import Verdict, given, options, takes
from harness.core.options import MUTANTS, MutantOptions, Options


@takes(MUTANTS, MutantOptions, Options)
def mutants(context: typer.Context, **flags: Any) -> None:
    """Break the lines that a patch adds, one at a time, and tell which breaks the tests catch.

    The same command goes on where it was interrupted.
    """
    from harness.mutants import command
    from harness.run import planning
    from harness.run.requested import plan_of

    plan = plan_of(planning.gather("", given(context, MUTANTS)))
    raise Verdict(command.run(plan, options(MutantOptions, flags)))
