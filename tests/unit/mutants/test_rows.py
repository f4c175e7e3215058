# SPDX-License-Identifier: GPL-2.0-only
"""The tests of the table: what counts, how sure a sample is, and that a line which was cut off is no mutant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.mutants import rows
from harness.mutants.judge import Fate, Seen
from harness.mutants.operators import Mutant
from harness.mutants.rows import Row, Table

DIFF = "--- a/a.c\n+++ b/a.c\n@@ -1,1 +1,1 @@\n-x\n+y\n"
BREAK = Mutant("a" * 10, "drop-free", "a.c", "make", 7, "kfree() is not called", DIFF)
CAUGHT = Row(BREAK, Seen(Fate.CAUGHT, "t::test_x", "ledger", "slab leak", "make", right=True), 41.0, 3)


def other(number: int | str, fate: Fate) -> Row:
    return Row(replace(BREAK, id=f"{number}" * 10), Seen(fate), 41.0, 3)


LEFT = other("b", Fate.SURVIVED)


def test_the_sums_leave_out_what_was_not_run() -> None:
    apart = [other(number, fate) for number, fate in enumerate(Fate) if fate not in rows.RUN]
    table = Table("x86_64", "7.2", 7, (CAUGHT, LEFT, *apart))
    assert list(rows.summary(table)) == [
        "mutants   x86_64: 7 mutants, 7 tried",
        "caught    1 of 2 that were run: 50%",
        "blamed    1 of 1 that were caught name the broken function: 100%",
        "time      median 41 s a mutant with its build, the longest 41 s",
        "apart     1 change nothing that is built, 1 do not compile, 1 are in lines that no test executes, "
        "1 are equivalent, 1 could not be judged",
    ]


def test_a_sample_says_how_sure_it_is() -> None:
    text = "\n".join(rows.summary(Table("x86_64", "7.2", 40, (CAUGHT, LEFT))))
    assert "50% (a sample: of all it is between 9% and 91%, at 95%)" in text
    assert "38 mutants: the same command goes on" in text


def test_survivors_come_first_with_their_diffs() -> None:
    text = rows.render(Table("x86_64", "7.2", 2, (CAUGHT, LEFT)))
    assert text.index("SURVIVED  bbbbbbbbbb drop-free, make() a.c:7") < text.index("caught    aaaaaaaaaa drop-free")
    assert "          +y" in text
    assert "by ledger in t::test_x, 41 s: slab leak, blamed make()" in text


@pytest.mark.parametrize(("part", "whole"), [(0, 0), (0, 10), (5, 10), (10, 10)])
def test_an_interval_holds_its_share(part: int, whole: int) -> None:
    share, low, high = rows.share(part, whole)
    assert 0 <= low < high <= 1
    assert not whole or low - 1e-9 <= share <= high + 1e-9
