# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what the selftests' runner prints: results, reasons, totals, and what cannot be a result."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selftests.results import END, START, Report, Said, Word, contradiction, parse

NAMES = {"PASSED": "ok", "SKIPPED": "skip", "FAILED": "not ok"}


def shown(name: str, line: str, output: str = "") -> str:
    """One test, in the form of print_test_preamble() and print_test_result() of runner.c; `line` may be none."""
    end = f"{line}\n=====  END  =====\n" if line else ""
    return f"===== START =====\nTEST: {name}\nDESCRIPTION: Verify that it does\nOUTPUT:\n{output}{end}"


def counted(passed: int = 0, skipped: int = 0, failed: int = 0) -> str:
    """The runner's last words."""
    return (
        f"\n\n=============================\n\nRESULTS:\n\nPASSED:  {passed}\nSKIPPED: {skipped}\nFAILED:  {failed}\n"
    )


OK = shown("exit", "ok 1 exit # ") + counted(passed=1)
SKIPPED = shown("nohz_tick", "ok 1 nohz_tick # SKIP ", "SKIP: no allowed NOHZ_FULL CPU\n") + counted(skipped=1)
NOT_OK = (
    shown("numa", "not ok 1 numa # ", "libbpf: load failed\nERR: numa.c:23\nFailed to load skel\nand more\n")
    + counted(failed=1)
    + "\nFailed tests:\n  - numa\n"
)
BUG = "[SCX_BUG] /src/tools/sched_ext/include/scx/compat.h:27 (No such process)\nbtf__load_vmlinux_btf()\n\n"
GAVE_UP = shown("exit", "", f"libbpf: no BTF\n{BUG}")
NESTED = shown(
    "rt_stall", "ok 1 rt_stall # ", "TAP version 13\n1..1\n# Runtime of EXT task is 0.2\nok 1 PASS\n"
) + counted(1)


@pytest.mark.parametrize(
    ("text", "name", "word", "reason", "status"),
    [
        (OK, "exit", Word.OK, "", 0),
        (SKIPPED, "nohz_tick", Word.SKIP, "SKIP: no allowed NOHZ_FULL CPU", 0),
        (NOT_OK, "numa", Word.NOT_OK, "numa.c:23: Failed to load skel", 1),
        (NESTED, "rt_stall", Word.OK, "ok 1 PASS", 0),
        (GAVE_UP, "exit", None, "[SCX_BUG] compat.h:27 (No such process): btf__load_vmlinux_btf()", 1),
    ],
    ids=["ok", "skip", "not ok", "nested", "gave up"],
)
def test_one_test(text: str, name: str, word: Word | None, reason: str, status: int) -> None:
    report = parse(text)
    (said,) = report.tests
    assert (said.name, said.word, said.reason) == (name, word, reason)
    assert said.gave_up is (word is None)
    assert contradiction(report, name, status) == ""


def test_output_without_an_end_of_line_before_the_result() -> None:
    """A test prints what it likes, and the runner's line goes on behind it."""
    (said,) = parse(shown("exit", "not ok 1 exit # ", "half a linenot ")).tests
    assert said == Said("exit", Word.NOT_OK, ("half a linenot ",))


