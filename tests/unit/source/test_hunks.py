# SPDX-License-Identifier: GPL-2.0-only
"""Tests of hunks that lost white space: what is read of them, and what is not whole."""

from __future__ import annotations

from harness.source.hunks import page_text, read, squeezed

HEADER = "--- a/kernel/a.c\n+++ b/kernel/a.c\n"


def lines(body: str) -> tuple[tuple[tuple[str, str], ...], bool]:
    (file,) = read(HEADER + body)
    return file.hunks[0].lines, file.hunks[0].whole


def test_context_without_its_blank() -> None:
    assert lines("@@ -1,3 +1,3 @@ f\nint a;\n-int b;\n+int c;\n\n-- \n2.47\n") == (
        ((" ", "int a;"), ("-", "int b;"), ("+", "int c;"), (" ", "")),
        True,
    )


def test_blank_lines_at_the_end_may_be_lost_others_not() -> None:
    assert lines("@@ -1,3 +1,3 @@\n-int b;\n+int c;\n")[1]
    assert not lines("@@ -1,9 +1,3 @@\n-int b;\n+int c;\n")[1]
    (file,) = read(HEADER + "@@ -1,2 +1,2 @@\n-a\n+b\n@@ -9,1 +9,1 @@\n-c\n+d\n")
    assert [hunk.whole for hunk in file.hunks] == [True, True] and file.hunks[0].side("+") == ["b", ""]


def test_a_context_line_that_begins_with_a_sign_is_told_by_the_counts() -> None:
    assert lines("@@ -1,2 +1,3 @@\nint a =\n- 1;\n+int b;\n")[0][1] == (" ", "- 1;")
    assert lines("@@ -1,3 +1,2 @@\nint a =\n- 1;\n+ 2;\n")[0][1:] == (("-", " 1;"), (" ", "+ 2;"))


def test_white_space_and_addresses_do_not_count() -> None:
    assert squeezed("\tif (a  &&\tb)") == "if(a&&b)"
    assert squeezed('MODULE_AUTHOR("A <a@example.org>")') == squeezed('MODULE_AUTHOR("A <a@xxxxxxxxxxx>")')


def test_a_page_has_lines_where_it_shows_them() -> None:
    page = b"<html><head><title>t</title><script>x</script></head><body><p>Hi\nyou</p><pre>a &lt;b\n\tc&nbsp;d</pre></body>"
    assert [row for row in page_text(page).split("\n") if row.strip()] == ["t", "Hi you", "a <b", "\tc d"]
