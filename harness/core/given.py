# SPDX-License-Identifier: GPL-2.0-only
"""Reading files that users are given and hand on, YAML and JSON: of a bounded size, and every oddity is one line.

A plan, an allow-list, a replay file may be a stranger's: nothing of it is executed, and no depth of nesting, number
of digits or kind of file makes the reader fail in another way than with a UsageError.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from harness.core.errors import UsageError

YAML_BYTES = 1 << 18
"""What people write by hand has fewer; PyYAML takes seconds for as much."""

JSON_BYTES = 1 << 26
"""What a run writes has fewer."""

DIGITS = 20
"""The range of the 64-bit numbers that the records have."""


def content(path: Path, what: str, limit: int, step: str) -> bytes:
    """The bytes of a file, at most `limit`: also of one that has no end. Raises UsageError naming `what` it is."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {what} {path}: {why}", step=step) from error
    if len(data) > limit:
        raise UsageError(f"{path}: {what} has at most {limit >> 10} KiB", step=step)
    return data


def compose(path: Path, what: str) -> yaml.Node | None:
    """The nodes of a YAML file, None if it is empty. Raises UsageError when it cannot be read or is not YAML."""
    data = content(path, what, YAML_BYTES, "give a YAML file")
    try:
        return yaml.compose(data.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: an escape beyond Unicode
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}", step="correct it") from error
    except RecursionError as error:
        raise UsageError(f"{path}: not YAML: nested too deep", step="correct it") from error


def value(path: Path, what: str, step: str) -> Any:
    """The plain value of a JSON file.

    Raises UsageError when it cannot be read, is not JSON, is nested too deep, or has a number of more than 64 bits, one
    that is none (NaN), or text that is no Unicode.
    """
    data = content(path, what, JSON_BYTES, step)
    try:
        found = json.loads(data, parse_int=_integer, parse_float=_real, parse_constant=_real)
        json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogateescape")  # a name of a file may hold any bytes
    except ValueError as error:
        raise UsageError(f"{path} is not JSON that this reads: {error}", step=step) from error
    except RecursionError as error:
        raise UsageError(f"{path} is not JSON that this reads: nested too deep", step=step) from error
    return found


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:DIGITS]} is no number")
    return number


# --- YAML, key by key ---------------------------------------------------------------------


def listed(path: Path, what: str, form: str, step: str) -> list[yaml.Node]:
    """The entries of a YAML file that is a list of them, each of this `form`; none of an empty file.

    Raises UsageError for another kind of file, beside what :func:`compose` raises.
    """
    top = compose(path, what)
    if top is not None and not isinstance(top, yaml.SequenceNode):
        raise UsageError(f"{path}: a list of entries ('{form}') is wanted", step=step)
    return list(top.value) if top is not None else []


def entries(top: yaml.MappingNode, path: Path, known: Sequence[str], step: str) -> Iterator[tuple[str, yaml.Node, str]]:
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
    node: yaml.Node,
    path: Path,
    value: Callable[[yaml.Node, str, str], Any],
    known: Sequence[str],
    needed: Sequence[str],
    step: str,
) -> tuple[dict[str, Any], int]:
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
    """A message for an unknown key or other word, with the known ones of nearly the same name."""
    names = [name.replace("_", "-") for name in known]
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"unknown {what} {word!r}; " + (f"near it: {', '.join(near)}" if near else f"one of: {', '.join(names)}")


def convert(node: yaml.Node, hint: Any, where: str, step: str) -> Any:
    """A scalar or a list of them as the type `hint`. Raises UsageError naming `where` for anything else."""
    text = hint in (str, tuple[str, ...])
    try:
        if isinstance(node, yaml.SequenceNode):
            plain: object = [_scalar(child, text) for child in node.value]
        else:
            plain = _scalar(node, text)
        return msgspec.convert(plain, hint)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {str(error).replace('`', '')}", step=step) from error
    except (ValueError, LookupError, OverflowError) as error:  # !!int x, !!bool x, 5000 digits, half a surrogate pair
        raise UsageError(f"{where}: no value that can be had: {error}", step=step) from error


def convert_some(node: yaml.Node, hint: Any, where: str, step: str) -> Any:
    """As :func:`convert`; where a list of texts is wanted, a single one needs no brackets."""
    if hint == tuple[str, ...] and isinstance(node, yaml.ScalarNode):
        return (convert(node, str, where, step),)
    return convert(node, hint, where, step)


def _scalar(node: yaml.Node, text: bool) -> object:
    """A value; text stays as it is written: YAML takes 7.10 for 7.1 and on for true."""
    kind = node.tag.rpartition(":")[2]
    if not isinstance(node, yaml.ScalarNode):
        return [] if isinstance(node, yaml.SequenceNode) else {}
    if kind == "null":
        return None
    if text or kind not in ("int", "bool"):
        if "\0" in node.value:
            raise ValueError("a NUL")
        node.value.encode()
        return str(node.value)
    return yaml.constructor.SafeConstructor().construct_object(node)
