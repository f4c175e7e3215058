# SPDX-License-Identifier: GPL-2.0-only
"""Cutting the kernel log into reports: a state machine for each caller id over the rules."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from harness.core.records import LogRecord
from harness.oracles.splat import bounds, rules
from harness.oracles.splat.frames import Raw, frame_line, pc_line
from harness.oracles.splat.rules import Rule

_PATIENCE = 12  # lines outside of a report after which it is over
_MESSAGE = 6  # lines between "cut here" and WARNING that can be the WARN's own message
_NAME = 120  # characters of a report's name for a further stack
_CPUS = 8192
_ASKS = re.compile(r"^Sending NMI from CPU \d+ to CPUs ([\d,-]{1,200}):")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_TASK = re.compile(r"CPU#\d+: .{1,40}/(\d{1,10})$|^WARNING: CPU: \d+ PID: (\d{1,10}) at ")


@dataclass
class Section:
    """One stack of a report. `main`: the defect's own. Others, as that of the object's freeing, have a `name`."""

    main: bool
    name: str = ""
    raws: list[Raw] = field(default_factory=list)
    traced: bool = False


@dataclass
class Splat:
    """One report of the log, from its header on."""

    rule: Rule
    header: re.Match[str]
    order: int
    message: str = ""
    detail: re.Match[str] | None = None
    place: re.Match[str] | None = None
    lines: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    known: int = 0
    strangers: int = 0
    waiting_main: bool = False

    @property
    def kind(self) -> str:
        return self.rule.kind

    def main(self) -> list[Raw]:
        """The frames of the defect itself: the first stack of its own that has any."""
        for section in self.sections:
            if section.main and any(r.frame.reliable for r in section.raws):
                return section.raws
        return next((s.raws for s in self.sections if s.main and s.raws), [])

    def early(self) -> list[Raw]:
        """Frames before the defect's own stack, if the report announces that: so a bad unlock names its place."""
        return self.sections[0].raws if self.rule.main is not None else []

    def further(self) -> list[Section]:
        """The named stacks, which are not the defect's own."""
        found = (s for s in self.sections if s.name and any(r.frame.reliable for r in s.raws))
        return list(itertools.islice(found, bounds.STACKS))

    def raws(self) -> list[Raw]:
        """All frames that a finding shows."""
        return [*self.main(), *self.early(), *(r for s in self.further() for r in s.raws)]

    def fatal(self) -> bool:
        """Whether a panic may be what the kernel does next: it is an oops or a stall."""
        return self.kind in rules.STALLS or any(map(rules.COUNTED.search, self.lines))

    def log(self) -> tuple[str, ...]:
        return tuple(self.lines[: self.known])


class _Log:
    """The reports of all callers."""

    def __init__(self) -> None:
        self.streams: dict[str, _Stream] = {}
        self.found: list[Splat] = []
        self.latest: Splat | None = None
        """The last one that is a finding of its own."""

    def stream(self, caller: str) -> _Stream:
        if caller not in self.streams:
            self.streams[caller] = _Stream(self)
        return self.streams[caller]

    def add(self, splat: Splat) -> None:
        self.found.append(splat)
        if splat.kind and splat.kind != "nmi":
            self.latest = splat


