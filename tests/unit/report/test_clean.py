# SPDX-License-Identifier: GPL-2.0-only
"""Tests that nothing a guest, a tree or a patch says reaches a terminal, a CI's log, XML or HTML as it is."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bisect import gitlog, history, show
from harness.bisect.drive import Answer, Ending
from harness.bisect.judge import Wanted
from harness.bisect.rows import Candidate, Report, SearchRow, StepRow
from harness.bisect.search import Find
from harness.bisect.state import Outcome as Said
from harness.bisect.state import Run
from harness.core.errors import GuestError
from harness.core.event_log import EventLog
from harness.core.printable import LAST, LONGEST, clean, one_line, quoted
from harness.core.records import Outcome
from harness.host import mishaps
from harness.host.cache import Cache
from harness.host.doctor import Row
from harness.host.listing import show_cache, show_doctor
from harness.host.progress import Progress
from harness.report import html, junit, terminal
from harness.report.text import clean as reports
from harness.run import shell, workers
from harness.verdict import Results, judge
from tests.unit.report.eventlog import CREATE, DESTROY, LEAK, SPLAT, Log, kernel, result

CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""General categories of Unicode that are controls, format characters, surrogates, private, unassigned, line ends."""

# What runners take for a command, written down apart from the code that breaks them.
COMMANDS = (
    re.compile(r"^\s*::", re.MULTILINE),
    re.compile(r"##\[|##vso\[|##teamcity\[", re.IGNORECASE),
    re.compile(r"^\s*section_(start|end):", re.MULTILINE),
)

NASTY = (
    "\x1b]52;c;cm0gLXJm\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x1b[2J",
    "\x1bP+q\x1b\\",
    "\x1b_x\x9c",
    "\x9b2J",
    "\x90",
    "\r",
    "\x08",
    "\x7f",
    "\u202e",
    "\u2066",
    "\u2069",
    "\u200f",
    "\u061c",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\u2029",
    "\x85",
    "\U000e0041",
    "\ufe0f",
    "\U000e0101",
    "\u3164",
    "\ud800",
    "\udc9b",
    "\ufffe",
    "\U0010ffff",
    "\ue000",
    "\n::error::x",
    "\n  ::add-mask::y",
    " ::set-output name=x::y",
    "##vso[task.setvariable variable=PATH]/tmp",
    "##[error]",
    "##TeamCity[x]",
    "\u3000::stop-commands::z",
    "\nsection_start:1:x\r\x1b[0K",
    "]]>",
    "<script>",
    "&#27;",
    "[link=http://x]y[/link]",
    "[/x]",
    "\nverdict: PASS",
    "x" * 50,
    "größe",
    "'\"",
)

TEXTS = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=8)), max_size=6).map("".join)


def forbidden(text: str, allowed: str = "\n\t") -> set[str]:
    return {char for char in text if unicodedata.category(char) in CATEGORIES and char not in allowed}


def harmless(text: str, allowed: str = "\n\t") -> None:
    assert not forbidden(text, allowed)
    for command in COMMANDS:
        assert not command.search(text), text


@given(TEXTS)
def test_what_is_cleaned_is_harmless(text: str) -> None:
    for made in (clean(text), quoted(text)):
        harmless(made)
    harmless(one_line(text), allowed="\t")
    assert clean(clean(text)) == clean(text) and one_line(one_line(text)) == one_line(text)
    assert all(line.startswith("| ") for line in quoted(text).split("\n"))
    assert reports is clean


@pytest.mark.parametrize("point", [*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x2000, 0x2070), 0xFEFF, 0xE0041])
def test_each_control_is_seen_and_none_vanishes(point: int) -> None:
    shown = clean(f"a{chr(point)}b")
    if chr(point) in "\t\n" or unicodedata.category(chr(point))[0] in "PLNS":
        assert shown == f"a{chr(point)}b"
    else:
        assert re.fullmatch(r"a\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})b", shown) and f"{point:x}" in shown


def test_every_code_point_there_is() -> None:
    harmless(clean("".join(map(chr, range(sys.maxunicode + 1)))))


def test_what_people_write_stays_as_it_is() -> None:
    for text in (
        "größe ‘x’ 日本語 ação 🙂",
        "tests/x.py::test_y[a::b]",
        "a ## b",
        "std::string",
        "\tint x;",
        "--- a/x",
    ):
        assert clean(text) == text


