# SPDX-License-Identifier: GPL-2.0-only
"""Tests of how a bisection is shown: whatever it found, and whatever a commit's subject holds."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.bisect import show
from harness.bisect.drive import Ending
from harness.bisect.judge import Wanted
from harness.bisect.rows import Candidate, Report, SearchRow, StepRow
from harness.bisect.search import Find
from harness.bisect.state import Finding, Outcome, Run
from harness.core.errors import Exit

NASTY = "sched: <script>alert(1)</script> \x1b[31m & more"


def report(ending: Ending, *candidates: Candidate, find: Find = Find.REGRESSION, rate: float = 1.0) -> Report:
    found = Finding("dmesg:warn:f", "WARNING in f", "t.py::test", "f (kernel/f.c:7)")
    failing = StepRow("b" * 40, NASTY, "", Run(Outcome.FAILS, "WARN", (found,), 92.0, 70.0, "k", True, out="steps/2"))
    passing = StepRow("a" * 40, "fine", "", Run(Outcome.PASSES, "passes", seconds=20.0, kernel="k", out="steps/1"))
    search = SearchRow(
        "x86_64",
        "commit",
        ending,
        ("--good v1", "--bad v2"),
        "0" * 40,
        "f" * 40,
        12,
        Wanted("dmesg:warn:f", "WARNING in f", ("t.py::test",)),
        rate,
        3,
        "test",
        candidates,
        (passing, failing),
        "x86_64",
        failing,
        passing,
        {"d" * 40: "documentation"},
        ("e" * 40,),
    )
    return Report(("kharness", "bisect"), find, 0.99, (search,))


def words(page: str) -> list[str]:
    """The words that are shown, but for the flags, which are the user's own."""
    return re.sub(r"<style>.*?</style>|<[^>]*>|--\w+", " ", page, flags=re.DOTALL).split()


ONE = Candidate("b" * 40, 0.99834, NASTY, "A <a@b>", "2026-01-01", "-old\n+new <b>\n")


def test_what_was_found() -> None:
    said = show.render(report(Ending.FOUND, ONE), "out/x/report.html")
    assert said.splitlines()[-1].startswith("bisect: x86_64 BROUGHT IN BY bbbbbbbbbbbb 'sched: <script>")
    assert "99.83 %  out/x/report.html" in said.splitlines()[-1]
    for words in (
        "12 commits between --good v1 (000000000000) and --bad v2",
        "nothing that is built changes in 1 commit",
        "each time",
        "before     aaaaaaaaaaaa passes",
        "after      bbbbbbbbbbbb fails: WARNING in f at f (kernel/f.c:7)",
        "built in 1 min 10 s",
        "not judged eeeeeeeeeeee",
        "3 kernels between the ends, 2 runs, 1 min 52 s",
        "+new <b>",
    ):
        assert words in said or words in " ".join(said.split()), words
    assert "\x1b" not in said and "\\x1b[31m" in said
    assert report(Ending.FOUND, ONE).exit is Exit.PASS


def test_the_files_of_a_long_change_are_named() -> None:
    diff = "".join(f"diff --git a/{name} b/{name}\n" + "+x\n" * 30 for name in ("kernel/a.c", "include/b c.h"))
    said = show.render(report(Ending.FOUND, replace(ONE, diff=diff)), "x")
    assert "changes 2 files that may take part: kernel/a.c, include/b c.h" in said
    assert "and 22 more lines" in said
    assert "may take part" not in show.render(report(Ending.FOUND, ONE), "x")


def test_before_and_after_of_what_was_mended() -> None:
    said = show.render(report(Ending.FOUND, ONE, find=Find.FIXED, rate=0.31), "x")
    assert "FIXED BY" in said.splitlines()[-1]
    assert "before     bbbbbbbbbbbb fails" in said and "after      aaaaaaaaaaaa passes" in said
    assert "in about 31% of the runs" in " ".join(said.split())
    assert f"fixed by   {'b' * 40}" in said and "culprit" not in said
    page = show.html(report(Ending.FOUND, ONE, find=Find.FIXED, rate=0.31))
    assert "FIXED BY" in page and "fixed by, 99.83 %" in page and "culprit" not in page and "bad" not in words(page)


def test_what_cannot_be_told_apart_and_what_contradicts_itself() -> None:
    several = report(Ending.SEVERAL, ONE, Candidate("c" * 40, 0.5, "other"))
    assert "BROUGHT IN BY ONE OF 2 commits, which cannot be distinguished" in show.render(several, "")
    fixed = report(Ending.SEVERAL, ONE, Candidate("c" * 40, 0.5, "other"), find=Find.FIXED)
    assert "FIXED BY ONE OF 2 commits" in show.render(fixed, "") and "FIXED BY ONE OF 2 commits" in show.html(fixed)
    assert "candidate  " + "c" * 40 + " other, 50 %" in show.render(several, "")
    assert several.exit is Exit.INCONCLUSIVE
    none = report(Ending.CONTRADICTION)
    assert "CONTRADICTION: no single commit explains the runs" in show.render(none, "")
    assert none.exit is Exit.INCONCLUSIVE


@pytest.mark.parametrize(
    ("points", "what", "interior", "dull", "says"),
    [
        (1, "patch", 1, 1, ("1 patch between", "the ends: 1 kernel.", "nothing that is built changes in 1 patch<")),
        (
            3,
            "patch",
            2,
            2,
            ("3 patches between", "the ends: 2 kernels.", "nothing that is built changes in 2 patches<"),
        ),
        (2, "symbol", 0, 0, ("2 symbols between", "the ends: 0 kernels.")),
    ],
)
def test_numbers_on_the_page(points: int, what: str, interior: int, dull: int, says: tuple[str, ...]) -> None:
    (search,) = report(Ending.FOUND, ONE).searches
    why = {f"d{number}": "documentation" for number in range(dull)}
    search = replace(search, points=points, what=what, interior=interior, dull=why)
    page = show.html(replace(report(Ending.FOUND, ONE), searches=(search,)))
    for words_ in says:
        assert words_ in page, words_
    assert ("nothing that is built" in page) == bool(dull)


def test_the_page_escapes_what_it_shows() -> None:
    page = show.html(report(Ending.FOUND, ONE))
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "+new &lt;b&gt;" in page
    assert 'href="x86_64/steps/2/report.html"' in page
    assert "documentation" in page


def test_chances_are_never_rounded_up_to_certainty() -> None:
    assert [show.chance(value) for value in (0.5, 0.99, 0.999949, 0.9999999, 1.0)] == [
        "50 %",
        "99 %",
        "99.99 %",
        "99.99 %",
        "100 %",
    ]
