# SPDX-License-Identifier: GPL-2.0-only
"""Owns what the tree's selftests provoke on purpose: declared in ``provoked.yaml`` beside what runs them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.planfile import compose, convert, entries
from harness.records import UsageError

FILE = "provoked.yaml"
KEYS = ("test", "log", "reason")
STEP = f"an entry has the keys {', '.join(KEYS)}, all of them"


@dataclass(frozen=True)
class Provoked:
    """One report that the selftest `test` brings about: `log` is a regular expression over its title."""

    test: str
    log: str
    reason: str


def read(path: Path) -> tuple[Provoked, ...]:
    """The entries of a file. Raises UsageError, naming file and line, when it cannot be read or is none."""
    top = compose(path, "what selftests provoke")
    if not isinstance(top, yaml.SequenceNode):
        raise UsageError(f"{path}: a list of entries ('- test: ...') is wanted", step=STEP)
    return tuple(_entry(node, path) for node in top.value)


def _entry(node: yaml.Node, path: Path) -> Provoked:
    place = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{place}: no entry: lines of the form 'key: value' are wanted", step=STEP)
    said = entries(node, path, KEYS, STEP)
    found = {name: convert(value, str, f"{where}: {name}", STEP) for name, value, where in said}
    lacking = [name for name in KEYS if not found.get(name)]
    if lacking:
        raise UsageError(f"{place}: an entry without {lacking[0]}", step=STEP)
    try:
        re.compile(found["log"])
    except re.error as error:
        raise UsageError(f"{place}: log: no regular expression: {error}", step="correct it") from error
    return Provoked(**found)


def of(test: str, declared: Iterable[Provoked]) -> tuple[str, ...]:
    """The regular expressions of what one selftest provokes."""
    return tuple(entry.log for entry in declared if entry.test == test)
