# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the lines of a mail: whatever text comes, they are narrow, printable, and no trailers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.printable import clean
from harness.report.columns import WIDTH, Line, entries, entry, prose, quoted, render, whole

# LoreMessage.find_trailers() of b4: what it would look at in a reply.
TRAILER = re.compile(r"^\s*([\w-]*-by|fixes|closes|cc|link):\s+\S", re.IGNORECASE)
HOSTILE = st.text(st.one_of(st.characters(), st.sampled_from(" \n\t\x1b:#/-[]")), max_size=400)


def test_a_sentence_is_wrapped_and_its_label_stands_once() -> None:
    lines = entry("tests", "word " * 30)
    assert [line.text[:10] for line in lines] == ["tests     ", " " * 10, " " * 10]
    assert all(len(line.text) <= WIDTH and not line.whole for line in lines)
    assert [line.text for line in entries("a", ["b", "c"])] == ["a         b", "          c"]


def test_names_of_tests_are_kept_together_and_said_to_be_wide() -> None:
    name = "tests/kernel/sched_ext/test_percpu_faults.py::test_attach_by_fail_function_twice"
    assert Line("  " + name, whole=True) in prose(f"skipped: {name}", "", "  ")


def test_other_long_words_are_broken() -> None:
    lines = prose("A" * 500)
    assert all(len(line.text) <= WIDTH for line in lines)
    assert "".join(line.text for line in lines) == "A" * 500


@pytest.mark.parametrize("name", ["Reviewed-by", "Tested-by", "Fixes", "Closes", "Cc", "signed-off-by"])
def test_what_a_guest_prints_is_no_trailer(name: str) -> None:
    text = f"{name}: Some Body <some@body.org>"
    padded = "x" * 60 + " " + text  # the line is broken just before it
    for line in (*prose(text), *prose(padded), whole(text), quoted(text), *prose(text, "  ")):
        assert not TRAILER.match(line.text)


@given(HOSTILE, st.sampled_from(["", "  ", " " * 10]))
def test_no_text_makes_a_wide_line_or_a_control_character(text: str, indent: str) -> None:
    for line in (*prose(text, indent), *entry("label", text), whole(text), quoted(text)):
        assert line.whole or len(line.text) <= WIDTH
        assert "\n" not in line.text and line.text.isprintable()
        assert clean(line.text) == line.text
        assert not TRAILER.match(line.text)


@given(HOSTILE)
def test_no_text_begins_in_the_first_column_of_what_is_kept_whole(text: str) -> None:
    """Where "diff --git" and "From " mean something."""
    assert whole(text).text.startswith("  ") and quoted(text).text.startswith("  | ")


def test_lines_end_without_blanks() -> None:
    assert render([Line("a  "), Line("")]) == "a\n\n"
