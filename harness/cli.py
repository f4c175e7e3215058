# SPDX-License-Identifier: GPL-2.0-only
"""Owns the command line: parse, call, exit status."""

from __future__ import annotations

import signal
import sys
import traceback
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from harness import allow as allowlist
from harness import plan as defaults
from harness import planfile
from harness.errors import Exit, KharnessError
from harness.plan import Plan, Visit, Wishes

app = typer.Typer(
    name="kharness", add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Tests a kernel patch on real kernels under QEMU, with faults injected, and says pass, fail or inconclusive.",
)  # fmt: skip
cache_app = typer.Typer(help="The cache of toolchain, sources, kernels and snapshots.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
source_app = typer.Typer(help="Kernel sources.", no_args_is_help=True)
app.add_typer(source_app, name="source")

Tree = Annotated[
    str,
    typer.Option(
        help="A kernel tree of yours, git or plain; uncommitted edits are tested. Never written to."
    ),
]
PlanFile = Annotated[
    str,
    typer.Argument(
        metavar="PLAN",
        help="A YAML file with any of these flags as keys; what is given here as well overrides it.",
        show_default=False,
    ),
]
Version = Annotated[
    str, typer.Option("--kernel", help="A Debian kernel source: a series (7.2) or a package version.")
]
Arch = Annotated[str, typer.Option(help="Architectures, separated by commas.")]
ToolchainKind = Annotated[
    str, typer.Option("--toolchain", help="root: a private Debian root; host: your own tools.")
]

Patches = Annotated[
    list[str],
    typer.Option(help="A patch, mailbox or folder of patches to test against the tree without them; repeatable."),
]
Cmdline = Annotated[str, typer.Option(help="Added to the kernel command line.")]
Fragments = Annotated[
    list[str],
    typer.Option(help="A Kconfig fragment over ours, may be given again: kasan, lockdep, preempt or a file of yours."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Compilers at once.")]
Guests = Annotated[int, typer.Option(min=0, help="Guests at once; 0: as many as cores and memory allow.")]
Machines = Annotated[
    str, typer.Option(help="Machines of vm/ARCH.yaml, separated by commas: every test on each of them.")
]
Suite = Annotated[
    str,
    typer.Option(help="The tests to run: a file or folder, or 'selftests': the sched_ext selftests of the tree."),
]
Select = Annotated[str, typer.Option("-k", help="pytest's expression that selects tests.")]
Full = Annotated[bool, typer.Option("--full/--no-full", help="The long tests too.")]
Bpf = Annotated[
    list[str],
    typer.Option(help="A BPF scheduler of yours, FILE.bpf.c, to be tested too; may be given again."),
]
Faults = Annotated[
    str, typer.Option(metavar="FILE", help="A fault plan of yours, YAML, to be carried out too; -k plan: alone.")
]
Allow = Annotated[
    list[str],
    typer.Option(metavar="FILE", help="An allow-list of yours, YAML: findings that do not count; repeatable."),
]

BISECT_EXIT = "--bisect-exit"
FOR_GIT = {Exit.USAGE: 128, Exit.UNJUDGED: 129}
"""With BISECT_EXIT: the statuses that say nothing of a commit, as what ends `git bisect run`."""


def given(context: typer.Context) -> dict[str, object]:
    """The flags that were typed, by the names of their wishes."""
    names = [field.name for field in fields(Wishes) if field.name in context.params]
    typed = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    return {name: context.params[name] for name in typed}


# A new flag is a line here and a field of Wishes; planfile.request() says what it does.
@app.command()
def run(
    context: typer.Context,
    plan: PlanFile = "",
    tree: Tree = "",
    kernel: Version = "",
    patch: Patches = [],  # noqa: B006
    base: Annotated[str, typer.Option(help="A revision of --tree to compare with.")] = "",
    head: Annotated[str, typer.Option(help="The revision to test; default: what lies in --tree now.")] = "",
    arch: Arch = "",
    machine: Machines = "",
    suite: Suite = defaults.DEFAULT_SUITE,
    select: Select = "",
    full: Full = False,
    cmdline: Cmdline = "",
    kconfig: Fragments = [],  # noqa: B006
    bpf: Bpf = [],  # noqa: B006
    faults: Faults = "",
    allow: Allow = [],  # noqa: B006
    search: Annotated[
        str, typer.Option(metavar="TIME", help="How long sequences are searched, as 60s or 10m; default 10s.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Same seed, same operations; 0 chooses one.")] = 0,
    out: Annotated[str, typer.Option(help="Where the results go; default out/<time>.")] = "",
    jobs: Jobs = defaults.DEFAULT_JOBS,
    guests: Guests = 0,
    toolchain: ToolchainKind = defaults.DEFAULT_TOOLCHAIN,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the guest of each test that does not pass: kharness shell --kept.")
    ] = False,
    dump: Annotated[
        bool, typer.Option("--dump", help="Write the memory of guests that crash or hang to OUT/dumps, for crash(8).")
    ] = False,
    coverage: Annotated[
        bool,
        typer.Option("--coverage/--no-coverage", help="On a kernel that counts them: which branches were taken."),
    ] = False,
    print_plan: Annotated[
        bool, typer.Option("--print-plan", help="Write what would be run as a PLAN, and run nothing.")
    ] = False,
    bisect_exit: Annotated[
        bool, typer.Option(BISECT_EXIT, help="Exit as 'git bisect run' wants it: 125 for what cannot be judged.")
    ] = False,
) -> None:
    """Build, boot and test a kernel; the verdict is on the last line."""
    from harness.run import conduct

    wishes = planfile.gather(plan, given(context))
    asked = _planned(wishes)
    if print_plan:
        print(planfile.render(wishes), end="")
        return
    if bisect_exit:
        from harness.bisect.judge import status

        raise typer.Exit(conduct(asked, status))
    raise typer.Exit(conduct(asked))


def _planned(wishes: Wishes) -> Plan:
    """The plan of what is wished, with the files that it names read."""
    asked = planfile.request(wishes, ("kharness", *sys.argv[1:]))
    asked = replace(asked, allow=allowlist.gather(asked.suite, wishes.allow, date.today()))
    if wishes.faults:
        from harness.faults import plans
        from harness.suite.operations import ACTIONS

        asked = replace(asked, faults=plans.read(Path(wishes.faults), ACTIONS))
    return asked


@app.command()
def bisect(
    context: typer.Context,
    tree: Annotated[
        str, typer.Option(help="A git tree of yours whose revisions are tested; with --patch and --kconfig any tree.")
    ] = "",
    kernel: Version = "",
    good: Annotated[str, typer.Option(metavar="REV", help="A revision of --tree that passes.")] = "",
    bad: Annotated[str, typer.Option(metavar="REV", help="A revision of --tree that fails.")] = "",
    find: Annotated[
        str, typer.Option(help="'regression', or 'fixed': bad is the older one, and what mended it is looked for.")
    ] = defaults.DEFAULT_FIND,
    patch: Annotated[
        list[str], typer.Option(help="Instead of good and bad: a series; one patch of it is looked for.")
    ] = [],  # noqa: B006
    kconfig: Annotated[
        tuple[str, str],
        typer.Option(metavar="GOOD BAD", help="Instead of good and bad: two .config files; a symbol is looked for."),
    ] = ("", ""),
    arch: Arch = defaults.DEFAULT_ARCHES[0],
    machine: Machines = "",
    suite: Suite = defaults.DEFAULT_SUITE,
    select: Select = "",
    full: Full = False,
    cmdline: Cmdline = "",
    bpf: Bpf = [],  # noqa: B006
    faults: Faults = "",
    allow: Allow = [],  # noqa: B006
    confidence: Annotated[
        float, typer.Option(help="How sure the answer must be, from 0.5 to below 1.")
    ] = defaults.CONFIDENCE,
    signature: Annotated[
        str, typer.Option(help="The finding to look for, * and ? allowed; default: the first at the failing end.")
    ] = "",
    follow: Annotated[
        str, typer.Option(help="What counts as the failure too and is not skipped: build, boot, other; by commas.")
    ] = "",
    fixup: Annotated[
        list[str], typer.Option(metavar="PATCH", help="Applied to what does not build without it; repeatable.")
    ] = [],  # noqa: B006
    runs: Annotated[
        int, typer.Option(min=1, help="Runs of the failing end: how often does it fail?")
    ] = defaults.END_RUNS,
    tries: Annotated[
        int, typer.Option(min=1, help="Runs of the failing end until it fails once.")
    ] = defaults.END_TRIES,
    seed: Annotated[int, typer.Option(help="Same seed, same operations; 0: one that the ends decide.")] = 0,
    out: Annotated[str, typer.Option(help="Where state and results go; default out/bisect-<what is asked>.")] = "",
    jobs: Jobs = defaults.DEFAULT_JOBS,
    guests: Guests = 0,
    toolchain: ToolchainKind = defaults.DEFAULT_TOOLCHAIN,
) -> None:
    """Find the commit, patch or symbol that brought a failure, or mended it.

    The same command goes on where it was interrupted.
    """
    from harness.bisect.command import Hunt
    from harness.bisect.command import bisect as search

    own = {name: value for name, value in given(context).items() if name not in ("patch", "kconfig")}
    asked = replace(_planned(planfile.gather("", {"arch": arch, **own})), seed=seed)
    hunt = Hunt(
        good, bad, find, confidence, follow, tuple(fixup), signature, runs, tries, patch=tuple(patch), kconfig=kconfig
    )
    raise typer.Exit(search(asked, hunt))


# Options end at the first word of COMMAND, whose own they are from there on.
@app.command(context_settings={"allow_interspersed_args": False})
def shell(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(help="Runs there instead of a shell; one word is a line of shell.")
    ] = None,
    tree: Tree = "",
    kernel: Version = "",
    patch: Patches = [],  # noqa: B006
    arch: Annotated[str, typer.Option(help="One architecture.")] = defaults.DEFAULT_ARCHES[0],
    machine: Annotated[str, typer.Option(help="One machine of vm/ARCH.yaml.")] = defaults.DEFAULT_MACHINE,
    cmdline: Cmdline = "",
    kconfig: Fragments = [],  # noqa: B006
    put: Annotated[list[str], typer.Option(metavar="HOSTFILE:GUESTPATH", help="A file into the guest, first.")] = [],  # noqa: B006
    get: Annotated[list[str], typer.Option(metavar="GUESTPATH:HOSTFILE", help="A file out of the guest, last.")] = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="--get may overwrite.")] = False,
    gdb: Annotated[bool, typer.Option("--gdb", help="Stop at the first instruction, for gdb to attach.")] = False,
    kept: Annotated[str, typer.Option(help="A guest that 'run --keep' kept, instead of a kernel.")] = "",
    jobs: Jobs = defaults.DEFAULT_JOBS,
    toolchain: ToolchainKind = defaults.DEFAULT_TOOLCHAIN,
) -> None:
    """Build and boot a kernel and give a shell in it, or run COMMAND there and return its exit status."""
    from harness.shell import visit

    wishes = planfile.gather("", {"arch": arch, "machine": machine, **given(context)})
    wish = Visit(tuple(command or ()), tuple(put), tuple(get), force, gdb, kept)
    raise typer.Exit(visit(planfile.visit(wishes, wish), wish))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A file from the replay folder of a run.")],
    out: Annotated[str, typer.Option(help="Where the results go.")] = "",
    toolchain: ToolchainKind = defaults.DEFAULT_TOOLCHAIN,
) -> None:
    """Do one failed test again on the same kernel; fails only if the same finding comes back."""
    from harness.again import replay_file

    raise typer.Exit(replay_file(file, out, toolchain))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, such as out/latest.")],
) -> None:
    """Show the results of a run or a bisection again; its exit status is theirs."""
    from harness.bisect import rows, show
    from harness.report import html, results, terminal

    if (folder / rows.BISECT).is_file():
        found = rows.read(folder)
        show.write_html(found, folder / "report.html")
        print(show.render(found, str(folder / "report.html")), end="")
        raise typer.Exit(found.exit)
    judged = results.read(folder / results.RESULTS)
    html.write(judged, folder / "report.html")
    terminal.show(judged, sys.stdout, str(folder / "report.html"))
    raise typer.Exit(judged.verdict.exit)


