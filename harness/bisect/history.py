# SPDX-License-Identifier: GPL-2.0-only
"""The history that is searched: points (commits, patches, symbols) and which of them contain which. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Point:
    """One point of a history that can be tested: `id` identifies it, `title` is for the user.

    `parents` are those of its parents that are points too; the others are outside of the search.
    """

    id: str
    parents: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True)
class History:
    """The points that may have made the change, each after all of its parents; the last contains all the others."""

    points: tuple[Point, ...]

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The index of each point, by its id."""
        return {point.id: place for place, point in enumerate(self.points)}

    @cached_property
    def contained(self) -> tuple[int, ...]:
        """The points that each point contains, itself included: one bit for each."""
        masks: list[int] = []
        for place, point in enumerate(self.points):
            mask = 1 << place
            for parent in point.parents:
                mask |= masks[self.index[parent]]
            masks.append(mask)
        return tuple(masks)

    @property
    def all(self) -> int:
        """One bit for every point."""
        return (1 << len(self.points)) - 1

    def members(self, mask: int) -> Iterator[int]:
        """The places whose bits are set, lowest first."""
        while mask:
            low = mask & -mask
            yield low.bit_length() - 1
            mask ^= low


def line(titles: Sequence[tuple[str, str]]) -> History:
    """A history without merges from (id, title), oldest first."""
    points: list[Point] = []
    for id, title in titles:
        points.append(Point(id, (points[-1].id,) if points else (), title))
    return History(tuple(points))


def called(name: str, id: str) -> str:
    """An end as the user named it, with its id where the name differs."""
    return name.replace(id, id[:12]) if id in name else f"{name} ({id[:12]})"
