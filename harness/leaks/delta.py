# SPDX-License-Identifier: GPL-2.0-only
"""Delta debugging with an unreliable oracle: parts of a list are probed, until one is left that shows a leak alone.

Pure. The oracle may miss a leak: a negative answer proves nothing, so nothing is concluded from it alone, and what is
left at the end has always been seen to show the leak.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Spent(Exception):
    """No further part may be probed."""


class Probe(Generic[T]):
    """Probes parts for what they show, each part once and at most `most` of them, until it is `over`."""

    def __init__(
        self, look: Callable[[tuple[T, ...]], frozenset[str]], most: int, over: Callable[[], bool] = lambda: False
    ) -> None:
        self._look = look
        self._most = most
        self._over = over
        self._seen: dict[frozenset[T], frozenset[str]] = {}

    def seen(self, part: Sequence[T]) -> frozenset[str]:
        """What the part shows. Raises Spent if that is not known and no further part may be probed."""
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
        """Whether the part showed it; None if it was not probed."""
        seen = self._seen.get(frozenset(part))
        return None if seen is None else what in seen

    def smallest(self, what: str, items: Sequence[T]) -> tuple[T, ...]:
        """The smallest part of `items` that showed it; all of them if none did."""
        parts = [part for part, seen in self._seen.items() if part and what in seen and part <= frozenset(items)]
        least = min(parts, key=len, default=frozenset(items))
        return tuple(item for item in items if item in least)


@dataclass(frozen=True)
class Narrowed(Generic[T]):
    """The items that are left. Not `finished`: there were more parts to probe. Finished with several left: none of the
    probed parts showed it without the others, because it takes several or because it was not seen."""

    left: tuple[T, ...]
    finished: bool


Guess = Callable[[], Iterable[Sequence[T]]]
"""Parts to probe first, as far as they are known by then."""


def narrow(items: Sequence[T], what: str, probe: Probe[T], guess: Guess[T] = tuple) -> Narrowed[T]:
    """The smallest part of `items`, which together showed it, that was found to show it too.

    Guessed parts are probed first, then halves; where neither half shows it, quarters, and the items without each of
    them, and so on: smaller parts are another chance to see it, and larger ones may contain all that it takes.
    """
    left = tuple(items)
    try:
        left = probe.smallest(what, left)
        chunks = 2
        while len(left) > 1:
            parts = itertools.chain(guess(), _parts(left, chunks))
            smaller = next((part for part in parts if set(part) < set(left) and probe.shows(what, part)), None)
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
    """So many chunks, and, unless these are halves, the items without each of them."""
    edges = [len(items) * number // chunks for number in range(chunks + 1)]
    spans = list(itertools.pairwise(edges))
    yield from (items[start:end] for start, end in spans)
    if chunks > 2:
        yield from (items[:start] + items[end:] for start, end in spans)


def groups(items: Sequence[T], what: str, probe: Probe[T], guess: Guess[T] = tuple) -> Iterator[Narrowed[T]]:
    """Parts that each show it by themselves, one after the other, until what is left over does not.

    Ends too when no further part may be probed.
    """
    rest = tuple(items)
    while rest:
        found = narrow(rest, what, probe, guess)
        yield found
        rest = tuple(item for item in rest if item not in found.left)
        try:
            if not found.finished or not rest or not probe.shows(what, rest):
                return
        except Spent:
            return


@dataclass(frozen=True)
class Reached:
    """The first `fewest` items showed it; the first `spared` did not, one less than `fewest` if `finished`."""

    fewest: int
    spared: int
    finished: bool


def earliest(count: int, what: str, probe: Probe[int], guess: Iterable[int] = ()) -> Reached:
    """How many of `count` items, which together showed it, must be done, from the first on, for it to show.

    The first n items are probed as range(n). The numbers of `guess` are probed first.
    """
    spared, fewest = 0, count
    try:
        guesses = iter(guess)
        while fewest - spared > 1:
            at = next((number for number in guesses if spared < number < fewest), (spared + fewest) // 2)
            if probe.shows(what, range(at)):
                fewest = at
            else:
                spared = at
    except Spent:
        return Reached(fewest, spared, False)
    return Reached(fewest, spared, True)