def test_long_lines_and_long_texts_are_cut_with_a_note() -> None:
    assert clean("y" * LONGEST) == "y" * LONGEST
    cut = clean("x\n" + "y" * (LONGEST + 1) + "\nz").split("\n")
    assert (cut[0], cut[2]) == ("x", "z")
    assert len(cut[1]) == LONGEST and cut[1].endswith(f"y [{LONGEST + 1} characters]")
    assert len(clean("\x1b" * 10 * LONGEST)) <= LONGEST
    many = quoted("\n".join(map(str, range(LAST + 5)))).split("\n")
    assert many[:2] == ["| [5 lines before]", "| 5"] and len(many) == LAST + 1


def test_wrapping_makes_no_command() -> None:
    """A word may come to the beginning of a line, after blanks that GitHub's runner takes off."""
    found = replace(LEAK, title=" ".join(["::error::x"] * 40))
    harmless(terminal.render(judge(Log(TREE).put(result(TREE, CREATE, findings=(found,))).events())))


# --- what prints -----------------------------------------------------------------------------

TREE = kernel()


def poisoned(value: Any, text: str) -> Any:
    """A record with `text` behind each string in it."""
    if type(value) is str:
        return value + text
    if isinstance(value, Enum):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: poisoned(getattr(value, name), text) for name in names})
    if isinstance(value, tuple | list):
        return type(value)(poisoned(item, text) for item in value)
    if isinstance(value, Mapping):
        return {key: poisoned(item, text) for key, item in value.items()}
    return value


def rich_results() -> Results:
    base, patched = kernel(id="base-x86_64"), TREE
    failing = result(patched, CREATE, findings=(LEAK, SPLAT), replay="out/x.json")
    odd = result(patched, DESTROY, Outcome.INCONCLUSIVE, why="lost")
    skipped = result(patched, f"{DESTROY}2", Outcome.SKIP, why="needs 2 nodes")
    return replace(judge(Log(base, patched).put(failing, odd, skipped).events()), next="kharness run")


RESULTS = rich_results()


@given(TEXTS)
def test_the_summary(text: str) -> None:
    evil = poisoned(RESULTS, text)
    harmless(terminal.render(evil, f"out/{text}"))
    stream = io.StringIO()
    terminal.show(evil, stream)
    harmless(stream.getvalue())
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if line.startswith("verdict: ")] == lines[-1:]


@given(TEXTS)
def test_junit(text: str) -> None:
    document = junit.render(poisoned(RESULTS, text))
    assert not forbidden(document)
    root = ET.fromstring(document)
    values = [value for node in root.iter() for value in (*node.attrib.values(), node.text or "", node.tail or "")]
    for value in values:
        assert not forbidden(value)
    assert {node.tag for node in root.iter()} <= {
        "testsuites",
        "testsuite",
        "testcase",
        "properties",
        "property",
        "failure",
        "error",
        "skipped",
        "system-out",
    }


class Shape(HTMLParser):
    """Tags and names of attributes of a page, in their order; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, *(name for name, _ in attrs)))
        for name, value in attrs:
            assert not forbidden(value or "")
            assert name != "href" or not re.match(r"\s*[a-z]+:", value or "", re.IGNORECASE)
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert not forbidden(data)


SHAPE = {*Shape(html.render(RESULTS)).seen, *Shape(html.render(poisoned(RESULTS, "x"))).seen}


@given(TEXTS.filter(bool))
def test_html(text: str) -> None:
    page = html.render(poisoned(RESULTS, text))
    assert not forbidden(page)
    assert not set(Shape(page).seen) - SHAPE, "text of a guest became markup"


def bisection() -> Report:
    run = Run(Said.FAILS, "why", seconds=3.0, fixups=("f.patch",))
    step = StepRow("ab" * 20, "a title", "arg", run)
    search = SearchRow(
        "x86_64",
        "commit",
        Ending.FOUND,
        ("--good x", "--bad y"),
        "cd" * 20,
        "ab" * 20,
        5,
        Wanted("s", "a leak", ("t",)),
        1.0,
        2,
        "-k x",
        (Candidate("ab" * 20, 0.99, "a title", "me", "today", "diff --git a/x b/x\n--- a/x\n+++ b/x\n+y"),),
        (step,),
        "x86_64",
        step,
        step,
        {"ef" * 20: "docs"},
        ("12" * 20,),
    )
    return Report(("kharness", "bisect"), Find.REGRESSION, 0.99, (search,))


@given(TEXTS)
def test_a_bisection(text: str) -> None:
    evil = poisoned(bisection(), text)
    said = show.render(evil, f"out/{text}")
    harmless(said)
    assert [line for line in said.splitlines() if line.startswith("bisect: ")] == said.splitlines()[-1:]
    page = show.html(evil)
    assert not forbidden(page)
    assert Shape(page).open == []


@given(TEXTS)
def test_the_log_for_git_bisect_replay(text: str) -> None:
    """A subject that had a line end would be a command of git's own, which may be `git bisect run`."""
    points = history.line([("a1", text), ("b2", text)])
    answer = Answer(Ending.FOUND, Wanted("s", "t", ()), (("b2", 0.99),), 1.0, 1, 2, "", {}, {}, ("a1",))
    log = gitlog.render(points, "old", Find.REGRESSION, answer)
    harmless(log)
    assert [row for row in log.splitlines() if not row.startswith("# ")] == [
        "git bisect start",
        "git bisect bad b2",
        "git bisect good old",
        "git bisect skip a1",
    ]


