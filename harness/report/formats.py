# SPDX-License-Identifier: GPL-2.0-only
"""The formats in which `kharness report` writes the results of a run to stdout: one function and one entry a format.

The summary that a run ends with (text) is none of them: it is shown, and report.html is written with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TypeVar

from harness.core.errors import UsageError
from harness.report import kcidb, mail, results
from harness.verdict import Results

FORMATS: Mapping[str, Callable[[Results], str]] = {"mail": mail.mail, "json": results.render, "kcidb": kcidb.kcidb}

Format = TypeVar("Format")


def of(name: str, formats: Mapping[str, Format], what: str) -> Format:
    """The format of this name. Raises UsageError where `what` has none of this name."""
    if name in formats:
        return formats[name]
    near = difflib.get_close_matches(name, formats, n=1)
    meant = f"do you mean {near[0]}?" if near else f"choose one of {', '.join(('text', *formats))}"
    raise UsageError(f"--format {name}: no format of {what}", step=meant)
