# SPDX-License-Identifier: GPL-2.0-only
"""Defects that somebody wrote by hand, each an edit of one function, as mutants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import UsageError
from harness.core.given import convert, keyed, listed
from harness.coverage.csource import Source
from harness.host.below import text_of
from harness.mutants.operators import Edit, Mutant, mutant

OPERATOR = "by-hand"

_KEYS = {"name": str, "file": str, "function": str, "old": str, "new": str, "blamed": tuple[str, ...]}
_NEEDED = ("name", "file", "function", "old")
_STEP = "an entry has name, file, function, old, new, and blamed if other functions may be named"


def read(path: str, tree: Path) -> list[Mutant]:
    """The defects of a YAML file: in `function` of `file` the one `old` becomes `new`, which may be empty.

    Raises UsageError, naming file and line, for a file of another form or without any, and where the tree has no such
    function or text, or several.
    """
    file = Path(path).expanduser()
    nodes = listed(file, "the list of defects", "- name: ...", _STEP)
    if not nodes:
        raise UsageError(f"{file}: there is no defect in it", step=_STEP)
    return [_made(node, file, tree) for node in nodes]


def _made(node: yaml.Node, path: Path, tree: Path) -> Mutant:
    entry, number = keyed(node, path, _value, list(_KEYS), _NEEDED, _STEP)
    if "new" not in entry:
        raise UsageError(f"{path}:{number}: an entry without new", step="write new: '' where 'old' is left out")
    name, file, old, new = (str(entry[key]) for key in ("name", "file", "old", "new"))
    text = text_of(tree, file)
    source, place = Source(text), f"{path}:{number}: {name}"
    function = source.functions.get(entry["function"])
    if function is None:
        raise UsageError(f"{place}: {file} defines no {entry['function']}()", step="check its file and function")
    places = (
        [found.start() for found in re.finditer(re.escape(old), text[function.start : function.end])] if old else []
    )
    if len(places) != 1:
        raise UsageError(f"{place}: {function.name}() holds its 'old' {len(places)} times", step="make it hold it once")
    start = function.start + places[0]
    first = start + len(old) - len(old.lstrip())
    edit = Edit(start, start + len(old), new, name)
    return mutant(file, source, function, OPERATOR, edit, source.line(first), {}, tuple(entry.get("blamed") or ()))


def _value(node: yaml.Node, name: str, where: str) -> Any:
    return convert(node, _KEYS[name], f"{where}: {name}", _STEP)
