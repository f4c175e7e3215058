# SPDX-License-Identifier: GPL-2.0-only
"""Reports that the tree's selftests cause on purpose: declared in ``expected.yaml`` in this folder."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.core.errors import UsageError
from harness.core.given import compose, convert, keyed

FILE = "expected.yaml"
NEEDED = ("test", "log", "reason")
KEYS = (*NEEDED, "accelerator")
STEP = f"an entry has the keys {', '.join(KEYS)}; all but accelerator are needed"


@dataclass(frozen=True)
class ExpectedFailure:
    """One report that the selftest `test` (name or pattern) causes: `log` is a regular expression on its title.

    With `accelerator` it does so under that one only: not on purpose, but because the machine is slow, and then its
    runner's result is not valid either.
    """

    test: str
    log: str
    reason: str
    accelerator: str = ""


def read(path: Path) -> tuple[ExpectedFailure, ...]:
    """The entries of a file. Raises UsageError, naming file and line, when it cannot be read or is none."""
    top = compose(path, "the expected reports of selftests")
    if not isinstance(top, yaml.SequenceNode):
        raise UsageError(f"{path}: a list of entries ('- test: ...') is wanted", step=STEP)
    return tuple(_entry(node, path) for node in top.value)


def _entry(node: yaml.Node, path: Path) -> ExpectedFailure:
    found, line = keyed(node, path, _value, KEYS, NEEDED, STEP)
    try:
        re.compile(found["log"])
    except re.error as error:
        raise UsageError(f"{path}:{line}: log: no regular expression: {error}", step="correct it") from error
    return ExpectedFailure(**found)


def _value(node: yaml.Node, name: str, where: str) -> str:
    return str(convert(node, str, f"{where}: {name}", STEP))


def of(test: str, declared: Iterable[ExpectedFailure], accelerator: str) -> tuple[ExpectedFailure, ...]:
    """The reports that one selftest may cause on a machine of this accelerator."""
    return tuple(
        entry for entry in declared if fnmatch.fnmatchcase(test, entry.test) and entry.accelerator in ("", accelerator)
    )
