# SPDX-License-Identifier: GPL-2.0-only
"""Owns cutting the kernel log into reports: a state machine for each caller id over the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.oracles import rules
from harness.oracles.frames import Raw, frame_line, pc_line
from harness.oracles.rules import Rule
from harness.records import LogRecord

_PATIENCE = 12  # lines that are none of a report's before it counts as over
_MESSAGE = 6  # lines between "cut here" and WARNING that can be the WARN's own message
_LOG = 400  # lines of one report that are kept
_NAME = 120  # letters of what a report says of a further stack
_STOP_KINDS = frozenset({"sched_ext", "allocation failure"})  # these have no end line and no registers


@dataclass
class Section:
    """One stack of a report. `main`: the defect's own; what else it shows, as who allocated the object, has a `name`."""

    main: bool
    name: str = ""
    raws: list[Raw] = field(default_factory=list)
    traced: bool = False


@dataclass
class Splat:
    """One report as it stands in the log, from its header on."""

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

    def further(self) -> list[Section]:
        """The stacks that are not the defect's own and say whose they are."""
        return [s for s in self.sections if s.name and any(r.frame.reliable for r in s.raws)]

    def raws(self) -> list[Raw]:
        """All frames that a finding tells of."""
        return [*self.main(), *(r for s in self.further() for r in s.raws)]

    def log(self) -> tuple[str, ...]:
        return tuple(self.lines[: self.known])


class _Stream:
    """The reports of one caller id. Other callers' lines never reach it."""

    def __init__(self, out: list[Splat]) -> None:
        self.out = out
        self.now: Splat | None = None
        self.cut: list[str] | None = None
        self.before: _Stream | None = None

    def feed(self, text: str, order: int) -> None:
        found = next(((r, m) for r in rules.RULES if (m := r.begin.search(text))), None)
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
        """Whether a header is only the next part of the report that stands open."""
        now = self.now
        if rule.kind == "panic" and rules.CONSEQUENCES.match(text):
            now = now if now is not None and now.kind else self._latest()
            if now is None:
                return False
            self.now = now
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

    def _latest(self) -> Splat | None:
        return next((s for s in reversed(self.out) if s.kind and s.kind != "nmi"), None)

    def _open(self, rule: Rule, match: re.Match[str], text: str, order: int) -> None:
        named = any(match[g] for g in ("file", "func") if g in match.re.groupindex)
        place = match if named else None
        now = Splat(rule, match, order, place=place, waiting_main=rule.main is not None)
        if self.cut is None and self.before is not None:
            # On riscv a trap has its CPU as caller id, the message before it the task's.
            self.cut, self.before.cut = self.before.cut, None
        if rule.kind in ("warn", "bug") and self.cut:
            now.message = " ".join(line.strip() for line in self.cut if line.strip())
            now.lines += self.cut
        self.cut = None
        now.lines.append(text)
        now.known = len(now.lines)
        now.sections.append(Section(main=rule.main is None))
        self.now = now
        self.out.append(now)

    def _add(self, now: Splat, text: str, *, known: bool) -> None:
        if len(now.lines) < _LOG:
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
        if now.strangers > _PATIENCE or (now.kind in _STOP_KINDS and any(s.traced for s in now.sections)):
            self.now = None

    @staticmethod
    def _section(now: Splat, text: str) -> bool:
        if now.waiting_main and now.rule.main is not None and now.rule.main.match(text):
            now.waiting_main = False
            now.sections.append(Section(main=True))
            return True
        if rules.AUXILIARY.match(text):
            now.sections.append(Section(main=False, name=text.strip().removesuffix(":")[:_NAME]))
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
            last.raws.append(counter)
            return True
        raw = frame_line(text)
        if raw is None:
            return False
        last.traced = True
        head = last.raws[-1].frame if len(last.raws) == 1 and last.raws[0].exact else None
        same = head is not None and (head.function, head.offset) == (raw.frame.function, raw.frame.offset)
        if not same:  # arm64 repeats the program counter as the trace's first line
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
    printed at once come apart. In a log with timestamps, a line without one is user space's.
    NMI backtraces, which the other CPU prints under its own id, are joined to the stall that asked for them.
    """
    records = list(records)
    timed = any(r.time is not None for r in records)
    out: list[Splat] = []
    streams: dict[str, _Stream] = {}
    last: _Stream | None = None
    for order, record in enumerate(records):
        if timed and record.time is None:
            continue
        stream = streams.setdefault(record.caller, _Stream(out))
        stream.before = last if last is not stream else None
        stream.feed(record.text, order)
        last = stream
    return _join(out)


def _join(splats: list[Splat]) -> list[Splat]:
    kept: list[Splat] = []
    for splat in splats:
        if splat.kind == "nmi":
            asked = next((s for s in reversed(kept) if s.kind in rules.STALLS), None)
            if asked is not None:
                asked.sections += splat.sections
                asked.lines[asked.known :] = splat.log()
                asked.known = len(asked.lines)
        elif splat.kind:
            kept.append(splat)
    return kept
