# SPDX-License-Identifier: GPL-2.0-only
"""What a benchmark prints: one row a figure, its goal, and how far it is from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One figure. `values` are the single measurements, in `unit`; the figure is their median.

    `goal` is in the same unit, None where there is none; a unit that ends in ``/s`` is better the higher.
    `note` carries ratios to other figures of the same run, which hold on a machine of another speed too.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None
    note: str = ""

    @property
    def figure(self) -> float:
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        """Measured against goal, above 1 is missed whichever way is better; None without a goal."""
        if self.goal is None:
            return None
        return self.goal / self.figure if self.unit.endswith("/s") else self.figure / self.goal

    def cells(self) -> tuple[str, ...]:
        """Name, figure, spread, goal, ratio, note: as text."""
        low, high = min(self.values), max(self.values)
        spread = f"{_number(low)} to {_number(high)} of {len(self.values)}" if len(self.values) > 1 else "once"
        goal = "" if self.goal is None else f"{'>=' if self.unit.endswith('/s') else '<='} {_number(self.goal)}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}" + (" MISSED" if self.ratio > 1 else "")
        return self.name, f"{_number(self.figure)} {self.unit}", spread, goal, ratio, self.note


HEADER = ("what", "median", "lowest to highest", "goal", "of goal", "in this run")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table with aligned columns, fit for docs/lab/benchmarks.md as it is."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]

    def line(parts: Sequence[str]) -> str:
        return "| " + " | ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *(line(parts) for parts in cells[1:])])
