# SPDX-License-Identifier: GPL-2.0-only
"""Reading the kernel log: /dev/kmsg records and console lines become LogRecords.

Formats read from Documentation/ABI/testing/dev-kmsg and kernel/printk/printk.c
(info_print_ext_header, info_print_prefix, print_caller, msg_add_ext_text). Garbage, truncated
and interleaved input never raises: what cannot be understood is kept as a record of bare text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.core.records import LogRecord
from harness.oracles.splat.bounds import line as bounded

_KMSG = re.compile(r"^(\d{1,5}),(\d{1,19}),(\d{1,19}),([^;]{0,200});(.*)$", re.DOTALL)
_ESCAPE = re.compile(r"((?:\\x[0-9a-fA-F]{2})+)")
_STAMP = re.compile(
    r"(?:<\d{1,3}>)?(?:\[ {0,12}(?P<time>\d{1,12}\.\d{6})\](?:\[ {0,6}(?P<caller>[TC]\d{1,10})\])?"
    r"|(?<![^\s])\[ {1,6}(?P<only>[TC]\d{1,10})\]) ?"
)
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00\r]")
_DROPPED = re.compile(r"\*\* (\d{1,12}) printk messages dropped \*\*")


def _unescape(text: str) -> str:
    """Undo the \\xNN escapes of /dev/kmsg: bytes, which together are UTF-8."""

    def bytes_of(match: re.Match[str]) -> str:
        return bytes.fromhex(match[1].replace("\\x", "")).decode("utf-8", "replace")

    return _ESCAPE.sub(bytes_of, text) if "\\x" in text else text


def parse_kmsg(text: str) -> list[LogRecord]:
    """The records of /dev/kmsg, concatenated as they were read.

    `time` is seconds. A record of several lines becomes several LogRecords with one seq. KEY=value
    lines are dropped: no oracle needs a device name. A fragment (flag ``c``) that another caller's
    record has cut off from its beginning is joined to it again; an empty LogRecord stays behind
    with its seq, so that :func:`gaps` still counts it as seen. A fragment that directly follows
    is a line of its own, as dmesg(1) shows it: lockdep starts lines with KERN_CONT.
    """
    out: list[LogRecord] = []
    last_of: dict[str, int] = {}
    for line in text.split("\n"):
        match = _KMSG.match(line)
        if match is None:
            if line and not line.startswith(" "):
                out.append(LogRecord(text=bounded(_unescape(line))))
            continue
        flags = match[4].split(",")
        caller = next((f[len("caller=") :] for f in flags if f.startswith("caller=")), "")
        seq, stamp, level = int(match[2]), int(match[3]) / 1e6, int(match[1]) & 7
        body = _unescape(match[5])  # of many lines, each of which is bounded
        begun = last_of.get(caller)
        if "c" in flags[0] and caller and begun is not None and begun < len(out) - 1:
            head = out[begun]
            out[begun] = LogRecord(bounded(head.text + body), head.seq, head.time, head.caller, head.level)
            out.append(LogRecord("", seq, stamp, caller, level))
            continue
        for part in body.split("\n"):
            out.append(LogRecord(bounded(part), seq, stamp, caller, level))
        last_of[caller] = len(out) - 1
    return out


def parse_console(lines: str | Iterable[str]) -> list[LogRecord]:
    """Lines of a serial console, in order; `seq` and `level` are None.

    With or without CONFIG_PRINTK_TIME and CONFIG_PRINTK_CALLER. Output of user space that shares a
    line with the kernel's is split off into a record without a time.
    """
    out: list[LogRecord] = []
    for raw in lines.split("\n") if isinstance(lines, str) else lines:
        line = _TERMINAL.sub("", raw).rstrip("\n")
        match = _STAMP.search(line)
        if match is None:
            out.append(LogRecord(text=bounded(line)))
            continue
        if line[: match.start()].strip():
            out.append(LogRecord(text=bounded(line[: match.start()])))
        time = None if match["time"] is None else float(match["time"])
        caller = match["caller"] or match["only"] or ""
        out.append(LogRecord(bounded(line[match.end() :]), time=time, caller=caller))
    return out


def gaps(records: Iterable[LogRecord], first_seq: int) -> int:
    """How many sequence numbers from `first_seq` to the highest one seen are missing.

    Counts what the ring buffer overwrote before it was read; 0 when nothing newer was read.
    """
    seen = {r.seq for r in records if r.seq is not None and r.seq >= first_seq}
    return max(seen) - first_seq + 1 - len(seen) if seen else 0


def dropped(records: Sequence[LogRecord]) -> int:
    """How many messages were dropped according to the console (kernel/printk/printk.c)."""
    return sum(int(m[1]) for r in records if (m := _DROPPED.search(r.text)))
