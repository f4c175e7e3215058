# SPDX-License-Identifier: GPL-2.0-only
"""Owns the command line: parse, call, exit status."""

from __future__ import annotations

import secrets
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from harness import plan as defaults
from harness.definition import load
from harness.plan import KernelRequest, Plan, SourceRequest
from harness.records import Exit, KharnessError, UsageError

app = typer.Typer(
    name="kharness", add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Tests a kernel patch on real kernels under QEMU, with faults injected, and says pass, fail or inconclusive.",
)  # fmt: skip
cache_app = typer.Typer(help="The cache of toolchain, sources, kernels and snapshots.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Tree = Annotated[
    str,
    typer.Option(
        help="A kernel tree of yours, git or plain; uncommitted edits are tested. Never written to."
    ),
]
Version = Annotated[
    str, typer.Option("--kernel", help="A Debian kernel source: a series (7.2) or a package version.")
]
Arch = Annotated[str, typer.Option(help="Architectures, separated by commas.")]
ToolchainKind = Annotated[
    str, typer.Option("--toolchain", help="root: a private Debian root; host: your own tools.")
]


def sources(tree: str, version: str) -> SourceRequest:
    """What --tree and --kernel name. Raises UsageError for both at once or a folder that is not there."""
    if tree and version:
        raise UsageError("--tree and --kernel exclude each other", step="give one of them")
    if tree:
        folder = Path(tree).expanduser()
        if not folder.is_dir():
            raise UsageError(
                f"{tree}: no such folder", step="point --tree at the top folder of a Linux source tree"
            )
        return SourceRequest(tree=str(folder.resolve()))
    return SourceRequest(version=version or defaults.DEFAULT_SERIES)


def arches(text: str) -> tuple[str, ...]:
    """The architectures of --arch. Raises UsageError for one that has no definition."""
    names = tuple(dict.fromkeys(part for part in text.split(",") if part)) or defaults.DEFAULT_ARCHES
    for name in names:
        load(name)
    return names


def suite_of(text: str) -> str:
    """What --suite names: a path from here, made absolute so that a replay finds it, or one of the checkout's."""
    if (defaults_root() / text).exists():
        return text
    if not Path(text).exists():
        raise UsageError(f"{text}: no such suite", step="give a file or folder with tests")
    return str(Path(text).resolve())


@app.command()
def run(
    tree: Tree = "",
    kernel: Version = "",
    arch: Arch = "",
    machine: Annotated[str, typer.Option(help="A machine of vm/ARCH.yaml.")] = "default",
    suite: Annotated[str, typer.Option(help="The tests to run: a file or folder.")] = defaults.DEFAULT_SUITE,
    select: Annotated[str, typer.Option("-k", help="pytest's expression that selects tests.")] = "",
    full: Annotated[bool, typer.Option("--full", help="The long tests too.")] = False,
    cmdline: Annotated[str, typer.Option(help="Added to the kernel command line.")] = "",
    kconfig: Annotated[
        list[str], typer.Option(help="A Kconfig fragment of yours, over ours; may be given again.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Same seed, same operations; 0 chooses one.")] = 0,
    out: Annotated[str, typer.Option(help="Where the results go; default out/<time>.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Compilers at once.")] = defaults.DEFAULT_JOBS,
    toolchain: ToolchainKind = "root",
) -> None:
    """Build, boot and test a kernel; the verdict is on the last line."""
    from harness.run import conduct

    for path in kconfig:
        if not Path(path).is_file():
            raise UsageError(f"{path}: no such Kconfig fragment", step="check --kconfig")
    source = sources(tree, kernel)
    plan = Plan(
        kernels=tuple(KernelRequest(source, name) for name in arches(arch)),
        seed=seed or secrets.randbelow(1 << 31) + 1, out=out, machine=machine, suite=suite_of(suite), select=select,
        full=full, cmdline=cmdline,
        kconfig=tuple(str(Path(path).resolve()) for path in kconfig), toolchain=toolchain, jobs=jobs,
        argv=("kharness", *sys.argv[1:]),
    )  # fmt: skip
    for name in arches(arch):
        load(name).spec(machine)
    raise typer.Exit(conduct(plan))


def defaults_root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A file from the replay folder of a run.")],
    out: Annotated[str, typer.Option(help="Where the results go.")] = "",
    toolchain: ToolchainKind = "root",
) -> None:
    """Do one failed test again on the same kernel; fails only if the same finding comes back."""
    from harness.again import replay_file

    raise typer.Exit(replay_file(file, out, toolchain))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, such as out/latest.")],
) -> None:
    """Show the results of a run again; its exit status is the run's."""
    from harness.report import html, results, terminal

    judged = results.read(folder / results.RESULTS)
    html.write(judged, folder / "report.html")
    terminal.show(judged, sys.stdout, str(folder / "report.html"))
    raise typer.Exit(judged.verdict.exit)


@app.command()
def doctor(
    toolchain: ToolchainKind = "root",
    arch: Arch = "",
    install: Annotated[
        bool, typer.Option("--install", help="Install first what a private Debian root needs on this host.")
    ] = False,
) -> None:
    """What this machine can do; at the end the command that installs what is missing."""
    from harness.host import rootfs
    from harness.host.cache import Cache
    from harness.host.doctor import check
    from harness.host.listing import show_doctor

    if install:
        rootfs.install_missing(lambda line: print(line, file=sys.stderr))
    ok = show_doctor(check(toolchain, Cache.default(0), arches(arch)), sys.stdout)
    raise typer.Exit(Exit.PASS if ok else Exit.UNJUDGED)


@cache_app.command("list")
def cache_list() -> None:
    """What the cache holds, newest first."""
    from harness.host.cache import Cache
    from harness.host.listing import show_cache

    show_cache(Cache.default(0), sys.stdout)


@cache_app.command("prune")
def cache_prune(
    gib: Annotated[
        int, typer.Option("--to", min=0, help="GiB to keep; 0 empties it.")
    ] = defaults.CACHE_CAP_GIB,
) -> None:
    """Remove what was used longest ago, down to a size."""
    from harness.host.cache import Cache
    from harness.host.listing import prune_cache

    prune_cache(Cache.default(0), gib, sys.stdout)


def _terminated(number: int, frame: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does: guests ended, results written."""
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    print("kharness: interrupted; the same command goes on with what is built", file=sys.stderr)
    sys.exit(Exit.INTERRUPTED)


def main() -> NoReturn:
    """Entry point: every failure is one line and an exit status of records.Exit."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(standalone_mode=True, prog_name="kharness")
    except KharnessError as error:
        print(f"kharness: {error.line()}", file=sys.stderr)
        if error.detail:
            print(error.detail, file=sys.stderr)
        sys.exit(error.exit)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as ended:  # typer makes one of an interrupt within a command
        if ended.code == Exit.INTERRUPTED:
            _interrupted()
        raise
    except Exception as error:  # ours, and so never 1, which would be the kernel's
        traceback.print_exc()
        print(f"kharness: kharness itself failed: {type(error).__name__}: {error}; report it", file=sys.stderr)
        sys.exit(Exit.UNJUDGED)
    sys.exit(Exit.PASS)
