# SPDX-License-Identifier: GPL-2.0-only
"""The coverage of a run: the counters of its tests, through gcov and over the source, to one event a kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from harness.core.errors import HarnessError, KharnessError
from harness.core.event_log import EventLog
from harness.core.plan import CodeUnderTest
from harness.core.records import EventKind, Kernel, encode
from harness.coverage import branches, gcov, lines
from harness.coverage.branches import Counts
from harness.coverage.claims import Claims
from harness.coverage.counters import FOLDER, object_folder
from harness.coverage.coverage import Coverage
from harness.coverage.csource import Source
from harness.host import below
from harness.host.scratch import private_folder
from harness.host.toolchain import Toolchain
from harness.kbuild.buildlog import BUILD, SRC

FILE = "coverage.json"
MERGED = "merged"
PATCH = "patch.txt"
"""The patch, with what ran of it in its margin."""


@dataclass(frozen=True)
class Measured:
    """What is measured: a kernel, whose source is `tree`, the suite's `code`, and the lines that the patch `added`."""

    kernel: Kernel
    code: CodeUnderTest
    tree: Path
    added: Mapping[str, Sequence[int]]


def measure(what: Measured, toolchain: Toolchain, log: EventLog) -> None:
    """Write what the tests covered of the code under test, and of the patch, to the event log and to
    OUT/coverage/KERNEL/coverage.json.

    Where that cannot be measured nothing is raised: the event says why, and the verdict what that means.
    """
    kernel = what.kernel
    folder = log.path.parent / FOLDER / kernel.id
    objects = {name: sorted((folder / object_folder(name)).glob("*.gcda")) for name in kernel.profiles}
    counters = {name: files for name, files in objects.items() if files}
    if what.code.object not in counters:
        found = Coverage(kernel.id, kernel.arch, why="no test gave counters")
    else:
        try:
            found = _measured(what, toolchain, folder, counters)
        except KharnessError as error:
            found = Coverage(kernel.id, kernel.arch, len(counters[what.code.object]), why=error.line())
    log.emit(EventKind.COVERAGE, found, kernel=kernel.id)


def _measured(what: Measured, toolchain: Toolchain, folder: Path, counters: Mapping[str, Sequence[Path]]) -> Coverage:
    kernel, code, roots = what.kernel, what.code, (SRC, BUILD)
    sums = {
        name: branches.counts(gcov.measure(kernel, name, files, folder / MERGED, toolchain), roots)
        for name, files in counters.items()
    }
    counted = sums[code.object]
    texts = sources(code, what.tree, counted)
    calls = branches.calls(code.fallible, texts, counted)
    if not calls and branches.answering(code.fallible, texts):
        raise HarnessError(
            f"no caller of {' or '.join(code.fallible)} is in {', '.join(texts) or code.object}",
            step="see `code` in the suite's suite.py",
        )
    every = branches.summed(sums.values())
    ran, claims = lines.Ran(what.added), Claims(what.tree, what.added, every)
    if what.added:
        for name, files in counters.items():
            with private_folder() as scratch:
                for path, gcov_of_test in gcov.each(kernel, name, files, scratch, toolchain):
                    test = (folder / path.with_suffix(".id").name).read_text()
                    mine = branches.counts(gcov_of_test, roots)
                    ran.count(test, mine)
                    claims.count(test, mine)
    patch = lines.of_patch(lines.built_of(kernel, what.tree), what.added, every, ran) if what.added else ()
    tests, functions = len(counters[code.object]), branches.functions(code.functions, texts, counted)
    found = Coverage(kernel.id, kernel.arch, tests, functions, calls, patch=patch, claims=claims.judged())
    executed = {file: {str(number): times for number, times in sorted(counted[file].lines.items())} for file in texts}
    (folder / FILE).write_text(json.dumps({**encode(found), "lines": executed, "ran": ran.table()}, indent=1) + "\n")
    if patch:
        (folder / PATCH).write_text(lines.margin(patch, what.tree), errors="replace")
    return found


def sources(code: CodeUnderTest, tree: Path, counted: Mapping[str, Counts]) -> dict[str, Source]:
    """The files of the profiled object, without headers, that name any of the functions to report."""
    here = PurePath(code.object).parent
    wanted = re.compile(rf"\b(?:{'|'.join((*code.functions, *code.fallible))})\b")
    found = {}
    for file in sorted(counted):
        if PurePath(file).is_relative_to(here) and file.endswith(".c"):
            text = below.text_of(tree, file)  # named by what a build and a guest made
            if wanted.search(text):
                found[file] = Source(text)
    return found
