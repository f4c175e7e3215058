# SPDX-License-Identifier: GPL-2.0-only
"""Tests of what a run under a fault comes to: the agent's numbers in words, and which of them are the kernel's failure."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.faults.endings import (
    ENDED_BASE,
    ENOMEM,
    HANG,
    LEFT_PERCPU,
    LEFT_SLAB,
    NOT_DONE,
    Allowed,
    Ending,
    allowed_words,
    ended_with,
    outcome,
    problem,
    words,
)
from harness.faults.sites import WORST

SITE = 0x1234
EXIST = -errno.EEXIST
ATTACH = Allowed(0, frozenset({ENOMEM, ended_with(ENOMEM)}))
DUPLICATE = Allowed(EXIST)
FAILING_INIT = Allowed(ended_with(-errno.EINVAL), frozenset({ENOMEM, ended_with(ENOMEM)}))
DETACH = Allowed(0, frozenset())

answers = st.one_of(st.integers(-133, 1), st.integers(-133, 0).map(ended_with))


def ended(answer: int, flags: int = 0, site: int = SITE) -> Ending:
    return Ending(site, answer, flags, 1, 1)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (0, "0"),
        (ENOMEM, "-ENOMEM"),
        (EXIST, "-EEXIST"),
        (7, "7"),
        (-524, "-524"),  # ENOTSUPP: the kernel's own
        (HANG, "no end"),
        (ENDED_BASE + ENOMEM, "exit -ENOMEM"),
        (ENDED_BASE - 524, "exit -524"),
        (ENDED_BASE, "exit 0"),
        (ENDED_BASE + HANG, "exit -ETIMEDOUT"),
    ],
)
def test_words(answer: int, shown: str) -> None:
    assert words(answer) == shown


@given(answers, answers)
def test_two_answers_never_have_the_same_words(first: int, second: int) -> None:
    assert (words(first) == words(second)) is (first == second)


@pytest.mark.parametrize(
    ("answer", "flags", "allowed", "how"),
    [
        (ENOMEM, 0, ATTACH, "handled"),
        (ended_with(ENOMEM), 0, ATTACH, "handled"),
        (0, 0, ATTACH, "absorbed"),
        (-errno.EINVAL, 0, ATTACH, "wrong errno"),
        (ended_with(-errno.EINVAL), 0, ATTACH, "wrong errno"),
        (EXIST, 0, DUPLICATE, "absorbed"),
        (ENOMEM, 0, DUPLICATE, "handled"),
        (0, 0, DUPLICATE, "wrong errno"),
        (ended_with(-errno.EINVAL), 0, FAILING_INIT, "absorbed"),
        (0, 0, FAILING_INIT, "wrong errno"),
        (ENOMEM, 0, DETACH, "wrong errno"),
        (0, NOT_DONE, ATTACH, "wrong errno"),
        (ENOMEM, LEFT_PERCPU, ATTACH, "leaked"),
        (ENOMEM, LEFT_SLAB, ATTACH, "leaked"),
        (-errno.EINVAL, LEFT_SLAB, ATTACH, "leaked"),
        (HANG, 0, ATTACH, "hang"),
        (HANG, LEFT_SLAB, ATTACH, "hang"),
    ],
)
def test_outcome(answer: int, flags: int, allowed: Allowed, how: str) -> None:
    assert outcome(ended(answer, flags), allowed) == how


@given(answers, st.integers(0, 7), st.sampled_from([ATTACH, DUPLICATE, FAILING_INIT, DETACH]))
def test_each_ending_is_an_outcome_and_what_passes_has_no_problem(answer: int, flags: int, allowed: Allowed) -> None:
    ending = ended(answer, flags)
    how = outcome(ending, allowed)
    assert how in WORST
    if how in ("handled", "absorbed"):
        assert not problem("attach", ending, allowed)
    if how in ("hang", "wrong errno"):
        assert problem("attach", ending, allowed)


@pytest.mark.parametrize(
    ("ending", "allowed", "says"),
    [
        (
            ended(-errno.EINVAL),
            ATTACH,
            "attach answered -EINVAL under a fault, allowed is 0 or -ENOMEM or exit -ENOMEM",
        ),
        (ended(ENOMEM, site=0), ATTACH, "attach answered -ENOMEM although no fault was injected, allowed is 0"),
        (
            ended(ended_with(ENOMEM), site=0),
            ATTACH,
            "attach answered exit -ENOMEM although no fault was injected, allowed is 0",
        ),
        (ended(0, site=0), DUPLICATE, "attach answered 0 although no fault was injected, allowed is -EEXIST"),
        (ended(0), DUPLICATE, "attach answered 0 under a fault, allowed is -EEXIST or -ENOMEM"),
        (ended(ENOMEM), DETACH, "attach answered -ENOMEM under a fault, allowed is 0"),
        (ended(HANG), ATTACH, "attach came to no end under a fault"),
        (ended(HANG, site=0), ATTACH, "attach came to no end although no fault was injected"),
        (ended(0, NOT_DONE), ATTACH, "attach answered 0 under a fault, but what it says it did is not there"),
        (
            ended(0, NOT_DONE, 0),
            ATTACH,
            "attach answered 0 although no fault was injected, but what it says it did is not there",
        ),
        (ended(ENOMEM, LEFT_SLAB), ATTACH, ""),
        (ended(EXIST), DUPLICATE, ""),
        (ended(EXIST, site=0), DUPLICATE, ""),
    ],
)
def test_problem(ending: Ending, allowed: Allowed, says: str) -> None:
    assert problem("attach", ending, allowed) == says


@given(answers, st.sampled_from([ATTACH, DUPLICATE, FAILING_INIT, DETACH]))
def test_an_error_is_allowed_only_where_a_fault_was_injected(answer: int, allowed: Allowed) -> None:
    without = problem("attach", ended(answer, site=0), allowed)
    assert bool(without) is (answer != allowed.fine)


def test_allowed_words_tell_an_answer_once_and_errors_only_under_a_fault() -> None:
    assert allowed_words(ATTACH, fault=True) == "0 or -ENOMEM or exit -ENOMEM"
    assert allowed_words(ATTACH, fault=False) == "0"
    assert allowed_words(Allowed(ENOMEM), fault=True) == "-ENOMEM"


def test_by_default_an_operation_succeeds_or_has_no_memory() -> None:
    assert allowed_words(Allowed(), fault=True) == "0 or -ENOMEM"
