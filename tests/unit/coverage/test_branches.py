# SPDX-License-Identifier: GPL-2.0-only
"""Tests of coverage on a toy: coverage/toy.c, compiled by GCC 14 with the kernel build's flags, run twice, and gcov's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.coverage import branches
from harness.coverage.branches import Call, Counts
from harness.coverage.csource import Source

FOLDER = Path(__file__).with_name("golden")
TOY = Source((FOLDER / "toy.c").read_text())
GCOV: dict[str, Any] = json.loads((FOLDER / "toy.json").read_text())
COUNTED = branches.counts(GCOV, ("/src", "/build"))
SOURCES = {"toy.c": TOY}


def row(name: str) -> branches.Covered:
    (found,) = branches.functions((name,), SOURCES, COUNTED)
    return found


def line(text: str) -> int:
    """Where a text stands in the toy, which is once."""
    (found,) = [number for number, there in enumerate(TOY.lines, 1) if text in there]
    return found


def test_files_are_named_within_their_tree() -> None:
    assert "toy.c" in COUNTED
    assert COUNTED["toy.c"].lines[line("return -ENOMEM;")] == 7
    elsewhere = {
        "current_working_directory": "/build",
        "files": [{"file": "include/a.h", "lines": []}, {"file": "/src/b.c", "lines": []}],
    }
    assert set(branches.counts(elsewhere, ("/src", "/build"))) == {"include/a.h", "b.c"}


def test_a_line_that_is_there_twice_is_added_up() -> None:
    ways = [{"count": 1}, {"count": 0}]
    twice = [{"line_number": 5, "count": 1, "branches": ways}, {"line_number": 5, "count": 2, "branches": ways}]
    other = [{"line_number": 6, "count": 0, "branches": ways}, {"line_number": 6, "count": 1, "branches": ways[:1]}]
    found = branches.counts(
        {"current_working_directory": "/src", "files": [{"file": "a.c", "lines": [*twice, *other]}]}, ("/src",)
    )
    assert found["a.c"] == Counts({5: 3, 6: 1}, {5: [2, 0], 6: [1, 0, 1]})


def test_error_branches() -> None:
    """Taken or not, with a line of their own or known by their condition only; an assertion is none."""
    made = row("make")
    assert (made.errors, made.errors_taken) == (2, 1)
    assert [(at.line, at.text) for at in made.errors_not_taken] == [(line("if (!q)"), "if (!q) return NULL;")]
    assert made.line == line("*make(void)")
    opened = row("open_queue")
    assert (opened.errors, opened.errors_taken) == (2, 1)
    assert [at.text for at in opened.errors_not_taken] == ["if (mode < 0) return -EINVAL;"]
    assert (row("init_queue").errors, row("init_queue").errors_taken) == (1, 1)


def test_lines_and_branches() -> None:
    unused = row("unused")
    assert (unused.lines, unused.lines_run, unused.branches, unused.branches_taken) == (3, 0, 2, 0)
    assert not unused.branches_not_taken  # of a line that was never run that says nothing
    assert [at.text for at in row("careless").branches_not_taken] == ["return q->slots ? 1 : 2;"]


def test_what_was_not_built_is_left_out() -> None:
    assert branches.functions(("left_out", "no_such_function"), SOURCES, COUNTED) == ()


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ("if (a) goto err_free;", 1),
        ("if (a) goto again;", 0),
        ("if (ret < 0) log(a);", 1),
        ("if (IS_ERR(p)) log(a);", 1),
        ("if (ret > 0) log(a);", 0),
        ("if (a) return;", 0),
        ("if (a) return false;", 0),
        ("if (a) { ret = -EBUSY; goto out; }", 1),
        ("if (a) { if (b) return -EIO; }", 1),
        ("if (a) b(); else ret = -ENODEV;", 1),
        ("if (ret) b(); else c();", 1),
        ("if (WARN_ON_ONCE(ret)) return -EINVAL;", 0),
        ("if (unlikely(ret)) c();", 1),
        ("if (a) return ERR_PTR(ret);", 1),
    ],
)
def test_which_branches_are_errors(body: str, errors: int) -> None:
    toy = Source(f"int f(void)\n{{ {body} }}\n")
    assert len(list(branches.error_arms(toy.functions["f"], toy))) == errors


def test_callers() -> None:
    """Each call after boot that can be survived; one that hands the answer on makes its own callers to be looked at."""
    found = {call.function: call for call in branches.calls(("init_queue",), SOURCES, COUNTED)}
    assert {name: (call.callee, call.failed, call.why) for name, call in found.items()} == {
        "make": ("init_queue", 3, ""),
        "open_queue": ("init_default", 2, ""),
        "careless": ("init_queue", 0, "its answer is not looked at"),
        "upside_down": ("init_queue", 2, ""),
        "unused": ("init_queue", 0, ""),
    }
    assert found["make"] == Call(
        "init_queue", "make", "toy.c", line("if (init_queue(q)) {"), "if (init_queue(q)) {", failed=3
    )


def test_a_call_without_counters() -> None:
    """The function was built, and gcov has no line of the call: what became of it nobody knows."""
    lines = {
        number: times
        for number, times in COUNTED["toy.c"].lines.items()
        if TOY.lines[number - 1] != "\tint err = init_queue(q);"
    }
    calls = branches.calls(("init_queue",), SOURCES, {"toy.c": Counts(lines, COUNTED["toy.c"].branches)})
    (lost,) = [call for call in calls if call.function == "upside_down"]
    assert (lost.failed, lost.why) == (0, "gcov knows no line of it")


def test_what_answers_nothing_cannot_fail() -> None:
    mute = Source("static void init_dsq(int a)\n{\n}\nstatic void *other(int a)\n{ return f(init_dsq(1)); }\n")
    sources = {"a.c": mute}
    assert branches.answering(("init_dsq",), sources) == []
    assert branches.answering(("other",), sources) == ["other"]
    assert branches.answering(("gone",), sources) == ["gone"]
    assert branches.calls(("init_dsq",), sources, {"a.c": Counts({5: 1})}) == ()


@pytest.mark.parametrize(
    ("behind", "lines", "ways", "times"),
    [
        ("b();", {2: 7, 4: 7}, [0, 7], 0),
        ("b();", {2: 7, 4: 5}, [2, 5], 2),
        ("b();", {2: 7, 4: 0}, [0, 7], 7),  # always
        ("b();", {2: 7, 4: 5}, [2, 5, 0, 5], 2),  # a || b, of which b never held
        ("while (b()) ;", {2: 7, 4: 60}, [2, 5], 2),
        ("while (b()) ;", {2: 7, 4: 60}, [0, 7], 0),
        ("b();", {2: 7}, [2, 5], 2),
        ("if (b)\nc();", {2: 7, 5: 0}, [0, 7], 0),  # what follows has no counter, only what is within
        ("}", {2: 7, 5: 0}, [0, 7], 0),
        ("b();", {4: 0}, None, None),
    ],
)
def test_an_arm_without_a_line(behind: str, lines: dict[int, int], ways: list[int] | None, times: int | None) -> None:
    toy = Source(f"int f(void) {{ {{\nif (a)\nreturn -ENOMEM;\n{behind}\n}}\n}}\n")
    (arm,) = branches.error_arms(toy.functions["f"], toy)
    assert branches.taken(arm, toy, Counts(lines, {2: ways} if ways else {})) == times


def test_an_arm_that_stays_hides_nothing() -> None:
    toy = Source("int f(void) {\nif (ret)\nb();\nc();\n}\n")
    (arm,) = branches.error_arms(toy.functions["f"], toy)
    assert branches.taken(arm, toy, Counts({2: 7, 4: 0}, {2: [0, 7]})) == 0