@app.command()
def doctor(
    toolchain: ToolchainKind = defaults.DEFAULT_TOOLCHAIN,
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
    ok = show_doctor(check(toolchain, Cache.default(0), planfile.arches(arch)), sys.stdout)
    raise typer.Exit(Exit.PASS if ok else Exit.UNJUDGED)


@source_app.command("import")
def source_import(
    items: Annotated[
        list[str], typer.Argument(metavar="VERSION|TARBALL|FOLDER...", help="Releases: Debian's, or what lies here.")
    ],
    into: Annotated[
        str, typer.Option(help="The bare repository to make, or to add to.")
    ] = defaults.DEFAULT_RELEASES,
    toolchain: ToolchainKind = defaults.DEFAULT_TOOLCHAIN,
) -> None:
    """Make a git repository of kernel releases, one commit each: a history for 'kharness bisect'."""
    from harness.host.cache import Cache
    from harness.host.progress import Progress
    from harness.source import releases

    cache = Cache.default(defaults.CACHE_CAP_GIB << 30)
    made = releases.gather(items, Path(into), cache, Progress(cache.folder("durations")), toolchain)
    for version, commit in made:
        print(f"v{version} {commit[:12]}")
    if len(made) > 1:
        print(f"next: kharness bisect --tree {into} --good v{made[0][0]} --bad v{made[-1][0]}")


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
        _command()
    except SystemExit as ended:
        # Also for a flag that is none, which typer ends with: to git, 2 would be a commit that is bad.
        if BISECT_EXIT in sys.argv and ended.code in FOR_GIT:
            sys.exit(FOR_GIT[Exit(ended.code)])
        raise


def _command() -> NoReturn:
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
