# SPDX-License-Identifier: GPL-2.0-only
"""From the options of a user, on the command line or in a YAML file, to a Plan that can be carried out."""

from __future__ import annotations

import difflib
import os
import re
import secrets
import shlex
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from harness.core import given
from harness.core.checkout import CHECKOUT
from harness.core.definition import load
from harness.core.errors import UsageError
from harness.core.options import DEFAULT_ARCHES, DEFAULT_SERIES, SEARCH_SECONDS, Options, ShellOptions, options_of
from harness.core.plan import BpfRequest, Plan, SourceRequest, requests
from harness.core.records import Role, encode
from harness.source import series
from harness.suite import loader

VARIANTS = CHECKOUT / "kconfigs" / "variants"
"""Our kernel variants: fragments that --kconfig knows by name."""

BESIDE = ("conftest.py", "__init__.py", "suite.py", "allow.yaml", "optional.yaml")
"""Files of the folders above a suite that are run, or read, with it."""

STEP = "'kharness run --print-plan' writes a plan with every key"
HINTS = get_type_hints(Options, include_extras=True)
OPTIONS = {name: meta for name, (_, meta) in options_of(Options).items()}


# --- options ------------------------------------------------------------------------------


def gather(file: str, flags: Mapping[str, object]) -> Options:
    """The options of a plan file (none: the defaults), overridden by the `flags` of the command line.

    Raises UsageError as :func:`read` does, and for options that a file must not set.
    """
    options = read(Path(file)) if file else Options()
    if "suite" not in flags:
        must_be_typed(options.suite, file)
    if "toolchain" not in flags and options.toolchain == "host":
        raise UsageError(
            f"{file}: toolchain: with 'host' all that is readable on this host is shown to what is built",
            step="add --toolchain host if that may be",
        )
    rivals = {OPTIONS[name].rival for name in flags} - {""}
    options = replace(options, **{name: getattr(Options(), name) for name in rivals})
    return with_flags(options, flags)


def with_flags(options: Options, flags: Mapping[str, object]) -> Options:
    """The options with the flags of the command line. Raises UsageError for a value out of its range."""
    return replace(options, **{name: _typed(name, value) for name, value in flags.items()})


def _typed(name: str, value: object) -> Any:
    try:
        return msgspec.convert(value, HINTS[name])
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        raise UsageError(f"--{name.replace('_', '-')}: {said}", step="see kharness --help") from error


def must_be_typed(suite: str, file: str) -> None:
    """Raise UsageError for a suite outside the checkout's tests that a file names: it is code, which pytest runs here.

    Only the user may choose that, with --suite; a file (a plan, a replay) may come from a stranger.
    """
    if not loader.foreign(suite):
        return
    raise UsageError(
        f"{file}: suite: {suite} is code outside the checkout, which would run on this machine",
        step=f"read it, then add --suite {shlex.quote(suite)}",
    )


def rooted(options: Options, folder: Path) -> Options:
    """The options with the files they name made absolute, from `folder`; a suite of the checkout stays as it is."""
    changes: dict[str, Any] = {}
    for name, meta in OPTIONS.items():
        value = getattr(options, name)
        if meta.path and value:
            one = isinstance(value, str)
            paths = tuple(_absolute(name, text, folder) for text in ([value] if one else value))
            changes[name] = paths[0] if one else paths
    return replace(options, **changes)


def _absolute(name: str, text: str, folder: Path) -> str:
    if name == "suite" and (text in loader.known() or (CHECKOUT / text).exists()):
        return text
    if name == "patch" and series.no_file(text):
        return text
    if name == "kconfig" and not (folder / text).exists() and text in variants():
        return text
    return os.path.normpath(folder.absolute() / Path(text).expanduser())


def variants() -> dict[str, Path]:
    """Our own fragments that --kconfig knows by name."""
    return {path.stem: path for path in sorted(VARIANTS.glob("*.config"))}


def fragment(text: str) -> str:
    """The path of a Kconfig fragment: a file's, or one of :func:`variants`. Raises UsageError where it is neither."""
    path = Path(text).expanduser()
    if path.is_file():
        return str(path.resolve())
    known = variants()
    if text in known:
        return str(known[text])
    near = difflib.get_close_matches(text, known, n=1) or known
    raise UsageError(f"{text}: no such Kconfig fragment", step=f"check --kconfig: a file, or {', '.join(near)}")


# --- files --------------------------------------------------------------------------------


def read(path: Path) -> Options:
    """A plan file; paths in it are relative to its folder.

    Raises UsageError, naming file and key, when it cannot be read, is not YAML or is no plan.
    """
    top = given.compose(path, "the plan")
    if not isinstance(top, yaml.MappingNode):
        raise UsageError(f"{path}: no plan: lines of the form 'key: value' are wanted", step=STEP)
    found = {
        name: given.convert(node, HINTS[name], f"{place}: {name}", STEP)
        for name, node, place in given.entries(top, path, list(OPTIONS), STEP)
    }
    return rooted(Options(**found), path.parent)


def render(options: Options) -> str:
    """A plan file with the same meaning in any folder: every key, with absolute paths."""
    asked = rooted(options, Path.cwd())
    asked = replace(asked, arch=",".join(arches(asked.arch)), suite=asked.suite or loader.default())
    if not asked.tree:
        asked = replace(asked, kernel=asked.kernel or DEFAULT_SERIES)
    keys = {name.replace("_", "-"): value for name, value in encode(asked).items()}
    return yaml.safe_dump(keys, sort_keys=False)  # escaped: YAML takes U+0085 for a line end


