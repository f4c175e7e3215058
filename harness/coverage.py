# SPDX-License-Identifier: GPL-2.0-only
"""Owns the coverage of a run: the counters of its tests, through gcov and over the source, to one event a kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath

from harness.build import gcov
from harness.build.buildlog import BUILD, SRC
from harness.errors import HarnessError, KharnessError
from harness.host.toolchain import Toolchain
from harness.journal import Journal
from harness.oracles import coverage
from harness.oracles.coverage import Counts, Coverage
from harness.oracles.csource import Source
from harness.plan import PROFILE
from harness.records import EventKind, Kernel, encode
from harness.suite.coverage import FOLDER

FILE = "coverage.json"
MERGED = "merged"


def measure(kernel: Kernel, tree: Path, toolchain: Toolchain, journal: Journal) -> None:
    """Journals what the tests took on a kernel, whose source is `tree`, and writes OUT/coverage/KERNEL/coverage.json.

    Nothing is raised where it cannot be told: the event says why, and the verdict what that means.
    """
    folder = journal.path.parent / FOLDER / kernel.id
    counters = sorted(folder.glob("*.gcda"))
    if not counters:
        found = Coverage(kernel.id, kernel.arch, why="no test gave counters")
    else:
        try:
            found = _measured(kernel, tree, toolchain, folder, counters)
        except KharnessError as error:
            found = Coverage(kernel.id, kernel.arch, len(counters), why=error.line())
    journal.emit(EventKind.COVERAGE, found, kernel=kernel.id)


def _measured(kernel: Kernel, tree: Path, toolchain: Toolchain, folder: Path, counters: list[Path]) -> Coverage:
    counted = coverage.counts(gcov.measure(kernel, counters, folder / MERGED, toolchain), (SRC, BUILD))
    texts = sources(tree, counted)
    calls = coverage.calls(PROFILE.fallible, texts, counted)
    if not calls and coverage.answering(PROFILE.fallible, texts):
        raise HarnessError(
            f"no caller of {' or '.join(PROFILE.fallible)} is in {', '.join(texts) or PROFILE.object}",
            step="see PROFILE in harness/plan.py",
        )
    found = Coverage(
        kernel.id, kernel.arch, len(counters),
        coverage.functions(PROFILE.functions, texts, counted), calls,
    )  # fmt: skip
    lines = {file: {str(number): times for number, times in sorted(counted[file].lines.items())} for file in texts}
    (folder / FILE).write_text(json.dumps({**encode(found), "lines": lines}, indent=1) + "\n")
    return found


def sources(tree: Path, counted: Mapping[str, Counts]) -> dict[str, Source]:
    """The files of the profiled object, headers left out, that name anything that is to be told of."""
    here = PurePath(PROFILE.object).parent
    wanted = re.compile(rf"\b(?:{'|'.join((*PROFILE.functions, *PROFILE.fallible))})\b")
    found = {}
    for file in sorted(counted):
        if PurePath(file).is_relative_to(here) and file.endswith(".c") and (tree / file).is_file():
            text = (tree / file).read_text(errors="replace")
            if wanted.search(text):
                found[file] = Source(text)
    return found