class _Stream:
    """The reports of one caller id, separated from the lines of other callers."""

    def __init__(self, log: _Log) -> None:
        self.log = log
        self.now: Splat | None = None
        self.cut: list[str] | None = None

    def feed(self, text: str, order: int) -> None:
        found = rules.begins(text)
        if found is not None and not self._continues(*found, text):
            self._open(*found, text, order)
            return
        if rules.CUT_HERE.match(text):
            self.cut = []
        elif self.cut is not None and found is None:
            self.cut = [*self.cut, text] if len(self.cut) < _MESSAGE else None
        if self.now is not None:
            self._add(self.now, text, known=found is not None)

    def _continues(self, rule: Rule, match: re.Match[str], text: str) -> bool:
        """Whether a header is only the next part of the open report."""
        now = self.now
        if rule.kind == "panic":
            last = now if now is not None and now.kind else self.log.latest
            if last is not None and self._announced(last, text):
                self.now = last
                return True
        if now is None:
            return False
        if rule.kind == "nmi":
            return now.kind in rules.STALLS
        if now.kind not in rule.follows:
            return False
        if rule.kind not in rules.STALLS and any(s.main and s.traced for s in now.sections):
            return False
        if rule.kind in ("warn", "bug") and now.place is None:
            now.place = match
        return True

    @staticmethod
    def _announced(last: Splat, text: str) -> bool:
        """Whether a panic is only the consequence of the last report."""
        return bool(rules.CONSEQUENCES.match(text)) or (rules.is_left_of_consequence(text) and last.fatal())

    def _open(self, rule: Rule, match: re.Match[str], text: str, order: int) -> None:
        named = any(match[g] for g in ("file", "func") if g in match.re.groupindex)
        place = match if named else None
        now = Splat(rule, match, order, place=place, waiting_main=rule.main is not None)
        if self.cut is None and rule.kind == "warn" and (task := _TASK.search(text)):
            # On riscv a trap has its CPU as caller id, the message before it the task's.
            other = self.log.streams.get(f"T{task[1] or task[2]}")
            if other is not None:
                self.cut, other.cut = other.cut, None
        if rule.kind in ("warn", "bug") and self.cut:
            now.message = " ".join(line.strip() for line in self.cut if line.strip())
            now.lines += self.cut
        self.cut = None
        now.lines.append(text)
        now.known = len(now.lines)
        now.sections.append(Section(main=rule.main is None))
        self.now = now
        self.log.add(now)

    def _add(self, now: Splat, text: str, *, known: bool) -> None:
        if len(now.lines) < bounds.LINES:
            now.lines.append(text)
        rule = now.rule
        if rules.END_TRACE.match(text) or (rule.end is not None and rule.end.match(text)):
            now.known = len(now.lines)
            self.now = None
            return
        mine = self._section(now, text) or self._frame(now, text) or self._detail(now, text)
        if mine or known or rules.PLAIN.match(text):
            now.known, now.strangers = len(now.lines), 0
            return
        now.strangers += 1
        if now.strangers > _PATIENCE or (now.rule.brief and any(s.traced for s in now.sections)):
            self.now = None

    @staticmethod
    def _section(now: Splat, text: str) -> bool:
        if now.waiting_main and now.rule.main is not None and now.rule.main.match(text):
            now.waiting_main = False
            now.sections.append(Section(main=True))
            return True
        if rules.AUXILIARY.match(text):
            name = text.strip().removeprefix(rules.OURS).removesuffix(":")[:_NAME]
            now.sections.append(Section(main=False, name=name))
            return True
        if now.waiting_main:
            return False
        last = now.sections[-1]
        if rules.TRACE_ENDS.match(text):
            if last.traced:
                now.sections.append(Section(main=last.main))
            now.sections[-1].traced = True
            return True
        if rules.SECTION.match(text):
            if last.raws or not last.main:
                # The grace-period kthread's own dump begins with its "task:" line: still not the culprit.
                own = last.main or last.raws or not text.startswith("task:")
                now.sections.append(Section(main=bool(own)))
            return True
        return False

    @staticmethod
    def _frame(now: Splat, text: str) -> bool:
        last = now.sections[-1]
        counter = pc_line(text)
        if counter is not None:
            if len(last.raws) < bounds.FRAMES:
                last.raws.append(counter)
            return True
        raw = frame_line(text)
        if raw is None:
            return False
        last.traced = True
        head = last.raws[-1].frame if len(last.raws) == 1 and last.raws[0].exact else None
        same = head is not None and (head.function, head.offset) == (raw.frame.function, raw.frame.offset)
        if not same and len(last.raws) < bounds.FRAMES:  # arm64 repeats the program counter as the first line
            last.raws.append(raw)
        return True

    @staticmethod
    def _detail(now: Splat, text: str) -> bool:
        if now.rule.detail is None or now.detail is not None:
            return False
        now.detail = now.rule.detail.match(text)
        return now.detail is not None


def split(records: Iterable[LogRecord]) -> list[Splat]:
    """The reports of a log in the order in which they began.

    Records are grouped by caller id (CONFIG_PRINTK_CALLER), so that two CPUs' reports that were
    printed at once are separated. In a log with timestamps, a line without one is user space's.
    NMI backtraces, which the other CPU prints under its own id, are joined to the stall that requested them.
    """
    records = list(records)
    timed = any(r.time is not None for r in records)
    log = _Log()
    for order, record in enumerate(records):
        if timed and record.time is None:
            continue
        log.stream(record.caller).feed(record.text, order)
    return _join(log.found)


def _asked(stall: Splat) -> Iterator[str]:
    """The CPUs whose backtraces a stall requested, as they are printed; no more of them than Linux supports."""
    for match in filter(None, map(_ASKS.match, stall.log())):
        for first, last in _RANGE.findall(match[1]):
            yield from map(str, range(int(first), min(int(last or first), int(first) + _CPUS) + 1))


def _join(splats: list[Splat]) -> list[Splat]:
    """Join NMI backtraces to the last stall that requested this CPU, or to the last stall; others are dropped."""
    kept: list[Splat] = []
    asking: dict[str, Splat] = {}
    latest: Splat | None = None
    for splat in splats:
        if splat.kind in rules.STALLS:
            latest = splat
            asking |= dict.fromkeys(_asked(splat), splat)
        if splat.kind == "nmi":
            asked = asking.get(splat.header[0].rpartition(" ")[2], latest)
            if asked is not None:
                asked.sections += splat.sections
                asked.lines[asked.known :] = splat.log()
                asked.known = len(asked.lines)
        elif splat.kind:
            kept.append(splat)
    return kept