@given(TEXTS)
def test_what_is_said_meanwhile(text: str) -> None:
    stream = io.StringIO()
    progress = Progress(None, stream)
    with progress.phase(f"build of {text}", "key") as phase:
        phase.step(note=text)
        progress.say(phase.line())
        progress.say(text)
    harmless(stream.getvalue())
    assert stream.getvalue().count("\n") == 4


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(TEXTS)
def test_the_live_line(text: str) -> None:
    progress = Progress(None, Tty())
    with progress.phase(text, "key") as phase:
        phase.total(3)
        phase.step(note=text)
        harmless(progress._picture().plain)


@given(TEXTS)
def test_errors(text: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        mishaps.report(GuestError(f"gone: {text}", step=text, detail=text))
        shell.say(text)
    harmless(err.getvalue())


@given(TEXTS)
def test_lists(text: str) -> None:
    """Names in the cache folder are no markup of rich's, which would make links of them, or an error."""
    entry = SimpleNamespace(kind=text, key=text, size=1, used=0.0)
    for stream in (io.StringIO(), Tty()):
        show_cache(
            cast(Cache, SimpleNamespace(root=f"/{text}", entries=lambda: [entry], folders=lambda: [entry])), stream
        )
        show_doctor([Row(text, text, text, False, text, f"do {text}", (text,))], stream)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # the headings are bold
        harmless(plain)


EVIL = (
    "E   MachineEnded: last console line: \x1b]0;title\x07\x1b[2J\x1b]52;c;cm0gLXJm\x07\n"
    "##vso[task.setvariable variable=PATH]/tmp\n::error file=a.c::forged\n\u202ereversed\r\x9b2J\n"
)


def test_what_a_test_child_prints_is_shown_and_kept_harmless(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl", "r").close()
    (tmp_path / "said").write_text(EVIL)
    out = io.StringIO()
    workers.run([["cat", str(tmp_path / "said")]], dict(os.environ), tmp_path, Progress(None, out), "tests", "key")
    for said in (out.getvalue(), (tmp_path / "pytest.log").read_text()):
        harmless(said)
        assert "\\x1b]52;c;cm0gLXJm\\x07" in said and "\\u202ereversed\\x0d\\x9b2J" in said


# --- streams that break ----------------------------------------------------------------------


@contextlib.contextmanager
def unread() -> Iterator[Any]:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    yield stream
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@contextlib.contextmanager
def full() -> Iterator[Any]:
    stream = open("/dev/full", "w")
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


@contextlib.contextmanager
def closed() -> Iterator[Any]:
    stream = open(os.devnull, "w")
    stream.close()
    yield stream


@contextlib.contextmanager
def ascii_only() -> Iterator[Any]:
    with open(os.devnull, "w", encoding="ascii", errors="strict") as stream:
        yield stream


@pytest.mark.parametrize("broken", [unread, full, closed, ascii_only])
def test_a_stream_that_takes_nothing_ends_nothing(broken: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
    """rich ends the process with status 1, the kernel's own, where a pipe has no reader."""
    stdout = os.fstat(1)
    with broken() as stream:
        progress = Progress(None, stream, every=0.001)
        with progress.phase("größe", "key") as phase:
            for _ in range(100):
                phase.step()
                progress.say("größe" * 1000)
        terminal.show(RESULTS, stream)
        show_doctor([Row("größe", "", "", True, "")], stream)
    assert os.path.samestat(stdout, os.fstat(1)), "rich puts /dev/null where stdout was"
