# SPDX-License-Identifier: GPL-2.0-only
"""What a patch claims: its new error branches, who handles them, who calls its new functions, and what showed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.coverage.branches import Counts
from harness.coverage.claims import Claim, Claims, Kind

FILE, OTHER = "kernel/part.c", "kernel/user.c"
TEXT = """\
static int make(struct part *p)
{
	p->data = kmalloc(8, GFP_KERNEL);
	if (!p->data)
		return -ENOMEM;
	return 0;
}

static void drop(struct part *p)
{
	kfree(p->data);
}

static struct part *whole(void)
{
	struct part *p = take();

	if (!p)
		return NULL;
	if (make(p)) {
		give(p);
		return NULL;
	}
	return p;
}

static void careless(struct part *p)
{
	make(p);
	drop(p);
}
"""
USER = """\
struct part *opened(void)
{
	struct part *p = whole();

	if (!p)
		return ERR_PTR(-ENOMEM);
	return p;
}

static int __init early(void)
{
	return make(NULL);
}
"""
COUNTED = {
    FILE: Counts({3: 9, 4: 9, 5: 2, 6: 7, 11: 4, 16: 6, 18: 6, 19: 0, 20: 6, 21: 1, 22: 1, 24: 5, 29: 3, 30: 3}),
    OTHER: Counts({3: 5, 5: 5, 6: 0, 7: 5, 12: 1}),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "kernel").mkdir()
    (tmp_path / FILE).write_text(TEXT)
    (tmp_path / OTHER).write_text(USER)
    return tmp_path


def told(tree: Path, added: dict[str, tuple[int, ...]], **tests: dict[int, int]) -> dict[str, Claim]:
    claims = Claims(tree, added, COUNTED)
    for name, lines in tests.items():
        claims.count(name, {FILE: Counts(lines)})
    return {claim.sentence: claim for claim in claims.judged()}


def test_a_new_error_branch_and_each_caller_that_handles_it(tree: Path) -> None:
    found = told(tree, {FILE: (4, 5)}, one={4: 5, 5: 2, 20: 3, 21: 1}, two={4: 3, 5: 0, 20: 3, 21: 0})
    assert list(found) == [
        "make() may fail",
        "whole() handles a failure of make()",
        "careless() handles a failure of make()",
    ]
    fails = found["make() may fail"]
    assert (fails.line, fails.text, fails.times, fails.named) == (4, "if (!p->data) return -ENOMEM;", 2, ("one",))
    handled = found["whole() handles a failure of make()"]
    assert (handled.line, handled.times, handled.tests, handled.named) == (20, 1, 1, ("one",))
    careless = found["careless() handles a failure of make()"]
    assert (careless.times, careless.why) == (0, "its answer is not looked at")


def test_a_caller_during_boot_is_none_that_a_test_can_see(tree: Path) -> None:
    assert not any("early" in sentence for sentence in told(tree, {FILE: (5,)}))


def test_a_branch_that_handles_the_patch_s_own_failure_is_told_once(tree: Path) -> None:
    found = told(tree, {FILE: (4, 5, 20, 21, 22)})
    assert "whole() may fail" not in found, "it is told as that whole() handles make()"


def test_callers_are_found_in_other_files_of_the_object(tree: Path) -> None:
    found = told(tree, {FILE: (18, 19)})
    assert found["whole() may fail"].times == 0
    opened = found["opened() handles a failure of whole()"]
    assert (opened.kind, opened.file, opened.line, opened.times, opened.why) == (Kind.HANDLED, OTHER, 3, 0, "")


def test_a_pointer_that_is_there_is_no_failure(tree: Path) -> None:
    (tree / OTHER).write_text(USER.replace("if (!p)", "if (p)"))
    assert told(tree, {FILE: (18,)})["opened() handles a failure of whole()"].times == 5, "5 calls, and never p"


def test_a_new_function_is_called_where_it_says(tree: Path) -> None:
    found = told(tree, {FILE: (9, 10, 11, 12)}, one={30: 2})
    assert list(found) == ["careless() calls drop()"]
    claim = found["careless() calls drop()"]
    assert (claim.kind, claim.line, claim.text, claim.times, claim.named) == (Kind.CALLED, 30, "drop(p);", 3, ("one",))


def test_a_patch_that_adds_no_code_claims_nothing(tree: Path) -> None:
    assert told(tree, {"Documentation/a.rst": (1,)}) == {}
    assert told(tree, {FILE: ()}) == {}
