# SPDX-License-Identifier: GPL-2.0-only
"""Logs made of golden ones: noise around them, two CPUs' at once, their beginnings, and seeded damage."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.records import LogRecord
from harness.oracles.splat.log import parse_console, parse_kmsg

GOLDEN = Path(__file__).parent / "golden"
NAMES = tuple(sorted(p.parent.name for p in GOLDEN.glob("*/expected.json")))
CLEAN = tuple(name for name in NAMES if name.startswith("clean"))
OTHER_CPU = 5000
"""Added to the number of a caller id so that a second log's callers are others."""

_NUMBERS = re.compile(r"(\b(?:CPU#|CPUs? |CPU(?=\d+: W)|cpu |(?<=CPU#\d: )\w+/))(\d+)")


@dataclass(frozen=True)
class NamedReport:
    """What is wanted of a finding. `function` is empty where none is to be blamed."""

    kind: str
    function: str


def records(name: str) -> list[LogRecord]:
    """The records of a golden log."""
    kmsg = GOLDEN / name / "kmsg.txt"
    if kmsg.exists():
        return parse_kmsg(kmsg.read_text())
    return parse_console((GOLDEN / name / "console.txt").read_text())


def wanted(name: str) -> list[NamedReport]:
    """The findings that a golden log must give."""
    found = json.loads((GOLDEN / name / "expected.json").read_text())
    return [NamedReport(item["kind"], item["function"] or "") for item in found]


def lines(name: str, shift: int = 0) -> list[str]:
    """A golden log's kernel lines as a console shows them; with a `shift` those of other tasks and CPUs.

    It is added to the numbers of the caller ids, and of the tasks and CPUs in WARNINGs, stalls and NMI backtraces.
    """

    def caller(record: LogRecord) -> str:
        return f"{record.caller[0]}{int(record.caller[1:]) + shift}" if record.caller else ""

    def text(record: LogRecord) -> str:
        return _NUMBERS.sub(lambda match: f"{match[1]}{int(match[2]) + shift}", record.text)

    return [f"[{r.time:12.6f}][{caller(r):>6}] {text(r)}" for r in records(name) if r.time is not None]


def noisy(report: Sequence[str], noise: Sequence[str]) -> list[str]:
    """A report with a line of noise, of a caller of its own, before, between and behind each two of its lines."""
    quiet = [re.sub(r"\]\[ *[TC]\d+\]", "][ T9999]", line) for line in noise]
    out = [*noise]
    for number, line in enumerate(report):
        out += [quiet[number % len(quiet)], line]
    return [*out, *noise]


def at_once(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Two reports, line by line in turn: what two CPUs print at the same time."""
    longest = max(len(first), len(second))
    return [report[n] for n in range(longest) for report in (first, second) if n < len(report)]


def mentions(text: str, function: str) -> bool:
    """Whether a line names a function as a frame does, whatever suffix the compiler gave it."""
    tag = "bpf_prog_(?:[0-9a-f]{16}_?)?"
    name = re.escape(function).replace("bpf_prog_", tag, 1) if function.startswith("bpf_prog_") else re.escape(function)
    return re.search(rf"(?<![\w.]){name}(?:\.[\w.]+)?\+0x[0-9a-f]+/0x[0-9a-f]+", text) is not None


# --- damage -------------------------------------------------------------------------------


class Fuzz:
    """Damaged golden logs, the same ones for the same seed: 1 to 4 kinds of damage each, at most `longest` bytes."""

    def __init__(self, seed: int, longest: int = 16_000) -> None:
        self._random = random.Random(seed)
        self._longest = longest
        texts = [
            (GOLDEN / n / f).read_bytes()
            for n in NAMES
            for f in ("kmsg.txt", "console.txt")
            if (GOLDEN / n / f).exists()
        ]
        self._golden = texts
        self._damage = (
            self._drop,
            self._flip,
            self._shuffle,
            self._splice,
            self._cut,
            self._both,
            self._repeat,
            self._long,
        )

    def logs(self, count: int) -> Iterator[bytes]:
        """So many of them."""
        for _ in range(count):
            data = self._random.choice(self._golden)
            for damage in self._random.sample(self._damage, self._random.randint(1, 4)):
                data = damage(data)
            yield data[: self._longest]

    def _place(self, data: bytes) -> int:
        return self._random.randrange(len(data) + 1)

    def _drop(self, data: bytes) -> bytes:
        """Bytes lost in many places."""
        rate = self._random.choice((0.001, 0.01, 0.1))
        return bytes(byte for byte in data if self._random.random() > rate)

    def _flip(self, data: bytes) -> bytes:
        """Bytes changed, to others and to such as end lines, colours and strings."""
        out = bytearray(data)
        for _ in range(self._random.randint(1, 40) if out else 0):
            out[self._random.randrange(len(out))] = self._random.choice(
                (0, 10, 13, 27, 91, 255, self._random.randrange(256))
            )
        return bytes(out)

    def _shuffle(self, data: bytes) -> bytes:
        """Lines in another order."""
        parts = data.split(b"\n")
        self._random.shuffle(parts)
        return b"\n".join(parts)

    def _splice(self, data: bytes) -> bytes:
        """A piece of another log in the middle of this one, in the middle of a line."""
        other, at = self._random.choice(self._golden), self._place(data)
        start = self._place(other)
        return data[:at] + other[start : start + self._random.randint(1, 3000)] + data[at:]

    def _cut(self, data: bytes) -> bytes:
        """The beginning, the end or the middle is missing."""
        first, second = sorted((self._place(data), self._place(data)))
        return self._random.choice((data[:first], data[second:], data[first:second], data[:first] + data[second:]))

    def _both(self, data: bytes) -> bytes:
        """Two logs line by line, as from two CPUs, with and without different caller ids."""
        other = self._random.choice(self._golden)
        if self._random.random() < 0.5:
            other = re.sub(rb"([\[ =][TC])(\d)", rb"\g<1>7\2", other)
        mine, theirs = data.split(b"\n"), other.split(b"\n")
        merged: list[bytes] = []
        while mine or theirs:
            source = mine if mine and (not theirs or self._random.random() < 0.5) else theirs
            merged.append(source.pop(0))
        return b"\n".join(merged)

    def _repeat(self, data: bytes) -> bytes:
        """One line again and again: what a stuck CPU says."""
        parts = data.split(b"\n")
        at = self._random.randrange(len(parts))
        return b"\n".join([*parts[:at], *[parts[at]] * self._random.randint(2, 60), *parts[at:]])

    def _long(self, data: bytes) -> bytes:
        """One line that does not end, of letters that patterns are fond of."""
        at = self._place(data)
        return (
            data[:at]
            + self._random.choice((b"a", b" ", b"[", b"(", b"0", b"+0x", b"x: ")) * self._random.randint(1, 2000)
            + data[at:]
        )
