# SPDX-License-Identifier: GPL-2.0-only
"""`kharness replay`: one failed test again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.flags import Verdict, given, takes
from harness.core.options import REPLAY, Options


@takes(REPLAY, Options)
def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file from the replay folder of a run.")],
    **flags: Any,
) -> None:
    """Do one failed test again on the same kernel; fails only if the same finding comes back."""
    from harness.run.replay import replay as replay_test

    raise Verdict(replay_test(file, given(context, REPLAY)))
