# SPDX-License-Identifier: GPL-2.0-only
"""The kernel-log oracle: reports in the log become findings with the place to blame."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.records import Evidence, Finding, Frame, LogRecord, Stack
from harness.core.words import plural
from harness.guest.guest import Guest
from harness.oracles.registry import Defect, KernelTarget, Oracle, TestEnd, trigger
from harness.oracles.splat import bounds, log, reports, rules
from harness.oracles.splat.blame import base_name, is_helper, is_wrapper
from harness.oracles.splat.frames import (
    Raw,
    Symbolize,
    chain,
    clean_path,
    culprit,
    decode,
    neutral,
    prefetch,
    signature,
    symbol,
)
from harness.oracles.splat.reports import Splat

ORACLE = "dmesg"

Place = tuple[str | None, str | None, int | None]
"""Function, file, line."""

_TAINT = re.compile(r"\((?:Not tainted|Tainted: [^)]*)\)")
_LOCKDEP_OFF = re.compile(
    r"^BUG: MAX_(?:LOCK\w*|STACK_TRACE_ENTRIES) too (?:low|small)!|^turning off the locking correctness validator"
)


def _group(match: re.Match[str] | None, name: str) -> str | None:
    return match[name] if match is not None and name in match.re.groupindex else None


def _header(it: Splat) -> tuple[Raw | None, str | None, int | None]:
    """Function, file and line that the report's own first lines name."""
    for match in (it.place, it.detail if it.kind == "suspicious rcu" else None):
        file, line = _group(match, "file"), _group(match, "line")
        raw = Raw(symbol(match), exact=True) if match is not None and _group(match, "func") else None
        if raw is not None or file is not None:
            return raw, clean_path(file) if file else None, int(line) if line else None
    return None, None, None


def _from_header(raw: Raw, file: str | None, line: int | None, symbolize: Symbolize | None) -> Place:
    """The place a header names: with symbols, the inlined function that really holds the line."""
    decoded = decode([raw], symbolize)
    if file is not None:
        exact = next((f for f in decoded if (f.file, f.line) == (file, line)), None)
        return base_name((exact or raw.frame).function), file, line
    frame = culprit(decoded) or raw.frame
    return base_name(frame.function), frame.file, frame.line


def _place(it: Splat, frames: Sequence[Frame], symbolize: Symbolize | None) -> Place:
    """Which function, file and line the report is about."""
    raw, file, line = _header(it)
    guilty = culprit(frames)
    if raw is not None:
        function, file, line = _from_header(raw, file, line, symbolize)
        if function is None or not is_wrapper(function) or guilty is None or is_helper(guilty.function):
            return function, file, line
        return base_name(guilty.function), guilty.file, guilty.line
    if it.detail is not None and _group(it.detail, "func"):  # lockdep: where the lock was taken
        taken = symbol(it.detail)
        over = base_name(taken.function) not in {base_name(frame.function) for frame in frames if frame.reliable}
        if over or guilty is None or is_helper(guilty.function):  # the function that took it has returned with it
            return _from_header(Raw(taken), None, None, symbolize)
    if guilty is None or is_helper(guilty.function):
        if it.early():
            return _from_header(it.early()[0], None, None, symbolize)
    if guilty is None:
        return None, file, line
    own = next(iter(it.main()), None)
    if file is None or (own is not None and own.exact and is_wrapper(own.frame.function)):
        return base_name(guilty.function), guilty.file, guilty.line
    exact = next((f for f in frames if (f.file, f.line) == (file, line)), guilty)
    return base_name(exact.function), file, line


def _clean(text: str) -> str:
    return text.strip().removeprefix("[ ").removesuffix(" ]").strip()


def _title(it: Splat, place: Place) -> str:
    function, file, line = place
    where = f" at {file}:{line}" if file else ""
    inside = f" in {function}" if function else ""
    if it.kind == "warn":
        said = it.message or _group(it.header, "cond") or ""
        return f"WARNING{where}{inside}" + (f": {said}" if said else "")
    if it.kind == "bug" and it.header[0].startswith("kernel BUG at"):
        return f"kernel BUG{where}{inside}" + (f": {it.message}" if it.message else "")
    first = _clean(it.header.string).removeprefix(rules.OURS)
    if it.kind in rules.FOLLOWED and any(rules.POISON.search(line) for line in it.log()):
        return f"{first} ({rules.FREED})"
    detail = _group(it.detail, "detail")
    if it.rule.title is not None:
        return it.rule.title(it.header, it.detail)
    return f"{first} ({detail.strip()})" if detail else first