# --- plan ---------------------------------------------------------------------------------


def request(options: Options, argv: tuple[str, ...]) -> Plan:
    """The plan, checked as far as possible before anything is done. Raises UsageError for an impossible request."""
    fragments = tuple(fragment(text) for text in options.kconfig)
    patches = [_patch(text) for text in options.patch]
    source = sources(options.tree, options.kernel)
    names = arches(options.arch)
    machines = tuple(dict.fromkeys(filter(None, options.machine.split(","))))
    for name in names:
        for machine in machines:
            load(name).spec(machine)
    return Plan(
        kernels=requests(source, names, patches, options.base, options.head),
        seed=options.seed or secrets.randbelow(1 << 31) + 1,
        options=options,
        machines=machines,
        suite=suite_of(options.suite),
        kconfig=fragments,
        bpf=programs(options.bpf),
        argv=argv,
        search=budget(options.search),
    )


def _patch(text: str) -> str:
    """What --patch names, a file absolute. Raises UsageError for one that is not there."""
    if series.no_file(text):
        return text
    path = Path(text).expanduser()
    if not path.exists():
        raise UsageError(f"{text}: no such patch", step="check --patch: a file, a folder, - or a message-id")
    return str(path.resolve())


def visit(options: Options, shell: ShellOptions) -> Plan:
    """The plan of one guest for a shell: one kernel, on one machine. Raises UsageError for more than one of each."""
    named = (options.tree, options.kernel, options.patch, options.cmdline, options.kconfig, shell.gdb)
    if shell.kept and any(named):
        raise UsageError(
            "--kept names a whole guest", step="leave out --tree, --kernel, --patch, --cmdline, --kconfig and --gdb"
        )
    asked = request(options, ())
    kernels = tuple(kernel for kernel in asked.kernels if kernel.role is not Role.BASE)
    counted = (("arch", options.arch, len(kernels)), ("machine", options.machine, len(asked.machines)))
    for flag, value, number in counted:
        if number != 1:
            raise UsageError(f"--{flag} {value}: a shell is in one guest", step=f"name one --{flag}")
    return replace(asked, kernels=kernels)


def programs(paths: tuple[str, ...]) -> tuple[BpfRequest, ...]:
    """The programs of --bpf. Raises UsageError for a missing file, and for names that tests cannot have."""
    files = [Path(path).expanduser().resolve() for path in paths]
    for path, file in zip(paths, files, strict=True):
        if not file.is_file():
            raise UsageError(f"{path}: no such BPF program", step="check --bpf")
        if not re.fullmatch(r"[\w.+-]+\.bpf\.c", file.name):
            raise UsageError(f"{path}: no name for a BPF program", step="letters, digits and _.+- before .bpf.c")
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two files of --bpf are called {twice}", step="rename one: tests go by the name")
    return tuple(BpfRequest(str(file)) for file in files)


def sources(tree: str, version: str) -> SourceRequest:
    """The source of --tree or --kernel. Raises UsageError for both at once or a missing folder."""
    if tree and version:
        raise UsageError("--tree and --kernel exclude each other", step="give one of them")
    if tree:
        folder = Path(tree).expanduser()
        if not folder.is_dir():
            raise UsageError(f"{tree}: no such folder", step="point --tree at the top folder of a Linux source tree")
        return SourceRequest(tree=str(folder.resolve()))
    return SourceRequest(version=version or DEFAULT_SERIES)


def arches(text: str) -> tuple[str, ...]:
    """The architectures of --arch. Raises UsageError for one that has no definition."""
    names = tuple(dict.fromkeys(part for part in text.split(",") if part)) or DEFAULT_ARCHES
    for name in names:
        load(name)
    return names


def budget(text: str, flag: str = "--search") -> float:
    """The seconds of a flag: a number, or one with s, m or h. Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if text and not seconds:
        raise UsageError(f"{flag} {text}: no time", step="give seconds, minutes or hours, as 60s, 10m or 2h")
    return seconds or SEARCH_SECONDS


def suite_of(text: str) -> str:
    """The path of --suite: a path from here, made absolute so that a replay finds it, or one of the checkout's.

    A single word may be the name of a suite of the checkout; empty is the default suite. Raises UsageError for a
    missing one, and as :func:`harness.suite.loader.of` for a wrong one.
    """
    found = _suite_path(text)
    loader.of(found)
    return found


def _suite_path(text: str) -> str:
    if not text:
        return loader.default()
    if text in loader.known():
        return str(loader.known()[text].relative_to(CHECKOUT))
    ours = CHECKOUT / text
    if ours.exists() and ours.resolve().is_relative_to(CHECKOUT):
        return text
    if not Path(text).exists():
        names = ", ".join(loader.known())
        raise UsageError(f"{text}: no such suite", step=f"give a file or folder with tests, or one of: {names}")
    suite = Path(text).resolve()
    _nothing_of_others_above(suite)
    return str(suite)


def _nothing_of_others_above(suite: Path) -> None:
    """Raise UsageError for a file that would be run or read with a suite from a folder above that others may write to.

    An example is /tmp/conftest.py, which pytest runs for tests in /tmp/mine.
    """
    owners = {0, os.getuid(), suite.stat().st_uid}
    for folder in suite.parents:
        state = folder.stat()
        if state.st_uid in owners and not state.st_mode & stat.S_IWOTH:
            continue
        for name in BESIDE:
            if os.path.lexists(folder / name):
                raise UsageError(
                    f"{folder / name} would be taken for a part of the suite {suite}, and others may write there",
                    step="move the suite to a folder of your own",
                )
