# SPDX-License-Identifier: GPL-2.0-only
"""The few lines of source that a finding is shown with, read from the very source that was built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.records import Finding, Line
from harness.host import below
from harness.verdict import Results, TestRow

AROUND = 2
"""Lines before and after the one that is blamed."""

LONGEST = 160
"""Letters of a line that are kept."""

_NAME = re.compile(r"[\w./+-]{1,200}", re.ASCII)


def excerpts(results: Results, trees: Mapping[str, Path]) -> Results:
    """Add to each finding that was not expected the source around its line.

    `trees` are the sources by a kernel's id; a finding whose tree, file or line is missing stays as it is. Raises
    HarnessError for a file that exists and cannot be read.
    """
    known: dict[tuple[Path, str, int], tuple[Line, ...]] = {}

    def excerpted(test: TestRow, finding: Finding) -> Finding:
        tree = trees.get(test.kernel)
        if tree is None or finding.expected or not finding.file or not finding.line:
            return finding
        key = (tree, finding.file, finding.line)
        if key not in known:
            known[key] = read(*key)
        return replace(finding, excerpt=known[key])

    tests = (replace(test, findings=tuple(excerpted(test, one) for one in test.findings)) for test in results.tests)
    return replace(results, tests=tuple(tests))


def read(tree: Path, file: str, line: int) -> tuple[Line, ...]:
    """The lines around `line`, counted from 1, tabs as 8 blanks; none if `tree` has no such file or line.

    The name comes from a guest's console and may be anything: nothing outside the tree is read, neither by its name
    nor by a link. Raises HarnessError for a file that exists and cannot be read.
    """
    if not _NAME.fullmatch(file):
        return ()
    try:
        if not below.is_file(tree, file, links=True):
            return ()
        lines = below.read_text(tree, file, links=True).splitlines()
    except below.Unsafe:
        return ()
    except OSError as error:
        raise HarnessError(f"cannot read {tree / file}: {error.strerror}", step="check that disk") from error
    if not 0 < line <= len(lines):
        return ()
    first, last = max(1, line - AROUND), min(len(lines), line + AROUND)
    shown = [Line(number, lines[number - 1].expandtabs(8).rstrip()[:LONGEST]) for number in range(first, last + 1)]
    return tuple(shown)
