# SPDX-License-Identifier: GPL-2.0-only
"""`kharness run`: build, boot and test a kernel."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from harness.cli.flags import Verdict, given, takes
from harness.core.options import RUN, Options

BISECT_EXIT = "--bisect-exit"


@takes(RUN, Options)
def run(
    context: typer.Context,
    plan: Annotated[
        str,
        typer.Argument(
            metavar="PLAN",
            help="A YAML file with any of these flags as keys; what is given here as well overrides it. A suite of "
            "your own and toolchain host must be given here.",
            show_default=False,
        ),
    ] = "",
    print_plan: Annotated[
        bool, typer.Option("--print-plan", help="Write what would be run as a PLAN, and run nothing.")
    ] = False,
    bisect_exit: Annotated[
        bool, typer.Option(BISECT_EXIT, help="Exit as 'git bisect run' wants it: 125 for what cannot be judged.")
    ] = False,
    **flags: Any,
) -> None:
    """Build, boot and test a kernel; the verdict is on the last line."""
    from harness.run import planning, runner
    from harness.run.requested import plan_of

    options = planning.gather(plan, given(context, RUN))
    asked = plan_of(options)
    if print_plan:
        print(planning.render(options), end="")
        return
    if options.each:
        from harness.bisect import each

        raise Verdict(each.run(asked))
    if bisect_exit:
        from harness.bisect.judge import status

        raise Verdict(runner.conduct(asked, status))
    raise Verdict(runner.conduct(asked))
