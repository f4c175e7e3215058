# SPDX-License-Identifier: GPL-2.0-only
"""The command line as a whole: the verbs, one file each, and how every one of them ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import typer
from typer.core import TyperGroup

from harness.cli.bisect import bisect
from harness.cli.cache import prune, show
from harness.cli.check_mail import check_mail
from harness.cli.doctor import doctor
from harness.cli.flags import Verdict
from harness.cli.mutants import mutants
from harness.cli.replay import replay
from harness.cli.report import report
from harness.cli.run import BISECT_EXIT, run
from harness.cli.shell import shell
from harness.cli.source import import_releases
from harness.core.errors import Exit, HarnessError, KharnessError
from harness.core.options import CHECK
from harness.host import interrupts, mishaps, streams

NO_HOME = "/nonexistent"
"""The home of a user without one (Debian Policy 9.2.3)."""

FOR_GIT = {Exit.USAGE: 128, Exit.UNJUDGED: 129}
"""With BISECT_EXIT: the statuses that say nothing about a commit, as ones that end `git bisect run`."""


class Commands(TyperGroup):
    """The commands; turns an error of the system into ours.

    typer takes a broken pipe or the end of a file for one of the terminal, and ends with status 1.
    """

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:
            raise mishaps.explained(error) from error


app = typer.Typer(
    name="kharness",
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Tests a kernel patch on real kernels under QEMU, with faults injected, and says pass, fail or inconclusive.",
)
cache_app = typer.Typer(help="The cache of toolchain, sources, kernels and snapshots.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
source_app = typer.Typer(help="Kernel sources.", no_args_is_help=True)
app.add_typer(source_app, name="source")

app.command()(run)
app.command()(bisect)
app.command()(mutants)
# Options end at the first word of COMMAND: those that follow are the command's own.
app.command(context_settings={"allow_interspersed_args": False})(shell)
app.command()(replay)
app.command()(report)
app.command(CHECK)(check_mail)
app.command()(doctor)
source_app.command("import")(import_releases)
cache_app.command("list")(show)
cache_app.command("prune")(prune)


def main() -> NoReturn:
    """Entry point: every failure is one line and an exit status of errors.Exit.

    Streams that are closed, full or of another encoding change no verdict; lost output is a failure only for a command
    that judges nothing, and only if the reader did not close the pipe.
    """
    streams.settle()
    interrupts.watch(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    threading.excepthook = mishaps.in_thread
    logging.getLogger().addHandler(logging.NullHandler())  # else paramiko's messages would go to the terminal unescaped
    try:
        status, stands = _command()
    except KeyboardInterrupt:  # while the end of the command was reported
        status, stands = _interrupted()
    lost = streams.loss(sys.stdout)
    if lost is not None and not streams.is_reader_gone(lost):
        print(f"kharness: the output is lost: {lost.strerror}; see where stdout leads", file=sys.stderr)
        status = status if stands else Exit.UNJUDGED
    # Also where typer exits because of an unknown flag: git would take status 2 for a bad commit.
    if BISECT_EXIT in sys.argv and status in FOR_GIT:
        status = FOR_GIT[Exit(status)]
    sys.exit(status)


def _command() -> tuple[int, bool]:
    """Run the command; returns the exit status, and whether it is valid even if the output was lost."""
    try:
        _somewhere()
        app(standalone_mode=True, prog_name="kharness")
    except KharnessError as error:
        mishaps.report(error)
        return error.exit, error.exit == Exit.FAIL
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as ended:
        # typer turns each Exit, which is then its context, and an interrupt within a command into a SystemExit.
        judged = isinstance(ended.__context__, Verdict)
        if ended.code == Exit.INTERRUPTED and not judged:
            return _interrupted()
        status = ended.code if isinstance(ended.code, int) else Exit.UNJUDGED if ended.code else Exit.PASS
        return (Exit.UNJUDGED if status == Exit.FAIL and not judged else status), judged
    except Exception as error:  # a bug of ours: never status 1, which means a bug of the kernel
        mishaps.report(mishaps.explained(error))
        return Exit.UNJUDGED, False
    return Exit.PASS, False


def _somewhere() -> None:
    """Make ``~`` and ``.`` resolvable. Raises HarnessError where the current folder is gone."""
    if not os.path.isabs(os.environ.get("HOME", "/")):
        del os.environ["HOME"]  # an empty value would be the root
    try:
        Path.home()
    except RuntimeError:  # HOME is not set, and the user has no entry in passwd(5)
        os.environ["HOME"] = NO_HOME
    try:
        os.getcwd()
    except OSError as error:
        raise HarnessError(f"the current folder cannot be used: {error.strerror}", step="cd to another one") from error


def _interrupted() -> tuple[int, bool]:
    print("kharness: interrupted; the same command goes on with what is built", file=sys.stderr)
    return Exit.INTERRUPTED, False
