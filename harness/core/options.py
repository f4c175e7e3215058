# SPDX-License-Identifier: GPL-2.0-only
"""What a user may ask for: one field a flag, with all that the command line, YAML and the files of a run need of it.

A new flag is a field of :class:`Options`. From its metadata follow the flag itself, for each verb that takes it, the
key of a plan file, whether a replay file keeps it and whether it belongs to the identity of a bisection. What uses it
reads it from ``plan.options``, or in the pytest process from ``session.options``. `BisectOptions` and `ShellOptions`
are the flags that one verb has alone.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Annotated, Any

import msgspec

DEFAULT_SERIES = "7.2"
"""The Debian kernel series that is tested when nothing else is named."""

DEFAULT_ARCHES = ("x86_64", "arm64")
DEFAULT_SUITE = ""
"""The one that pyproject.toml names (harness.suite.loader)."""

DEFAULT_MACHINE = "default"
"""Where a test runs that names no machine; see the marker `machines` in docs/howto/write-tests.md."""

DEFAULT_JOBS = 2
"""More than two compilers at once only compete for memory on the machines this is built for."""

DEFAULT_TOOLCHAIN = "root"
DEFAULT_FIND = "regression"
"""What a bisection looks for: what introduced a failure."""

CONFIDENCE = 0.99
"""How sure a bisection must be, as a probability."""

END_RUNS = 5
"""Runs of the end that fails, to learn whether the failure shows each time."""

END_TRIES = 10
"""Runs of the end that fails, until the failure shows once."""

SEARCH_SECONDS = 10.0
"""How long sequences of operations are searched for one that disagrees, where --search does not say."""

MOST_SEED = (1 << 63) - 1
MOST_JOBS = 4096
"""Compilers or guests at once: more is a slip of the finger."""

RUN, BISECT, SHELL, REPLAY, DOCTOR, IMPORT = "run", "bisect", "shell", "replay", "doctor", "source import"
MUTANTS, CHECK = "mutants", "check-mail"
"""The verbs that take options."""


@dataclass(frozen=True)
class Override:
    """What an option is for one verb: another help text, another default. None: the same as for all."""

    help: str | None = None
    default: Any = None


@dataclass(frozen=True)
class OptionMeta:
    """The metadata of an option.

    `help` is what --help says; `verbs` are those that take it, `instead` what is different for some of them.
    `spelled` is the flag where it is not ``--name`` (of a bool ``--name/--no-name``), `metavar` what --help calls its
    value; `least` is the smallest number that the command line takes. `path`: it names files, which in a plan file are
    relative to its folder. `rival` is another option, which a plan file loses when this one is typed.

    `becomes` is the field of Plan that is made of it; without one it is read from Plan.options as it was given.
    `replay`: a replay file keeps it. `identity`: with another value it is another bisection. For an option that becomes
    a field of Plan it is this field that is kept or compared: see session/replay_file.py and bisect/identity.py.
    """

    help: str
    verbs: tuple[str, ...]
    instead: Mapping[str, Override]
    spelled: str
    metavar: str
    least: int | None
    path: bool
    rival: str
    becomes: str
    replay: bool
    identity: bool


def option(
    default: Any,
    help: str,
    *,
    verbs: tuple[str, ...] = (RUN,),
    instead: Mapping[str, Override] | None = None,
    spelled: str = "",
    metavar: str = "",
    least: int | None = None,
    path: bool = False,
    rival: str = "",
    becomes: str = "",
    replay: bool = False,
    identity: bool = False,
    check: bool = True,
) -> Any:
    """A field that is an option; the arguments are the fields of :class:`OptionMeta`.

    What RUN takes CHECK takes too, unless `check` says that it is the mail's to say.
    """
    if RUN in verbs and check:
        verbs = (*verbs, CHECK)
    frozen = types.MappingProxyType(dict(instead or {}))
    meta = OptionMeta(help, verbs, frozen, spelled, metavar, least, path, rival, becomes, replay, identity)
    return field(default=default, metadata={"option": meta})


def options_of(kind: type) -> dict[str, tuple[Field[Any], OptionMeta]]:
    """The options of a dataclass by their names, each as field and metadata."""
    return {found.name: (found, found.metadata["option"]) for found in fields(kind) if "option" in found.metadata}


@dataclass(frozen=True)
class Options:
    """What a run is asked for: one field for each flag of `kharness run`, which is also a key of a plan file."""

    tree: str = option(
        "",
        "A kernel tree of yours, git or plain; uncommitted edits are tested. Never written to.",
        verbs=(RUN, BISECT, SHELL, MUTANTS),
        path=True,
        rival="kernel",
        becomes="kernels",
        replay=True,
        identity=True,
        instead={
            BISECT: Override("A git tree of yours whose revisions are tested; with --patch and --kconfig any tree."),
            CHECK: Override("A kernel tree of yours; default: the folder that it is started in."),
        },
    )
    kernel: str = option(
        "",
        "A Debian kernel source: a series (7.2) or a package version.",
        verbs=(RUN, BISECT, SHELL, MUTANTS),
        rival="tree",
        becomes="kernels",
        replay=True,
        identity=True,
    )
    patch: tuple[str, ...] = option(
        (),
        "A patch to test against the tree without it: a diff, a mail, a mailbox or maildir of a thread, a folder, - "
        "(standard input) or a message-id; repeatable.",
        verbs=(RUN, SHELL, MUTANTS),
        path=True,
        rival="head",
        becomes="kernels",
        replay=True,
        identity=True,
        check=False,
    )
    # A replay has the patches as they were read: these two are not asked again.
    series_version: Annotated[int, msgspec.Meta(ge=0, le=MOST_JOBS)] = option(
        0,
        "Of a thread this version of the series; 0: the newest.",
        verbs=(RUN, BISECT, SHELL, MUTANTS),
        least=0,
        identity=True,
    )
    replies: bool = option(
        False,
        "Of a thread the diffs in replies too, after the series.",
        verbs=(RUN, BISECT, SHELL, MUTANTS),
        identity=True,
    )
    base: str = option(
        "", "A revision of --tree to compare with.", verbs=(RUN, MUTANTS), becomes="kernels", replay=True, identity=True
    )
    head: str = option(
        "",
        "The revision to test; default: what lies in --tree now.",
        verbs=(RUN, MUTANTS),
        rival="patch",
        becomes="kernels",
        replay=True,
        identity=True,
        check=False,
    )
    arch: str = option(
        "",
        "Architectures, separated by commas.",
        verbs=(RUN, BISECT, SHELL, DOCTOR, MUTANTS),
        becomes="kernels",
        replay=True,
        identity=True,
        instead={
            BISECT: Override(default=DEFAULT_ARCHES[0]),
            SHELL: Override("One architecture.", DEFAULT_ARCHES[0]),
            MUTANTS: Override("One architecture.", DEFAULT_ARCHES[0]),
        },
    )
    machine: str = option(
        "",
        "Machines of vm/ARCH.yaml, separated by commas: every test on each of them.",
        verbs=(RUN, BISECT, SHELL, MUTANTS),
        becomes="machines",
        replay=True,
        identity=True,
        instead={SHELL: Override("One machine of vm/ARCH.yaml.", DEFAULT_MACHINE)},
    )
    suite: str = option(
        DEFAULT_SUITE,
        "The tests to run: a file or folder, or a name of ours: see 'ls tests/kernel'.",
        verbs=(RUN, BISECT, REPLAY, MUTANTS),
        path=True,
        becomes="suite",
        replay=True,
        identity=True,
        instead={REPLAY: Override("The path of the test; it must be given for one outside kharness's own folder.", "")},
    )
    select: str = option(
        "", "pytest's expression that selects tests.", verbs=(RUN, BISECT, MUTANTS), spelled="-k", identity=True
    )
    full: bool = option(False, "The long tests too.", verbs=(RUN, BISECT, MUTANTS), identity=True)
    cmdline: str = option(
        "", "Added to the kernel command line.", verbs=(RUN, BISECT, SHELL, MUTANTS), replay=True, identity=True
    )
    kconfig: tuple[str, ...] = option(
        (),
        "A Kconfig fragment over ours, may be given again: kasan, lockdep, preempt or a file of yours.",
        verbs=(RUN, SHELL, MUTANTS),
        path=True,
        becomes="kconfig",
        replay=True,
        identity=True,
    )
    bpf: tuple[str, ...] = option(
        (),
        "A BPF scheduler of yours, FILE.bpf.c, to be tested too; may be given again.",
        verbs=(RUN, BISECT, MUTANTS),
        path=True,
        becomes="bpf",
        replay=True,
        identity=True,
    )
    faults: str = option(
        "",
        "A fault plan of yours, YAML, to be carried out too; -k plan: alone.",
        verbs=(RUN, BISECT, MUTANTS),
        metavar="FILE",
        path=True,
        becomes="faults",
        replay=True,
        identity=True,
    )
    allow: tuple[str, ...] = option(
        (),
        "An allow-list of yours, YAML: findings that do not count; repeatable.",
        verbs=(RUN, BISECT, MUTANTS),
        metavar="FILE",
        path=True,
        becomes="allow",
        replay=True,
        identity=True,
    )
    search: str = option(
        "",
        "How long sequences are searched, as 60s or 10m; default 10s.",
        metavar="TIME",
        becomes="search",
        identity=True,
    )
    seed: Annotated[int, msgspec.Meta(ge=-MOST_SEED - 1, le=MOST_SEED)] = option(
        0,
        "Same seed, same operations; 0 chooses one.",
        verbs=(RUN, BISECT, MUTANTS),
        becomes="seed",
        replay=True,
        identity=True,
        instead={BISECT: Override("Same seed, same operations; 0: one that the ends decide.")},
    )
    out: str = option(
        "",
        "Where the results go; default out/<time>.",
        verbs=(RUN, BISECT, REPLAY, MUTANTS),
        path=True,
        instead={
            BISECT: Override("Where state and results go; default out/bisect-<what is asked>."),
            REPLAY: Override("Where the results go."),
        },
    )
    jobs: Annotated[int, msgspec.Meta(ge=1, le=MOST_JOBS)] = option(
        DEFAULT_JOBS, "Compilers at once.", verbs=(RUN, BISECT, SHELL, MUTANTS), least=1
    )
    guests: Annotated[int, msgspec.Meta(ge=0, le=MOST_JOBS)] = option(
        0, "Guests at once; 0: as many as cores and memory allow.", verbs=(RUN, BISECT, MUTANTS), least=0
    )
    toolchain: str = option(
        DEFAULT_TOOLCHAIN,
        "root: a private Debian root; host: your own tools.",
        verbs=(RUN, BISECT, SHELL, REPLAY, DOCTOR, IMPORT, MUTANTS),
        identity=True,
    )
    keep: bool = option(
        False, "Keep the guest of each test that does not pass: kharness shell --kept.", spelled="--keep"
    )
    dump: bool = option(
        False, "Write the memory of guests that crash or hang to OUT/dumps, for crash(8).", spelled="--dump"
    )
    each: bool = option(False, "Test a series up to each of its patches, one after the other.", spelled="--each")
    fail_fast: bool = option(False, "End at the first test that fails.", spelled="--fail-fast")
    coverage: bool = option(
        False, "Count error branches, and the lines of a patch, on a kernel that counts.", replay=True, identity=True
    )


@dataclass(frozen=True)
class BisectOptions:
    """What is asked of a bisection beside its runs.

    `good` and `bad` are revisions of the plan's tree. Instead of them, `patch` are the files of a series on the plan's
    source, or `kconfig` two .config files, one that passes and one that fails.
    """

    good: str = option("", "A revision of --tree that passes.", verbs=(BISECT,), metavar="REV")
    bad: str = option("", "A revision of --tree that fails.", verbs=(BISECT,), metavar="REV")
    find: str = option(
        DEFAULT_FIND,
        "'regression', or 'fixed': bad is the older one, and what fixed it is looked for.",
        verbs=(BISECT,),
    )
    patch: tuple[str, ...] = option(
        (), "Instead of good and bad: a series; one patch of it is looked for.", verbs=(BISECT,)
    )
    kconfig: tuple[str, str] = option(
        ("", ""),
        "Instead of good and bad: two .config files; a symbol is looked for.",
        verbs=(BISECT,),
        metavar="GOOD BAD",
    )
    confidence: float = option(CONFIDENCE, "How sure the answer must be, from 0.5 to below 1.", verbs=(BISECT,))
    signature: str = option(
        "", "The finding to look for, * and ? allowed; default: the first at the failing end.", verbs=(BISECT,)
    )
    follow: str = option(
        "", "What counts as the failure too and is not skipped: build, boot, other; by commas.", verbs=(BISECT,)
    )
    fixup: tuple[str, ...] = option(
        (), "Applied to what does not build without it; repeatable.", verbs=(BISECT,), metavar="PATCH"
    )
    runs: int = option(END_RUNS, "Runs of the failing end: how often does it fail?", verbs=(BISECT,), least=1)
    tries: int = option(END_TRIES, "Runs of the failing end until it fails once.", verbs=(BISECT,), least=1)


@dataclass(frozen=True)
class MutantOptions:
    """What is asked of the broken versions of a patch, beside their runs.

    `budget` is a time as 20m, after which no more are begun; `equivalent` names a file of those that change nothing,
    `edits` one of defects that were written by hand.
    """

    budget: str = option("", "How long, as 20m: a sample is tried. Default: all.", verbs=(MUTANTS,), metavar="TIME")
    equivalent: str = option(
        "", "YAML: ids of mutants that break nothing, each with its reason.", verbs=(MUTANTS,), metavar="FILE"
    )
    edits: str = option(
        "", "YAML: defects written by hand, instead of those of a patch's lines.", verbs=(MUTANTS,), metavar="FILE"
    )


@dataclass(frozen=True)
class ShellOptions:
    """What is done by hand in a guest: `command`, or a shell where there is none.

    `put` and `get` are HOSTFILE:GUESTPATH and GUESTPATH:HOSTFILE; `kept` is the folder of a guest that a run kept.
    """

    command: tuple[str, ...] = ()
    put: tuple[str, ...] = option((), "A file into the guest, first.", verbs=(SHELL,), metavar="HOSTFILE:GUESTPATH")
    get: tuple[str, ...] = option((), "A file out of the guest, last.", verbs=(SHELL,), metavar="GUESTPATH:HOSTFILE")
    force: bool = option(False, "--get may overwrite.", verbs=(SHELL,), spelled="--force")
    gdb: bool = option(False, "Stop at the first instruction, for gdb to attach.", verbs=(SHELL,), spelled="--gdb")
    kept: str = option("", "A guest that 'run --keep' kept, instead of a kernel.", verbs=(SHELL,))