def test_several_tests_and_their_totals() -> None:
    report = parse(shown("a", "ok 1 a # ") + shown("b", "not ok 2 b # ") + counted(passed=1, failed=1))
    assert [(said.name, said.word) for said in report.tests] == [("a", Word.OK), ("b", Word.NOT_OK)]
    assert report.totals == {"PASSED": 1, "SKIPPED": 0, "FAILED": 1}
    assert contradiction(report, "a", 1) == "a alone was to run, and the runner tells of a, b"


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("", 1, "the runner tells of no test"),
        ("No tests matched filter 'exit'\n", 1, "the runner tells of no test"),
        (shown("exit", ""), 139, "ended with status 139 and no result of exit"),
        (shown("exit", "", "libbpf: oh\n"), 1, "ended with status 1 and no result of exit (libbpf: oh)"),
        (GAVE_UP, 0, "ended with status 0 and no result of exit ([SCX_BUG] compat.h:27"),
        (GAVE_UP, 139, "ended with status 139 and no result"),
        (shown("exit", "<UNKNOWN> 1 exit # ") + counted(), 0, "no result of exit"),
        (shown("exit", "ok 1 numa # ") + counted(1), 0, "no result of exit"),
        (shown("exit", "ok 1 exit # "), 0, "before its totals"),
        (shown("exit", "ok 1 exit # ") + "RESULTS:\nPASSED:  1\n", 0, "before its totals"),
        (
            shown("exit", "ok 1 exit # ") + counted(failed=1),
            0,
            "says ok of exit, and counts 0 passed, 0 skipped, 1 failed",
        ),
        (shown("exit", "ok 1 exit # ") + counted(passed=1, skipped=1), 0, "counts 1 passed, 1 skipped"),
        (shown("exit", "ok 1 exit # SKIP ") + counted(passed=1), 0, "says skip of exit, and counts 1 passed"),
        (OK, 1, "says ok of exit, and ends with status 1"),
        (shown("exit", "not ok 1 exit # ") + counted(failed=1), 0, "says not ok of exit, and ends with status 0"),
        (shown("exit", "not ok 1 exit # ") + counted(failed=1), 139, "ends with status 139"),
    ],
)
def test_what_contradicts_itself_is_no_result(text: str, status: int, says: str) -> None:
    assert says in contradiction(parse(text), "exit", status)


def test_a_test_that_imitates_the_runner_is_seen() -> None:
    """Its own results within its output are its output, unless they are whole: then there are two tests."""
    (said,) = parse(shown("exit", "ok 1 exit # ", "ok 1 other # \n=====  END  =====\n")).tests
    assert (said.word, said.output) == (Word.OK, ("ok 1 other # ", END))
    two = parse(shown("exit", "ok 1 exit # ", shown("exit", "ok 1 exit # ")) + counted(1))
    assert contradiction(two, "exit", 0) == "exit alone was to run, and the runner tells of exit, exit"


LINE = st.sampled_from(
    [
        START,
        END,
        "TEST: a",
        "DESCRIPTION: d",
        "OUTPUT:",
        "ok 1 a # ",
        "ok 1 a # SKIP ",
        "not ok 1 a # ",
        "RESULTS:",
        "PASSED:  1",
    ]
) | st.text(max_size=12)


@given(st.lists(LINE))
def test_garbage_is_read_and_never_becomes_more_than_was_there(lines: list[str]) -> None:
    text = "\n".join(lines)
    report = parse(text)
    assert len(report.tests) <= text.count(START)
    assert sum(said.word is not None for said in report.tests) <= text.count(END)
    for said in report.tests:
        assert isinstance(said.reason, str)
    for status in (0, 1, 139):
        contradiction(report, "a", status)


OUTPUT = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20).filter(
    lambda line: line not in (START, END)
)
NAME = st.from_regex(r"[a-z_+*()]{1,12}", fullmatch=True)


@given(st.lists(st.tuples(NAME, st.sampled_from(Word), st.lists(OUTPUT, max_size=3)), min_size=1, max_size=5))
def test_what_the_runner_prints_comes_back(tests: list[tuple[str, Word, list[str]]]) -> None:
    text = ""
    for number, (name, word, output) in enumerate(tests, 1):
        line = f"{'ok' if word is Word.SKIP else word} {number} {name} # {'SKIP ' if word is Word.SKIP else ''}"
        text += shown(name, line, "".join(f"{one}\n" for one in output))
    words = [word for _, word, _ in tests]
    text += counted(words.count(Word.OK), words.count(Word.SKIP), words.count(Word.NOT_OK))
    report = parse(text)
    assert report.tests == tuple(Said(name, word, tuple(output)) for name, word, output in tests)
    assert report.totals == {key: words.count(Word(word)) for key, word in NAMES.items()}
    if len(tests) == 1:
        assert contradiction(report, tests[0][0], int(words[0] is Word.NOT_OK)) == ""


@given(st.sampled_from([OK, SKIPPED, NOT_OK, NESTED]), st.integers(0, 400))
def test_cut_off_anywhere_it_is_no_other_result(text: str, at: int) -> None:
    """A runner that died is never taken for one that ended: its totals come last."""
    whole, name = parse(text), parse(text).tests[0].name
    for status in (0, 1, 137):
        if contradiction(parse(text[:at]), name, status) == "":
            assert parse(text[:at]).tests == whole.tests
            assert parse(text[:at]).totals == whole.totals


def test_an_empty_report() -> None:
    assert parse("") == Report()
