# SPDX-License-Identifier: GPL-2.0-only
"""Owns the way from what a user wishes, on the command line or in a YAML file, to a Plan that can be carried out."""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml

from harness import plan as defaults
from harness.definition import load
from harness.errors import UsageError
from harness.plan import RIVALS, BpfRequest, Plan, SourceRequest, Visit, Wishes, requests
from harness.records import Role, encode

CHECKOUT = Path(__file__).resolve().parents[1]
VARIANTS = CHECKOUT / "kconfigs" / "variants"
"""Kernels of ours beside the plain one: fragments that --kconfig knows by name."""

STEP = "'kharness run --print-plan' writes a plan with every key"
HINTS = get_type_hints(Wishes, include_extras=True)


# --- wishes -------------------------------------------------------------------------------


def gather(file: str, flags: Mapping[str, object]) -> Wishes:
    """The wishes of a plan file (none: the defaults), overridden by the `flags` that were typed.

    Raises UsageError as :func:`read` does.
    """
    wishes = read(Path(file)) if file else Wishes()
    for group in RIVALS:
        if any(name in flags for name in group):
            wishes = replace(wishes, **{name: _default(name) for name in group})
    return replace(wishes, **{name: msgspec.convert(value, HINTS[name]) for name, value in flags.items()})


def _default(name: str) -> Any:
    return getattr(Wishes(), name)


def rooted(wishes: Wishes, folder: Path) -> Wishes:
    """The wishes with the files they name made absolute, from `folder`; a suite of the checkout stays as it is."""
    changes: dict[str, Any] = {}
    for field in fields(Wishes):
        value = getattr(wishes, field.name)
        if field.metadata.get("path") and value:
            one = isinstance(value, str)
            paths = tuple(_absolute(field.name, text, folder) for text in ([value] if one else value))
            changes[field.name] = paths[0] if one else paths
    return replace(wishes, **changes)


def _absolute(name: str, text: str, folder: Path) -> str:
    if name == "suite" and (text == defaults.SELFTESTS or (CHECKOUT / text).exists()):
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


def read(path: Path) -> Wishes:
    """A plan file; what files it names is relative to its folder.

    Raises UsageError, naming file and key, when it cannot be read, is not YAML or is no plan.
    """
    top = compose(path, "the plan")
    if not isinstance(top, yaml.MappingNode):
        raise UsageError(f"{path}: no plan: lines of the form 'key: value' are wanted", step=STEP)
    found = {
        name: convert(node, HINTS[name], f"{place}: {name}", STEP)
        for name, node, place in entries(top, path, [field.name for field in fields(Wishes)], STEP)
    }
    return rooted(Wishes(**found), path.parent)


def compose(path: Path, what: str) -> yaml.Node | None:
    """The nodes of a YAML file, None if it is empty. Raises UsageError when it cannot be read or is not YAML."""
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}", step="give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}", step="correct it") from error


def entries(
    top: yaml.MappingNode, path: Path, known: Sequence[str], step: str
) -> Iterator[tuple[str, yaml.Node, str]]:
    """The keys of a mapping: name, value, place (``FILE:LINE``).

    Raises UsageError for one that is not `known` or is there twice.
    """
    seen: set[str] = set()
    for key, value in top.value:
        place = f"{path}:{key.start_mark.line + 1}"
        word = str(key.value) if isinstance(key, yaml.ScalarNode) else "(a list or mapping)"
        name = word.replace("-", "_")
        if name not in known:
            raise UsageError(f"{place}: {unknown(word, known)}", step=step)
        if name in seen:
            raise UsageError(f"{place}: {word} is there twice", step="keep one of them")
        seen.add(name)
        yield name, value, place


def keyed(
    node: yaml.Node, path: Path, value: Callable[[yaml.Node, str, str], Any], known: Sequence[str],
    needed: Sequence[str], step: str,
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """One entry of a list: its keys with what `value` makes of node, name and place, and the line where it begins.

    Raises UsageError, naming file and line, for what is no mapping or lacks one of the keys that are `needed`, beside
    what :func:`entries` and `value` raise.
    """
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}:{line}: no entry: lines of the form 'key: value' are wanted", step=step)
    found = {name: value(at, name, where) for name, at, where in entries(node, path, known, step)}
    for name in needed:
        if not found.get(name):
            raise UsageError(f"{path}:{line}: an entry without {name}", step=step)
    return found, line


def unknown(word: str, known: Iterable[str], what: str = "key") -> str:
    """What to say of a key, or another word, that is none, with those of nearly the same name."""
    names = [name.replace("_", "-") for name in known]
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"unknown {what} {word!r}; " + (f"near it: {', '.join(near)}" if near else f"one of: {', '.join(names)}")


