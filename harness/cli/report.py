# SPDX-License-Identifier: GPL-2.0-only
"""`kharness report`: the results of a run or a bisection again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.flags import Verdict

NEWEST = "out/latest"
SUMMARY = "text"
"""The format that is shown, where the others are written: what a run ends with."""


def report(
    folder: Annotated[str, typer.Argument(help="The folder of a run or a bisection.", metavar="[DIR]")] = NEWEST,
    format: Annotated[
        str, typer.Option(help="text, or for others to read: mail, json, kcidb.", metavar="NAME")
    ] = SUMMARY,
) -> None:
    """Show the results of a run or a bisection again; its exit status is theirs."""
    from harness.bisect import rows

    out = Path(folder)
    if (out / rows.BISECT).is_file():
        _bisection(out, format)
    _run(out, format)


def _bisection(folder: Path, format: str) -> None:
    from harness.bisect import formats, rows, show
    from harness.report.formats import of

    found = rows.read(folder)
    if format != SUMMARY:
        print(of(format, formats.FORMATS, "a bisection")(found, folder), end="")
        raise Verdict(found.exit)
    page = folder / "report.html"
    show.write_html(found, page)
    print(show.render(found, str(page)), end="")
    raise Verdict(found.exit)


def _run(folder: Path, format: str) -> None:
    from harness.report import formats, html, results, terminal

    write = None if format == SUMMARY else formats.of(format, formats.FORMATS, "a run")
    judged = results.read(folder / results.RESULTS)
    if write is not None:
        print(write(judged), end="")
        raise Verdict(judged.verdict.exit)
    page = folder / "report.html"
    html.write(judged, page)
    terminal.show(judged, sys.stdout, str(page))
    raise Verdict(judged.verdict.exit)
