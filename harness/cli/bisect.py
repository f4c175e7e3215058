# SPDX-License-Identifier: GPL-2.0-only
"""`kharness bisect`: which commit, patch or symbol brought a failure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from harness.cli.flags import Verdict, given, options, takes
from harness.core.options import BISECT, BisectOptions, Options


@takes(BISECT, BisectOptions, Options)
def bisect(context: typer.Context, **flags: Any) -> None:
    """Find the commit, patch or symbol that introduced a failure, or fixed it.

    The same command continues where it was interrupted.
    """
    from harness.bisect import command
    from harness.run import planning
    from harness.run.requested import plan_of

    plan = plan_of(planning.gather("", given(context, BISECT)))
    # Where the user chose no seed, the ends do.
    raise Verdict(command.bisect(replace(plan, seed=flags["seed"]), options(BisectOptions, flags)))
