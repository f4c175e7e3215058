# SPDX-License-Identifier: GPL-2.0-only
"""Owns the kmemleak oracle: /sys/kernel/debug/kmemleak becomes findings, one a distinct backtrace.

Format read from mm/kmemleak.c (__print_unreferenced, hex_dump_object, kmemleak_disable, mem_pool_alloc).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.oracles.blame import base_name, is_allocator
from harness.oracles.frames import Raw, Symbolize, chain, decode, frame_line, guilt, prefetch, signature
from harness.records import Evidence, Finding, LogRecord

ORACLE = "kmemleak"

_OBJECT = re.compile(
    r"^unreferenced object(?P<type> \(\w+\))? 0x(?P<at>[0-9a-f]{1,16}) \(size (?P<size>\d{1,20})\):"
)
# hex_dump_object() says so of percpu objects, also in the kernels whose first line does not (6.12).
_PERCPU_DUMP = re.compile(r"^\s+hex dump \(first \d{1,9} bytes on cpu \d{1,5}\):")
_MORE = re.compile(r"^\s*\.\.\. and (\d{1,9}) more object\(s\) with the same backtrace")
_BORN = re.compile(r'^\s+comm ".*", pid \d{1,10}, jiffies (\d{1,20})')
_VMALLOC = re.compile(r"_*(?:vmalloc|vzalloc|vcalloc|get_vm_area)\w*")
_BROKEN = re.compile(
    r"^kmemleak: (?:Kernel memory leak detector disabled|Cannot allocate a kmemleak_object|Memory pool empty"
    r"|Cannot insert 0x|Kmemleak disabled|Early log buffer exceeded)"
)


@dataclass
class _Object:
    type: str
    size: int
    raws: list[Raw]
    log: list[str]
    count: int = 1

    def kind(self) -> str:
        if "percpu" in self.type:
            return "percpu leak"
        if "phys" in self.type:
            return "page leak"
        named = any(_VMALLOC.fullmatch(base_name(r.frame.function)) for r in self.raws)
        return "vmalloc leak" if named else "slab leak"


def _objects(text: str) -> list[_Object]:
    out: list[_Object] = []
    tracing = False
    for line in text.split("\n"):
        match = _OBJECT.match(line)
        if match:
            tracing = False
            out.append(_Object(match["type"] or "", int(match["size"]), [], [line]))
            continue
        if not out or not line.strip():
            continue
        out[-1].log.append(line)
        if _PERCPU_DUMP.match(line):
            out[-1].type = " (percpu)"
        if re.match(r"^\s+backtrace\b", line):
            tracing = True
        elif more := _MORE.match(line):
            out[-1].count += int(more[1])
        elif tracing and (raw := frame_line(line)) is not None:
            out[-1].raws.append(raw)
    return out


def _distinct(objects: Iterable[_Object]) -> list[_Object]:
    """One object a backtrace, with the count of all; objects without one are told apart by size."""
    out: dict[tuple[object, ...], _Object] = {}
    for item in objects:
        trace = tuple((r.frame.function, r.frame.offset) for r in item.raws)
        key = (item.type, trace, None if trace else item.size)
        if key in out:
            out[key].count += item.count
        else:
            out[key] = item
    return list(out.values())


def _finding(item: _Object, symbolize: Symbolize | None) -> Finding:
    frames = decode(item.raws, symbolize)
    guilty = guilt(frames, is_allocator)
    kind = item.kind()
    by = f"allocated in {guilty.function}{guilty.where}" if guilty.function else "with no backtrace"
    names = chain(guilty.function, frames, is_allocator)
    return Finding(
        oracle=ORACLE,
        kind=kind,
        title=f"{kind} of {item.size} bytes {by}",
        signature=signature(ORACLE, kind, names, "" if names else f"size {item.size}"),
        function=guilty.function,
        file=guilty.file,
        line=guilty.line,
        frames=frames,
        count=item.count,
        log=tuple(item.log),
    )


def findings(text: str, symbolize: Symbolize | None = None) -> list[Finding]:
    """The leaks in the text of /sys/kernel/debug/kmemleak, one for each distinct backtrace.

    `count` is the number of objects. Blamed is the first function that is no allocator. Never raises.
    """
    objects = _distinct(_objects(text))
    prefetch([r for item in objects for r in item.raws], symbolize)
    return [_finding(item, symbolize) for item in objects]


def born(finding: Finding) -> list[int]:
    """When objects of a finding of this oracle were allocated, in jiffies; of each backtrace one is told."""
    return [int(found[1]) for line in finding.log if (found := _BORN.match(line))]


def watched(text: str | None, records: Sequence[LogRecord], scan_error: str = "") -> Evidence:
    """Whether kmemleak was really looking.

    `text` is what the file held, None when it cannot be read; `scan_error` what writing ``scan`` to it
    answered (EPERM once kmemleak has disabled itself); `records` the kernel log since boot.
    """
    evidence = Evidence(oracle=ORACLE, payload=text)
    said = next((r.text for r in records if _BROKEN.match(r.text)), None)
    if said is not None:
        return replace(evidence, watched=False, why=f"kmemleak stopped watching: {said}")
    if text is None:
        return replace(evidence, watched=False, why="/sys/kernel/debug/kmemleak cannot be read")
    if scan_error:
        return replace(evidence, watched=False, why=f"kmemleak refused to scan: {scan_error}")
    return evidence
