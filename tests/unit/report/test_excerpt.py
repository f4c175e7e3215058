# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the source that findings are shown with: which lines, of which tree, and where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import HarnessError
from harness.core.records import Finding, Frame, Line, Outcome, Stack, encode
from harness.host import below
from harness.report import excerpt, html, junit, terminal
from harness.report.excerpt import excerpts, read
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, LEAK, Log, kernel, result

FILE = "kernel/sched/ext/ext.c"
TREE = kernel()
FREED = Stack("Freed by task 3", (Frame("kfree", 1, 2), Frame("destroy_dsq", 1, 2, FILE, 40)))


def tree(folder: Path, lines: int = 60) -> Path:
    file = folder / FILE
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"\tline({n});\n" for n in range(1, lines + 1)))
    return folder


def judged(*findings: Finding) -> Results:
    return judge(Log(TREE).put(result(TREE, CREATE, Outcome.FAIL, findings=findings)).events())


@pytest.mark.parametrize(
    ("line", "numbers"), [(30, [28, 29, 30, 31, 32]), (1, [1, 2, 3]), (60, [58, 59, 60]), (61, []), (0, []), (-5, [])]
)
def test_the_lines_around(tmp_path: Path, line: int, numbers: list[int]) -> None:
    shown = read(tree(tmp_path), FILE, line)
    assert [at.line for at in shown] == numbers
    assert all(at.text == f"        line({at.line});" for at in shown)


@pytest.mark.parametrize(
    "file",
    ["kernel/none.c", "kernel", "", "/etc/passwd", "../secret.c", "link.c", "a\x00b", "\udc80", "x" * 5000, "loop"],
)
def test_what_is_no_file_of_the_tree_is_not_read(tmp_path: Path, file: str) -> None:
    folder = tree(tmp_path / "tree")
    (tmp_path / "secret.c").write_text("secret\n" * 9)
    (folder / "link.c").symlink_to(tmp_path / "secret.c")
    (folder / "loop").symlink_to(folder / "loop")
    assert read(folder, file, 1) == ()


def test_a_link_within_the_tree_is_followed(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    (folder / "other.c").symlink_to(FILE)
    assert read(folder, "other.c", 1)


def test_what_is_there_and_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(5, "Input/output error")

    folder = tree(tmp_path)
    monkeypatch.setattr(below, "read_text", refuse)
    with pytest.raises(HarnessError, match=r"cannot read .*ext\.c: Input/output error"):
        read(folder, FILE, 3)


def test_odd_bytes_and_long_lines_are_shown_as_far_as_they_can_be(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_bytes(b"\xff\n" + b"y" * 9999 + b"\n")
    assert [line.text for line in read(tmp_path, "a.c", 1)] == ["\ufffd", "y" * excerpt.LONGEST]


def test_findings_get_their_lines_and_nothing_more(tmp_path: Path) -> None:
    here = replace(LEAK, line=30)
    provoked, nowhere = replace(here, signature="b", expected=True), replace(here, signature="c", file=None)
    results = excerpts(judged(here, provoked, nowhere), {TREE.id: tree(tmp_path)})
    found = next(test for test in results.tests if test.findings).findings
    assert [len(finding.excerpt) for finding in found] == [5, 0, 0]
    assert found[0].excerpt[2] == Line(30, "        line(30);")
    assert encode(found[0])["excerpt"][0] == {"line": 28, "text": "        line(28);"}


def test_without_the_tree_all_stays_as_it_is(tmp_path: Path) -> None:
    results = judged(replace(LEAK, line=30))
    assert excerpts(results, {}) == results == excerpts(results, {TREE.id: tmp_path / "gone"})


def test_every_report_shows_source_and_further_stacks(tmp_path: Path) -> None:
    results = excerpts(judged(replace(LEAK, line=30, stacks=(FREED,))), {TREE.id: tree(tmp_path)})
    screen = terminal.render(results)
    assert ">    30         line(30);" in screen and "     31         line(31);" in screen
    assert f"Freed by task 3: destroy_dsq ({FILE}:40)" in screen
    page, suite = html.render(results), junit.render(results)
    for text in (page, suite):
        assert "30         line(30);" in text and "Freed by task 3" in text
        assert f"destroy_dsq+0x1/0x2 ({FILE}:40)" in text


def test_source_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("if (a < b && c) \x1b[31m<script>\n")
    results = excerpts(judged(replace(LEAK, file="a.c", line=1)), {TREE.id: tmp_path})
    page = html.render(results)
    assert "<script>" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert "\x1b" not in terminal.render(results)
