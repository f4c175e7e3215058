# SPDX-License-Identifier: GPL-2.0-only
"""Check the documents: the tests that they name exist, their relative links lead somewhere, and the README is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

README_LINES = 150

NAMED = re.compile(r"`(?P<file>[\w/]*test_\w+\.py)(?:::(?P<test>\w+))?")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and cgit make them: lower case, blanks to hyphens, no punctuation."""
    headings = (found["text"].lower() for found in HEADING.finditer(FENCED.sub("", page.read_text())))
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in headings}


def problem(page: Path, target: str) -> str:
    """Return what is wrong with a link of `page`, or nothing."""
    if ELSEWHERE.match(target):
        return ""
    name, _, anchor = target.partition("#")
    to = (page.parent / name).resolve() if name else page
    if not to.exists():
        return f"{target}: no such file"
    if anchor and anchor not in anchors(to):
        return f"{target}: no such heading"
    return ""


@pytest.mark.parametrize("name", ["security.md", "reliability.md"])
def test_each_test_that_is_named_is_there(name: str) -> None:
    named = list(NAMED.finditer((ROOT / "docs" / name).read_text()))
    assert named
    for found in named:
        file = Path(found["file"])
        files = [path for path in (ROOT / "tests").rglob(file.name) if path.parts[-len(file.parts) :] == file.parts]
        assert len(files) == 1, found["file"]
        assert not found["test"] or f"def {found['test']}(" in files[0].read_text(), found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    targets = [found["target"] for found in LINK.finditer(FENCED.sub("", page.read_text()))]
    assert [] == [said for said in (problem(page, target) for target in targets) if said]


def test_each_page_is_linked_from_another_one() -> None:
    linked = {
        (page.parent / found["target"].partition("#")[0]).resolve()
        for page in PAGES
        for found in LINK.finditer(page.read_text())
        if not ELSEWHERE.match(found["target"])
    }
    assert [] == [str(page.relative_to(ROOT)) for page in PAGES[1:] if page not in linked]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
