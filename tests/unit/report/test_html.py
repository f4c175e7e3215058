# SPDX-License-Identifier: GPL-2.0-only
"""The tests of report.html: well formed, self-contained, and nothing of a guest's becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from harness.core.records import Outcome, Role
from harness.report import html
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, Log, kernel, result

TREE = kernel(dirty=True)
VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """Collects elements, ids, links and text; fails on tags that do not match."""

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attrs: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html.render(results))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attrs += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str | None]:
        return [value for key, value in self.attrs if key == name]


def failing(title: str = LEAK.title, log: tuple[str, ...] = LEAK.log) -> Page:
    leak = result(TREE, CREATE, findings=(replace(LEAK, title=title, log=log),), replay="out/x y.json")
    return Page(judge(Log(TREE).put(leak).events()))


def test_a_finding_is_shown_whole() -> None:
    page = failing()
    for words in (
        "FAIL",
        "percpu leak: unreferenced percpu object of 8 bytes, 50 times (50 times)",
        "init_dsq+0x3c/0x120 (kernel/sched/ext/ext.c:4711)",
        "alloc_helper (kernel/sched/ext/ext.c:4709) [inlined]",
        "? scx_bpf_create_dsq+0x80/0x200",
        "kharness replay 'out/x y.json'",
        'comm "agent", pid 71',
        "pcpu_alloc_noprof < init_dsq",
        "0xcc0",
        "kvm: the probe guest printed nothing within 10 s",
        "dirty",
        LEAK.signature,
    ):
        assert words in page.text, words


def test_what_comes_out_of_a_guest_is_escaped() -> None:
    page = failing("<script>alert(1)</script>\x1b", ("</pre><img src=x onerror=y>", "& \"'"))
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert "<script>alert(1)</script>\\x1b" in page.text
    assert "</pre><img src=x onerror=y>" in page.text


def test_nothing_is_fetched_and_every_link_has_its_target() -> None:
    page = failing()
    assert not page.values("src") and "link" not in page.tags
    text = html.render(judge(Log(TREE).events()))
    assert not re.search(r"https?:|url\(|@import", text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = page.values("href")
    assert links
    for target in links:
        assert target is not None and target[0] == "#" and target[1:] in ids


def test_the_worst_comes_first_and_can_be_filtered() -> None:
    page = failing()
    assert page.values("data-kind") == ["fail", "pass", "pass", "pass", "fail", "pass", "pass", "pass"]
    assert {"only-all", "only-fail", "only-pass"} <= set(page.values("id"))
    assert "only-skip" not in page.values("id")


def test_an_empty_log_and_a_comparison_render_too() -> None:
    assert "INCONCLUSIVE" in Page(judge([])).text
    base, patched = kernel(Role.BASE), kernel(Role.PATCHED)
    log = Log(base, patched).put(*(result(of, CREATE, Outcome.FAIL, why="x") for of in (base, patched)))
    page = Page(judge(log.put(result(patched, DESTROY, Outcome.SKIP)).events()))
    for words in ("known failure", "still-failing", "regressed", "base fails too"):
        assert words in page.text


def test_the_next_step_is_on_the_page() -> None:
    log = Log(TREE)
    log.why = "interrupted"
    assert "kharness run --tree linux" in Page(judge(log.events())).text


def test_written_as_one_file_even_with_lone_surrogates(tmp_path: Path) -> None:
    leak = replace(LEAK, log=("\udc80",))
    html.write(judge(Log(TREE).put(result(TREE, CREATE, findings=(leak,))).events()), tmp_path / "report.html")
    assert "\\xdc80" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 1
