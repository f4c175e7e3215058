# SPDX-License-Identifier: GPL-2.0-only
"""A run that answers as `b4 review` wants a check to answer: a mail on standard input, a list of results as JSON.

The protocol is b4's (0.16, review/checks.py): of each result `tool` and `status` (pass, warn or fail), and for people
`summary`, `url` and `details`. b4 does not look at the exit status of a check that answered.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email import policy
from email.parser import BytesHeaderParser
from pathlib import Path

from harness.core.errors import Exit, KharnessError, UsageError
from harness.core.options import Options
from harness.core.plan import CACHE_CAP_GIB
from harness.core.printable import clean, one_line
from harness.core.records import Verdict
from harness.host.cache import Cache
from harness.host.removal import remove
from harness.host.scratch import private_folder
from harness.report import html, mail
from harness.run import runner
from harness.run.requested import plan_of
from harness.run.trees import PATCHES
from harness.source import tracked
from harness.verdict import Results

TOOL = "kharness"
PASS, WARN, FAIL = "pass", "warn", "fail"
STATUS: Mapping[Verdict, str] = {
    Verdict.PASS: PASS,
    Verdict.FAIL: FAIL,
    Verdict.REGRESSED: FAIL,
    Verdict.INCONCLUSIVE: WARN,
}

CHECKS = "checks"
"""The cache's folder with the results of checks."""

KEPT = 50
"""Checks whose results stay: those of older ones are removed."""

_DIFF = re.compile(rb"^(?:diff --git |--- \S)", re.MULTILINE)
_PART = re.compile(r"\[[^\]]*?\b0*(\d+)/0*(\d+)\]")


@dataclass(frozen=True)
class Answer:
    """One result, as b4 reads it. `url` is a link for a browser."""

    tool: str
    status: str
    summary: str
    url: str = ""
    details: str = ""


@dataclass(frozen=True)
class Given:
    """What a mail brought: `places` are files and folders with its patches, `part` says ``2/3`` where it is one of
    several and the others are not known."""

    places: tuple[str, ...] = ()
    part: str = ""


def check(options: Options, text: bytes, words: Sequence[str]) -> tuple[Answer, int]:
    """Test the patch of a mail, or the series that b4 tracks, on the tree of `options`: the answer and exit status.

    `words` are the flags as they were typed. A mistake of the caller's fails, for no run will give another answer
    until somebody acts; a failure of this host's is a warning, for it says nothing of the patch.
    """
    part = ""
    try:
        with private_folder() as folder, contextlib.redirect_stdout(sys.stderr):
            given = _given(text, folder)
            part = given.part
            if not given.places:
                return _nothing(), Exit.INCONCLUSIVE
            return _tested(options, given, text, words)
    except KharnessError as error:
        bad = isinstance(error, UsageError) and not part
        alone = f"patch {part} was tested without the others: " if part else ""
        details = clean("\n".join(part for part in (error.what, error.step, error.detail) if part))
        return Answer(TOOL, FAIL if bad else WARN, one_line(alone + error.what), details=details), error.exit


def _given(text: bytes, folder: Path) -> Given:
    """The patches of the mail. Where it is one of a series, or its cover letter, b4 may know the others."""
    subject = str(BytesHeaderParser(policy=policy.default).parsebytes(text).get("subject", ""))
    found = _PART.search(subject)
    several = found is not None and int(found[2]) > 1
    tracking = os.environ.get(tracked.TRACKING, "")
    if tracking and (several or not _DIFF.search(text)):
        series = folder / "series"
        series.mkdir()
        if tracked.write(Path(tracking), Path.cwd(), series):
            return Given((str(series),))
    if not _DIFF.search(text):
        return Given()
    file = folder / "mail.eml"
    file.write_bytes(text)
    return Given((str(file),), f"{found[1]}/{found[2]}" if found and several else "")


def _nothing() -> Answer:
    why = "nothing was tested: this mail has no diff, and b4 tracks no series for it"
    step = (
        "Check the series out in b4 review: then the check is given its patches. See docs/howto/report-to-the-list.md."
    )
    return Answer(TOOL, WARN, why, details=step)


def _tested(options: Options, given: Given, text: bytes, words: Sequence[str]) -> tuple[Answer, int]:
    options = replace(options, patch=given.places)
    if not options.tree and not options.kernel:
        options = replace(options, tree=str(Path.cwd()))
    if not options.out:
        options = replace(options, out=str(_folder(text, words)))
    out = Path(options.out).absolute()
    plan = replace(plan_of(options), argv=_again(options, out, words))
    judged: list[Results] = []

    def keep(results: Results) -> int:
        judged.append(results)
        return results.verdict.exit

    status = runner.conduct(plan, keep)
    return answer(judged[-1], out, given.part), status


def answer(results: Results, out: Path, part: str = "") -> Answer:
    """What b4 is told of a run: the verdict in a sentence, its report, and the mail for the list."""
    page = out / html.FILE
    told = mail.sentence(results, mail.causes(results))
    alone = f" (patch {part} alone)" if part else ""
    url = page.as_uri() if page.is_file() else ""
    return Answer(TOOL, STATUS[results.verdict], one_line(told + alone), url, mail.mail(results))


def _again(options: Options, out: Path, words: Sequence[str]) -> tuple[str, ...]:
    """The command that tests the same again, with the patches as the results have them."""
    typed = any(word == "--tree" or word.startswith("--tree=") for word in words)
    tree = [] if options.kernel or typed else ["--tree", options.tree]
    return ("kharness", "run", *words, *tree, "--patch", str(out / PATCHES))


def _folder(text: bytes, words: Sequence[str]) -> Path:
    """Where the results of this check go: not below the current folder, which is a kernel tree. The oldest go."""
    top = Cache.default(CACHE_CAP_GIB << 30).folder(CHECKS)
    mine = top / hashlib.sha256(b"\0".join([text, *(os.fsencode(word) for word in words)])).hexdigest()[:16]
    ages: dict[Path, float] = {}
    for path in top.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another check has just removed it
            ages[path] = path.stat().st_mtime
    for old in sorted(ages, key=lambda path: ages[path], reverse=True)[KEPT:]:
        if old != mine:
            remove(old)
    return mine
