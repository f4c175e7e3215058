# SPDX-License-Identifier: GPL-2.0-only
"""The tests of reading /dev/kmsg and consoles."""

from __future__ import annotations

from harness.core.records import LogRecord
from harness.oracles.splat.log import gaps, parse_console, parse_kmsg


def test_kmsg_record() -> None:
    text = "30,340,5690716,-,caller=T91;caf\\xc3\\xa9 a\\x5cb\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n"
    assert parse_kmsg(text) == [LogRecord("café a\\b", seq=340, time=5.690716, caller="T91", level=6)]


def test_kmsg_of_several_lines_and_unknown_fields() -> None:
    one, two = parse_kmsg("5,7,1000000,-,caller=C1,new=1;first\\x0asecond\n")
    assert (one.text, two.text, one.seq, two.seq, two.caller) == ("first", "second", 7, 7, "C1")
    (bare,) = parse_kmsg("4,8,1,-;no caller")
    assert bare.caller == ""


def test_cut_off_fragment_is_joined_and_still_counts_as_seen() -> None:
    log = parse_kmsg("4,1,1,-,caller=T1;Call \n4,2,2,-,caller=C0;other\n4,3,3,c,caller=T1;Trace:\n")
    assert [r.text for r in log] == ["Call Trace:", "other", ""]
    assert gaps(log, 1) == 0


def test_fragment_that_follows_directly_is_a_line_of_its_own() -> None:
    log = parse_kmsg("4,1,1,-,caller=T1;x is trying to acquire lock:\n4,2,2,c,caller=T1;ffff (&a)\n")
    assert [r.text for r in log] == ["x is trying to acquire lock:", "ffff (&a)"]


def test_kmsg_garbage_is_kept() -> None:
    assert [r.text for r in parse_kmsg("4,1,1,-;ok\n,,,;\n4,2,2")] == ["ok", ",,,;", "4,2,2"]


def test_gaps() -> None:
    log = parse_kmsg("4,5,1,-;a\n4,6,1,-;b\n4,9,1,-;c\n")
    assert [gaps(log, first) for first in (5, 6, 3, 9, 10)] == [2, 2, 4, 0, 0]
    assert gaps([], 5) == 0


def test_console_forms() -> None:
    log = parse_console(
        "[    1.234567][    T1] both\r\n[   12.000000] time only\n[  T123] caller only\nplain\n"
        "prompt# [    2.000000][    C0] shared line\n<4>[    3.000000] level\n\x1b[1;31m[    4.000000] red\x1b[0m"
    )
    assert [(r.text, r.time, r.caller) for r in log] == [
        ("both", 1.234567, "T1"),
        ("time only", 12.0, ""),
        ("caller only", None, "T123"),
        ("plain", None, ""),
        ("prompt# ", None, ""),
        ("shared line", 2.0, "C0"),
        ("level", 3.0, ""),
        ("red", 4.0, ""),
    ]
