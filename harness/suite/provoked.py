# SPDX-License-Identifier: GPL-2.0-only
"""Owns what the tree's selftests provoke on purpose: declared in ``provoked.yaml`` beside what runs them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.errors import UsageError
from harness.planfile import compose, convert, keyed

FILE = "provoked.yaml"
NEEDED = ("test", "log", "reason")
KEYS = (*NEEDED, "accelerator")
STEP = f"an entry has the keys {', '.join(KEYS)}; all but accelerator are needed"


@dataclass(frozen=True)
class Provoked:
    """One report that the selftest `test` (name or pattern) brings about: `log` is a regular expression on its title.

    With `accelerator` it does so under that one only: not on purpose, but because the machine is slow, and what its
    runner says then is worth nothing either.
    """

    test: str
    log: str
    reason: str
    accelerator: str = ""


def read(path: Path) -> tuple[Provoked, ...]:
    """The entries of a file. Raises UsageError, naming file and line, when it cannot be read or is none."""
    top = compose(path, "what selftests provoke")
    if not isinstance(top, yaml.SequenceNode):
        raise UsageError(f"{path}: a list of entries ('- test: ...') is wanted", step=STEP)
    return tuple(_entry(node, path) for node in top.value)


def _entry(node: yaml.Node, path: Path) -> Provoked:
    found, line = keyed(node, path, _value, KEYS, NEEDED, STEP)
    try:
        re.compile(found["log"])
    except re.error as error:
        raise UsageError(f"{path}:{line}: log: no regular expression: {error}", step="correct it") from error
    return Provoked(**found)


def _value(node: yaml.Node, name: str, where: str) -> str:
    return str(convert(node, str, f"{where}: {name}", STEP))


def of(test: str, declared: Iterable[Provoked], accelerator: str) -> tuple[Provoked, ...]:
    """What one selftest may provoke on a machine of this accelerator."""
    return tuple(
        entry
        for entry in declared
        if fnmatch.fnmatchcase(test, entry.test) and entry.accelerator in ("", accelerator)
    )