def _said(it: Splat, names: Sequence[str]) -> str:
    """The part of a report's text that its signature needs besides the functions."""
    if it.kind in ("warn", "bug"):
        said = it.message or _group(it.header, "cond") or ""
        return said if said or names else it.header[0]
    if it.rule.said is not None:
        return it.rule.said(it.header, it.detail)
    if it.kind == "allocation failure":
        return it.header[0].rpartition(": ")[2] if "page alloc" in it.header[0] else it.header[0]
    if it.kind in ("kasan", "lockdep", "ubsan", "slab", "list corruption"):
        return _TAINT.sub("", re.split(r" in [\w./]+[+:]", it.header.string)[0])
    return "" if names else neutral(it.header.string)


def finding(it: Splat, symbolize: Symbolize | None, oracle: str = ORACLE) -> Finding:
    """One report as a finding."""
    raws = it.main()
    head = _header(it)[0]
    frames = decode(raws, symbolize) if raws else decode([head] if head else [], symbolize)
    place = _place(it, frames, symbolize)
    kind = it.kind
    if kind == "warn":
        kind = _warn_kind(it.message, it.header.string)
    names = chain(place[0], frames)
    stacks = tuple(Stack(s.name, decode(s.raws, symbolize)) for s in it.further())
    return Finding(
        oracle=oracle,
        kind=kind,
        title=bounds.title(_title(it, place) + (_freed(stacks) if kind in ("kasan", "slab") else "")),
        signature=signature(oracle, kind, names, _said(it, names)),
        function=place[0],
        file=place[1],
        line=place[2],
        frames=frames,
        log=it.log(),
        stacks=stacks,
    )


def _freed(stacks: Iterable[Stack]) -> str:
    """Add where the used memory was freed: the defect is as often there, and the use in a common function."""
    by = (culprit(stack.frames) for stack in stacks if stack.name.lower().startswith("freed"))
    names = [base_name(frame.function) for frame in by if frame and not is_helper(frame.function)]
    return next((f", freed by {name}" for name in names if not name.startswith("rcu_")), "")


def _warn_kind(message: str, header: str) -> str:
    """The kind of a WARN by which a subsystem reports a defect of its caller."""
    for sign, kind in (
        ("refcount_t: ", "refcount"),
        ("Slab cache still has objects", "slab leftover"),
        ("list_add ", "list corruption"),
        ("list_del ", "list corruption"),
        ("ODEBUG: ", "object debug"),
        ("DEBUG_LOCKS_WARN_ON", "lockdep"),
    ):
        if sign in message or sign in header:
            return kind
    return "warn"


def merge(found: Iterable[Finding]) -> list[Finding]:
    """Merge equal findings into one with a count.

    Two lines of one function, or an expected and an unexpected finding, stay two though their signature
    is the same: one must not hide the other.
    """
    out: dict[tuple[str, str | None, int | None, bool], Finding] = {}
    for item in found:
        key = (item.signature, item.file, item.line, item.expected)
        out[key] = replace(out[key], count=out[key].count + item.count) if key in out else item
    return list(out.values())


@dataclass(frozen=True)
class ExpectedReports:
    """Titles (regular expressions) that are expected for a report that begins within one of the `spans`: the first and
    last sequence numbers of parts of the log."""

    titles: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()

    def expects(self, finding: Finding, seq: int | None) -> bool:
        """Whether a report whose first record has this number is expected."""
        within = seq is not None and any(first <= seq <= last for first, last in self.spans)
        return within and any(re.search(title, finding.title) for title in self.titles)


