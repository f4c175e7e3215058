# SPDX-License-Identifier: GPL-2.0-only
"""How many golden reports are found again in worse logs, by kind: ``python -m tests.unit.oracles.recall`` prints it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.oracles import dmesg
from harness.oracles.splat.log import parse_console
from tests.unit.oracles.logs import (
    CLEAN,
    GOLDEN,
    NAMES,
    OTHER_CPU,
    NamedReport,
    at_once,
    lines,
    mentions,
    noisy,
    wanted,
)

REPORTS = tuple(name for name in NAMES if wanted(name))
SINGLE = tuple(name for name in REPORTS if len(wanted(name)) == 1)
"""Logs of one report: where another follows, its beginning is the first one's end."""


STAMP = 23
"""So many letters of a line are its time and caller id (logs.lines())."""


@dataclass
class Recall:
    """How many reports of each kind were there, and found; `missed` says which were not, `invented` what nobody printed."""

    there: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)

    def book(self, want: Sequence[NamedReport], got: Sequence[NamedReport], what: str) -> None:
        left = list(got)
        for shown in want:
            self.there[shown.kind] += 1
            if shown in left:
                left.remove(shown)
                self.found[shown.kind] += 1
            else:
                self.missed.append(f"{what}: {shown} is not among {got}")
        self.invented += [f"{what}: {shown} is nowhere in it" for shown in left]

    def of(self, kind: str) -> float:
        """From 0 to 1."""
        return self.found[kind] / self.there[kind]


def findings(log: Sequence[str]) -> list[NamedReport]:
    """What the oracle says of console lines."""
    return [NamedReport(finding.kind, finding.function or "") for finding in dmesg.findings(parse_console(log))]


def in_noise() -> Recall:
    """Every golden log within two boots' lines."""
    recall = Recall()
    noise = [line for name in CLEAN for line in lines(name)]
    for name in REPORTS:
        recall.book(wanted(name), findings(noisy(lines(name), noise)), f"{name} in noise")
    return recall


def on_two_cpus(partners: int = 0, seed: int = 1) -> Recall:
    """Every golden log line by line in turn with others: with so many, drawn from the seed, or with each."""
    recall, chosen = Recall(), random.Random(seed)
    for first in REPORTS:
        for second in chosen.sample(REPORTS, partners) if partners else REPORTS:
            got = findings(at_once(lines(first), lines(second, OTHER_CPU)))
            want = wanted(first) + wanted(second)
            if first == second:  # the same report from two CPUs is one finding with a count
                want = wanted(first)
            recall.book(list(dict.fromkeys(want)), list(dict.fromkeys(got)), f"{first} and {second}")
    return recall


def begin(name: str) -> int:
    """The place of the line by which a report is known, from its title and not by the parser's rules."""
    (finding,) = json.loads((GOLDEN / name / "expected.json").read_text())
    title = re.split(r" \(|: \(|\)[:\]]| \[SCX|\]: ", finding["title"])[0][:40]
    by_title = re.compile(
        r"WARNING: |kernel BUG at"
        if finding["title"].startswith(("WARNING at", "WARNING in", "kernel BUG"))
        else re.escape(title)
    )
    return next(number for number, line in enumerate(lines(name)) if by_title.search(line))


def cuts(log: Sequence[str]) -> Iterator[list[str]]:
    """A log's beginnings: up to each line, and to a quarter, the middle and three quarters of the next one's text."""
    for number in range(len(log) + 1):
        yield list(log[:number])
        if number < len(log):
            text = len(log[number]) - STAMP
            yield from ([*log[:number], log[number][: STAMP + text * part // 4]] for part in (1, 2, 3))


def cut_short() -> Recall:
    """Every beginning of a golden log that has the first line whole; the function only where it was named by then."""
    recall = Recall()
    for name in SINGLE:
        (want,), whole, start = wanted(name), lines(name), begin(name)
        for part in cuts(whole):
            full = sum(a == b for a, b in zip(part, whole, strict=False))
            if full <= start:
                continue
            named = any(mentions(line, want.function) for line in part[start:full])
            got = findings(part)
            if not named:  # whatever is blamed then
                got = [NamedReport(shown.kind, want.function) for shown in got]
            recall.book([want], got, f"{name} up to line {full}, {part[-1]!r}")
    return recall


def main() -> None:
    """Prints a row a kind: how many were there and found, in noise, from two CPUs, cut short."""
    columns = (in_noise(), on_two_cpus(), cut_short())
    print("| kind | in noise | from two CPUs | cut short |\n|---|---|---|---|")
    for kind in sorted(columns[0].there):
        print(f"| {kind} | " + " | ".join(f"{c.found[kind]} of {c.there[kind]}" for c in columns) + " |")
    sums = [f"{c.found.total()} of {c.there.total()}" for c in columns]
    print(f"| all | {' | '.join(sums)} |")


if __name__ == "__main__":
    main()