def convert(node: yaml.Node, hint: Any, where: str, step: str) -> Any:
    """A scalar or a list of them as the type `hint`. Raises UsageError naming `where` for anything else."""
    text = hint in (str, tuple[str, ...])
    if isinstance(node, yaml.SequenceNode):
        plain: object = [_scalar(child, text) for child in node.value]
    else:
        plain = _scalar(node, text)
    try:
        return msgspec.convert(plain, hint)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {str(error).replace('`', '')}", step=step) from error


def convert_some(node: yaml.Node, hint: Any, where: str, step: str) -> Any:
    """As :func:`convert`; where a list of texts is wanted, one of them needs no brackets."""
    if hint == tuple[str, ...] and isinstance(node, yaml.ScalarNode):
        return (convert(node, str, where, step),)
    return convert(node, hint, where, step)


def _scalar(node: yaml.Node, text: bool) -> object:
    """A value; where text is wanted it stays as it is written: YAML takes 7.10 for 7.1 and on for true."""
    kind = node.tag.rpartition(":")[2]
    if not isinstance(node, yaml.ScalarNode):
        return [] if isinstance(node, yaml.SequenceNode) else {}
    if kind == "null":
        return None
    if text or kind not in ("int", "bool"):
        return str(node.value)
    return yaml.constructor.SafeConstructor().construct_object(node)


def render(wishes: Wishes) -> str:
    """A plan file that asks for the same from wherever it lies: every key, names of files absolute."""
    asked = rooted(wishes, Path.cwd())
    asked = replace(asked, arch=",".join(arches(asked.arch)))
    if not asked.tree:
        asked = replace(asked, kernel=asked.kernel or defaults.DEFAULT_SERIES)
    keys = {name.replace("_", "-"): value for name, value in encode(asked).items()}
    return yaml.safe_dump(keys, sort_keys=False)  # escaped: YAML takes U+0085 for a line end


# --- plan ---------------------------------------------------------------------------------


def request(wishes: Wishes, argv: tuple[str, ...]) -> Plan:
    """The plan, checked as far as it can be before anything is done. Raises UsageError for what cannot be had."""
    fragments = tuple(fragment(text) for text in wishes.kconfig)
    for path in wishes.patch:
        if not Path(path).expanduser().exists():
            raise UsageError(f"{path}: no such patch", step="check --patch")
    patches = [str(Path(path).expanduser().resolve()) for path in wishes.patch]
    source = sources(wishes.tree, wishes.kernel)
    names = arches(wishes.arch)
    machines = tuple(dict.fromkeys(filter(None, wishes.machine.split(","))))
    for name in names:
        for machine in machines:
            load(name).spec(machine)
    return Plan(
        kernels=requests(source, names, patches, wishes.base, wishes.head),
        seed=wishes.seed or secrets.randbelow(1 << 31) + 1, out=wishes.out, machines=machines,
        suite=suite_of(wishes.suite), select=wishes.select, full=wishes.full, cmdline=wishes.cmdline,
        kconfig=fragments, bpf=programs(wishes.bpf),
        toolchain=wishes.toolchain, jobs=wishes.jobs, guests=wishes.guests, keep=wishes.keep,
        dump=wishes.dump, coverage=wishes.coverage, argv=argv, search=budget(wishes.search),
    )  # fmt: skip


def visit(wishes: Wishes, wish: Visit) -> Plan:
    """The plan of one guest for a visit: one kernel, on one machine. Raises UsageError for more than one of each."""
    if wish.kept and (wishes.tree or wishes.kernel or wishes.patch or wishes.cmdline or wishes.kconfig or wish.gdb):
        raise UsageError(
            "--kept names a whole guest", step="leave out --tree, --kernel, --patch, --cmdline, --kconfig and --gdb"
        )
    asked = request(wishes, ())
    kernels = tuple(kernel for kernel in asked.kernels if kernel.role is not Role.BASE)
    for flag, value, number in (("arch", wishes.arch, len(kernels)), ("machine", wishes.machine, len(asked.machines))):
        if number != 1:
            raise UsageError(f"--{flag} {value}: a shell is in one guest", step=f"name one --{flag}")
    return replace(asked, kernels=kernels)


def programs(paths: tuple[str, ...]) -> tuple[BpfRequest, ...]:
    """What --bpf names. Raises UsageError for a file that is not there, and for names that tests cannot bear."""
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


def budget(text: str) -> float:
    """The seconds of --search: a number, or one with s, m or h. Raises UsageError for what is no time."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if text and not seconds:
        raise UsageError(f"--search {text}: no time", step="give seconds, minutes or hours, as 60s, 10m or 2h")
    return seconds or defaults.SEARCH_SECONDS


def suite_of(text: str) -> str:
    """What --suite names: a path from here, made absolute so that a replay finds it, or one of the checkout's.

    One word is no path: the selftests of the tree under test.
    """
    if text == defaults.SELFTESTS:
        return defaults.SELFTESTS_SUITE
    if (CHECKOUT / text).exists():
        return text
    if not Path(text).exists():
        raise UsageError(f"{text}: no such suite", step="give a file or folder with tests")
    return str(Path(text).resolve())
