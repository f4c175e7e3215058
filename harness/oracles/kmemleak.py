# SPDX-License-Identifier: GPL-2.0-only
"""The kmemleak oracle: /sys/kernel/debug/kmemleak becomes findings, one a distinct backtrace.

Format read from mm/kmemleak.c (__print_unreferenced, hex_dump_object, kmemleak_disable, mem_pool_alloc).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.records import Evidence, Finding, LogRecord
from harness.guest import kmemleak as protocol
from harness.oracles.registry import Oracle, TestEnd
from harness.oracles.splat import bounds
from harness.oracles.splat.blame import base_name, is_allocator
from harness.oracles.splat.frames import Raw, Symbolize, chain, decode, frame_line, guilt, prefetch, signature

ORACLE = "kmemleak"

_OBJECT = re.compile(r"^unreferenced object(?P<type> \(\w+\))? 0x(?P<at>[0-9a-f]{1,16}) \(size (?P<size>\d{1,20})\):")
# hex_dump_object() marks percpu objects, also in kernels whose first line does not (6.12).
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
    for line in map(bounds.line, text.split("\n")):
        match = _OBJECT.match(line)
        if match:
            tracing = False
            out.append(_Object(match["type"] or "", int(match["size"]), [], [line]))
            continue
        if not out or not line.strip():
            continue
        if len(out[-1].log) < bounds.LINES:
            out[-1].log.append(line)
        if _PERCPU_DUMP.match(line):
            out[-1].type = " (percpu)"
        if re.match(r"^\s+backtrace\b", line):
            tracing = True
        elif more := _MORE.match(line):
            out[-1].count += int(more[1])
        elif tracing and (raw := frame_line(line)) is not None:
            if len(out[-1].raws) < bounds.FRAMES:
                out[-1].raws.append(raw)
    return out


def _distinct(objects: Iterable[_Object]) -> list[_Object]:
    """One object for each backtrace, with the count of all; objects without one are distinguished by size."""
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
    return bounds.few(_finding(item, symbolize) for item in objects)


def born(finding: Finding) -> list[int]:
    """When objects of a finding of this oracle were allocated, in jiffies; one time for each backtrace."""
    return [int(found[1]) for line in finding.log if (found := _BORN.match(line))]


def watched(text: str | None, records: Sequence[LogRecord], scan_error: str = "") -> Evidence:
    """Whether kmemleak was really looking.

    `text` is the file's content, None when it cannot be read; `scan_error` the error of writing ``scan`` to it
    (EPERM once kmemleak has disabled itself); `records` the kernel log since boot.
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


def judge(test: TestEnd) -> None:
    """Book whether kmemleak watched: it disables itself for good when it runs out of memory."""
    seen = watched("", test.records, protocol.refusal(test.guest.agent))
    test.evidence.append(replace(seen, payload=None))


ORACLES = (Oracle(ORACLE, judge, order=60),)
"""The defects that prove it are those of harness.oracles.objects."""
