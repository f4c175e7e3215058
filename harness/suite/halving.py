# SPDX-License-Identifier: GPL-2.0-only
"""Owns the search for what shows a thing: parts of what was done are asked, until one is left that shows it by itself.

Pure. Who is asked may be blind now and then: that a part shows nothing acquits nobody, so nothing is concluded from it
alone, and what is left at the end has always been seen to show it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Spent(Exception):
    """No further part may be asked."""


class Asked(Generic[T]):
    """Asks parts what they show, each part once and at most `most` of them, until it is `over`."""

    def __init__(
        self, look: Callable[[tuple[T, ...]], frozenset[str]], most: int, over: Callable[[], bool] = lambda: False
    ) -> None:
        self._look = look
        self._most = most
        self._over = over
        self._seen: dict[frozenset[T], frozenset[str]] = {}

    def seen(self, part: Sequence[T]) -> frozenset[str]:
        """What the part shows. Raises Spent if that is not known and may not be asked any more."""
        key = frozenset(part)
        if key not in self._seen:
            if len(self._seen) >= self._most or self._over():
                raise Spent
            self._seen[key] = self._look(tuple(part))
        return self._seen[key]

    def shows(self, what: str, part: Sequence[T]) -> bool:
        """Whether the part shows it. Raises Spent as seen() does."""
        return what in self.seen(part)

    def known(self, what: str, part: Iterable[T]) -> bool | None:
        """Whether the part showed it; None if it was not asked."""
        seen = self._seen.get(frozenset(part))
        return None if seen is None else what in seen

    def smallest(self, what: str, items: Sequence[T]) -> tuple[T, ...]:
        """The smallest part of `items` that showed it; all of them if none did."""
        parts = [part for part, seen in self._seen.items() if part and what in seen and part <= frozenset(items)]
        least = min(parts, key=len, default=frozenset(items))
        return tuple(item for item in items if item in least)


@dataclass(frozen=True)
class Narrowed(Generic[T]):
    """What is left. Not `finished`: there were parts still to ask. Finished with several left: none of the parts that
    were asked showed it without the others, because it takes several or because it was not seen."""

    left: tuple[T, ...]
    finished: bool


Guess = Callable[[], Iterable[Sequence[T]]]
"""Parts to be asked first, as they are known by then."""


def narrow(items: Sequence[T], what: str, asked: Asked[T], guess: Guess[T] = tuple) -> Narrowed[T]:
    """The smallest part of `items`, which together showed it, that was found to show it too.

    Guessed parts are asked first. Then halves are; where neither half shows it, quarters, and what is left without each
    of them, and so on: smaller parts are another chance to see it, and larger ones may hold what it takes.
    """
    left = tuple(items)
    try:
        left = asked.smallest(what, left)
        chunks = 2
        while len(left) > 1:
            parts = itertools.chain(guess(), _parts(left, chunks))
            smaller = next((part for part in parts if set(part) < set(left) and asked.shows(what, part)), None)
            if smaller:
                left, chunks = tuple(smaller), 2
            elif chunks >= len(left):
                break
            else:
                chunks = min(2 * chunks, len(left))
    except Spent:
        return Narrowed(left, False)
    return Narrowed(left, True)


def _parts(items: tuple[T, ...], chunks: int) -> Iterator[tuple[T, ...]]:
    """So many chunks, and, where these are not halves, the items without each of them."""
    edges = [len(items) * number // chunks for number in range(chunks + 1)]
    spans = list(itertools.pairwise(edges))
    yield from (items[start:end] for start, end in spans)
    if chunks > 2:
        yield from (items[:start] + items[end:] for start, end in spans)


def groups(items: Sequence[T], what: str, asked: Asked[T], guess: Guess[T] = tuple) -> Iterator[Narrowed[T]]:
    """Parts that each show it by themselves, one after the other, until what is left over does not.

    Or may not be asked, which `asked` then knows.
    """
    rest = tuple(items)
    while rest:
        found = narrow(rest, what, asked, guess)
        yield found
        rest = tuple(item for item in rest if item not in found.left)
        try:
            if not found.finished or not rest or not asked.shows(what, rest):
                return
        except Spent:
            return


@dataclass(frozen=True)
class Reached:
    """The first `fewest` things showed it; the first `spared` did not, which is less by one unless not `finished`."""

    fewest: int
    spared: int
    finished: bool


def earliest(count: int, what: str, asked: Asked[int], guess: Iterable[int] = ()) -> Reached:
    """How many of `count` things, which all together showed it, must be done, from the first on, for it to show.

    What is asked are the first so many, as range(so many). The numbers that `guess` gives are asked first.
    """
    spared, fewest = 0, count
    try:
        guesses = iter(guess)
        while fewest - spared > 1:
            at = next((number for number in guesses if spared < number < fewest), (spared + fewest) // 2)
            if asked.shows(what, range(at)):
                fewest = at
            else:
                spared = at
    except Spent:
        return Reached(fewest, spared, False)
    return Reached(fewest, spared, True)
