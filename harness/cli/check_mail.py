# SPDX-License-Identifier: GPL-2.0-only
"""`kharness check-mail`: a check of `b4 review`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from harness.cli.flags import Verdict, given, takes
from harness.core.options import CHECK, Options

MOST = 64 << 20
"""Bytes of a mail that are read."""


@takes(CHECK, Options)
def check_mail(
    context: typer.Context,
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="A YAML file with any of these flags as keys.", show_default=False)
    ] = "",
    **flags: Any,
) -> None:
    """Test the patch in the mail on standard input, and answer with b4's list of results as JSON.

    For b4.review-series-check-cmd. What goes on is said on stderr.
    """
    from harness.core.errors import UsageError
    from harness.core.records import encode
    from harness.run import planning
    from harness.run.check_mail import check

    options = planning.gather(plan, given(context, CHECK))
    text = sys.stdin.buffer.read(MOST + 1)
    if len(text) > MOST:
        raise UsageError(f"the mail is longer than {MOST >> 20} MiB", step="give one mail, not a mailbox")
    words = sys.argv[sys.argv.index(CHECK) + 1 :] if CHECK in sys.argv else []
    answer, status = check(options, text, words)
    print(json.dumps([encode(answer)], indent=1, ensure_ascii=True))
    raise Verdict(status)
