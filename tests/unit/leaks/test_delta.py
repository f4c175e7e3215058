# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the search for what shows a thing: found where one can see, never the wrong one where one is half blind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from harness.leaks.delta import Narrowed, Probe, earliest, groups, narrow

WHAT = "leak"
SIZES = st.integers(1, 40)


class Oracle:
    """Says whether a part shows it, and counts how often it was asked; blind with a chance of 1 - `seeing`."""

    def __init__(self, guilty: Callable[[frozenset[int]], bool], seeing: float = 1.0, seed: int = 0) -> None:
        self._guilty = guilty
        self._seeing = seeing
        self._random = random.Random(seed)
        self.shown: list[frozenset[int]] = []
        self.probed = 0

    def look(self, part: tuple[int, ...]) -> frozenset[str]:
        self.probed += 1
        assert len(set(part)) == len(part)
        if not self._guilty(frozenset(part)) or self._random.random() > self._seeing:
            return frozenset({"another"})
        self.shown.append(frozenset(part))
        return frozenset({WHAT, "another"})


def any_of(*guilty: int) -> Callable[[frozenset[int]], bool]:
    return lambda part: bool(part & set(guilty))


def check(found: Narrowed[int], oracle: Oracle, count: int) -> None:
    """What is left showed it by itself, or is all that there was."""
    assert found.left
    assert frozenset(found.left) in oracle.shown or found.left == tuple(range(count))


@given(SIZES, st.data())
def test_the_guilty_one_is_found_in_two_steps_for_each_halving(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    oracle = Oracle(any_of(guilty))
    found = narrow(range(count), WHAT, Probe(oracle.look, 100))
    assert found == Narrowed((guilty,), True)
    assert oracle.probed <= 2 * math.ceil(math.log2(count))


@given(SIZES, st.data())
def test_a_right_guess_takes_one_step(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    oracle = Oracle(any_of(guilty))
    assert narrow(range(count), WHAT, Probe(oracle.look, 100), lambda: [[guilty]]) == Narrowed((guilty,), True)
    assert oracle.probed <= 1


@given(SIZES, st.data())
def test_a_wrong_guess_misleads_nobody(count: int, data: st.DataObject) -> None:
    """Guesses may name others, too many, or what is not there."""
    guilty = data.draw(st.integers(0, count - 1))
    guess = data.draw(st.lists(st.lists(st.integers(-3, count + 3), unique=True), max_size=5))
    assert narrow(range(count), WHAT, Probe(Oracle(any_of(guilty)).look, 100), lambda: guess).left == (guilty,)


@given(SIZES, st.data())
def test_each_of_several_guilty_is_found(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=5))
    oracle = Oracle(any_of(*guilty))
    found = list(groups(range(count), WHAT, Probe(oracle.look, 1000)))
    assert {one.left[0] for one in found} == guilty
    assert all(one.finished and len(one.left) == 1 for one in found)
    assert len(found) == len(guilty)


@given(st.integers(1, 16), st.data())
def test_guilty_only_together_are_found_together(count: int, data: st.DataObject) -> None:
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3))
    oracle = Oracle(lambda part: needed <= part)
    found = narrow(range(count), WHAT, Probe(oracle.look, 100_000))
    assert found == Narrowed(tuple(sorted(needed)), True)


@given(SIZES, st.data(), st.floats(0.05, 1.0), st.integers(0, 60), st.integers(0, 1 << 16))
def test_half_blind_it_ends_and_blames_nobody_else(
    count: int, data: st.DataObject, seeing: float, most: int, seed: int
) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3))
    oracle = Oracle(any_of(*guilty), seeing, seed)
    probe = Probe(oracle.look, most)
    for found in groups(range(count), WHAT, probe):
        assert found.left
        if frozenset(found.left) not in oracle.shown:  # the rest of what the batch showed: nothing is concluded
            assert set(found.left) & guilty
        if len(found.left) == 1:
            assert found.left[0] in guilty
    assert oracle.probed <= most


@given(SIZES, st.integers(0, 30))
def test_nothing_is_seen_again(count: int, most: int) -> None:
    """It showed once and never more: all are left, and no more parts were asked than allowed."""
    oracle = Oracle(lambda part: False)
    found = narrow(range(count), WHAT, Probe(oracle.look, most))
    assert found.left == tuple(range(count))
    assert oracle.probed <= most


def test_when_time_is_over_what_is_known_is_left() -> None:
    oracle = Oracle(any_of(3))
    found = narrow(range(8), WHAT, Probe(oracle.look, 100, lambda: oracle.probed == 2))
    assert (found.left, found.finished) == ((0, 1, 2, 3), False)
    check(found, oracle, 8)


def test_a_part_is_asked_once_for_all_that_it_may_show() -> None:
    """A second search begins where the first one ended."""
    oracle = Oracle(any_of(5))
    probe = Probe(oracle.look, 100)
    assert narrow(range(9), WHAT, probe).left == (5,)
    before = oracle.probed
    assert narrow(range(9), WHAT, probe).left == (5,)
    assert oracle.probed == before
    assert probe.known(WHAT, [5]) is True
    assert probe.known(WHAT, [4, 5, 6]) is None


@given(st.integers(1, 60), st.data())
def test_the_earliest_operation_is_found(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    guess = data.draw(st.lists(st.integers(-3, count + 3), max_size=3))
    oracle = Oracle(any_of(guilty))
    reached = earliest(count, WHAT, Probe(oracle.look, 100), guess)
    assert (reached.fewest, reached.spared, reached.finished) == (guilty + 1, guilty, True)
    assert oracle.probed <= len(guess) + math.ceil(math.log2(count))


@given(st.integers(2, 60), st.data(), st.floats(0.05, 1.0), st.integers(0, 20), st.integers(0, 1 << 16))
def test_half_blind_what_is_done_did_show_it(
    count: int, data: st.DataObject, seeing: float, most: int, seed: int
) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    oracle = Oracle(any_of(guilty), seeing, seed)
    reached = earliest(count, WHAT, Probe(oracle.look, most))
    assert guilty < reached.fewest <= count
    assert reached.fewest == count or frozenset(range(reached.fewest)) in oracle.shown
    assert oracle.probed <= most


def parts(found: Sequence[Narrowed[int]]) -> list[tuple[int, ...]]:
    return [one.left for one in found]


def test_the_rest_is_asked_before_it_is_searched() -> None:
    oracle = Oracle(any_of(0))
    probe = Probe(oracle.look, 100)
    assert parts(list(groups(range(4), WHAT, probe))) == [(0,)]
    assert probe.known(WHAT, [1, 2, 3]) is False