def findings(
    records: Iterable[LogRecord],
    symbolize: Symbolize | None = None,
    expect: Sequence[str] = (),
    during: ExpectedReports = ExpectedReports(),
) -> list[Finding]:
    """The reports in the kernel log as findings, in order of appearance.

    `symbolize` adds file, line and inlined functions to frames; `expect` are regular expressions over titles, whose
    findings are marked as expected anywhere in the log, those of `during` only in its spans. Beyond a limit findings
    are only counted (:func:`bounds.few`). Never raises on a log.
    """
    return bounds.few(every(records, symbolize, expect, during))


def every(
    records: Iterable[LogRecord],
    symbolize: Symbolize | None = None,
    expect: Sequence[str] = (),
    during: ExpectedReports = ExpectedReports(),
) -> list[Finding]:
    """:func:`findings`, however many there are."""
    records = list(records)
    splats = reports.split(records)
    heads = [head for it in splats if (head := _header(it)[0]) is not None]
    prefetch([*heads, *(r for it in splats for r in it.raws())], symbolize)
    wanted = [re.compile(e) for e in expect]
    found = [(finding(it, symbolize), records[it.order].seq) for it in splats]
    return merge(
        replace(f, expected=any(w.search(f.title) for w in wanted) or during.expects(f, seq)) for f, seq in found
    )


def watched(records: Sequence[LogRecord], first_seq: int | None = None) -> Evidence:
    """Whether the log was whole and lock debugging still on while it was written.

    `lost` counts records that the ring buffer overwrote (from `first_seq` on) or the console
    dropped. Lockdep turning itself off: kernel/locking/lockdep.c (print_lockdep_off).
    """
    lost = log.dropped(records) + (log.gaps(records, first_seq) if first_seq is not None else 0)
    off = next((r.text for r in records if _LOCKDEP_OFF.match(r.text)), None)
    why = f"lockdep turned itself off: {off}" if off else ""
    if lost:
        were = "was" if lost == 1 else "were"
        why = f"{plural(lost, 'record')} of the kernel log {were} lost" + (f"; {why}" if why else "")
    return Evidence(oracle=ORACLE, watched=off is None, lost=lost, why=why)


# --- the oracle at the end of a test ----------------------------------------------------


def judge(test: TestEnd) -> None:
    """Book the reports of the kernel log, each under the fault that it came under."""
    seen = watched(test.records, test.target.pristine.next_seq)
    test.evidence.append(replace(seen, payload=len(test.records), lost=seen.lost + test.overruns))
    found = test.reports(test.records)
    for window in test.windows:
        # A report that is expected in a window may be unexpected elsewhere, under the same signature.
        during = {(f.signature, f.expected) for f in test.reports(window.within(test.records))}
        found = [window.cause.of(f) if (f.signature, f.expected) in during else f for f in found]
        for one in found:
            if one.counts and (one.signature, one.expected) in during:
                test.book(window.cause, "splat", one)
    test.findings += found


def said(oracle: str, name: str, kind: str, function: str) -> Callable[[Guest, KernelTarget], dict[str, bool]]:
    """A defect that the kernel itself reports: the log must have a finding of this kind in this function."""

    def plant(guest: Guest, target: KernelTarget) -> dict[str, bool]:
        trigger(guest, name)
        found = findings([record for text in guest.log() for record in log.parse_kmsg(text)], target.symbols)
        return {oracle: any(f.kind == kind and f.function == function for f in found)}

    return plant


def _speaks(name: str, oracle: str, canary: str, function: str, config: str) -> Defect:
    return Defect(name, (oracle,), said(oracle, canary, oracle, function), config=config)


ORACLES = (
    Oracle(
        ORACLE,
        judge,
        order=10,
        defects=(
            Defect("warn", (ORACLE,), said(ORACLE, "warn", "warn", "kharness_warn"), cheap=True),
            # Detectors that depend on the kernel's configuration.
            _speaks("atomic", "atomic sleep", "sleep-atomic", "kharness_sleep_atomic", "DEBUG_ATOMIC_SLEEP"),
            _speaks("kasan", "kasan", "use-after-free", "kharness_use_after_free", "KASAN"),
            _speaks("lockdep", "lockdep", "lock-order", "kharness_lock_order", "PROVE_LOCKING"),
            _speaks("preempt", "preemptible", "cpu-not-held", "kharness_cpu_not_held", "DEBUG_PREEMPT"),
        ),
    ),
)
