# SPDX-License-Identifier: GPL-2.0-only
"""Owns telling apart how a machine ended: panic, oops, hang, reset, or QEMU itself lost.

Console texts read from kernel/panic.c, kernel/reboot.c, arch/x86/kernel/dumpstack.c and
arch/{arm64,riscv}/kernel/traps.c.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.errors import Ended, How, KernelFailure, MachineEnded, MachineLost
from harness.machine.examine import Examination, Hung
from harness.oracles import dmesg, hang
from harness.oracles.frames import Symbolize, chain, neutral, signature
from harness.oracles.hang import Resolve
from harness.oracles.log import parse_console
from harness.oracles.rules import COUNTED, STALLS
from harness.records import Finding

ORACLE = "crash"
_SILENT = ", and nothing on the console says why"
_TAIL = 30  # lines of console shown with a failure
_OTHERS = 400  # lines of further reports shown with it

_PANIC = re.compile(r"^Kernel panic - not syncing: (?P<what>.*)$")
_OOPS = re.compile(
    r"^(?:Oops: .*|Internal error: .*|general protection fault.*|Oops(?: - .{1,80})? |Kernel BUG )\[#\d+\]"
)
_REBOOT = re.compile(r"^reboot: (?P<what>\S.*)$")


def _find(lines: Sequence[str], pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The kernel's own first line that matches; in a log with timestamps a line without is user space's."""
    records = parse_console(lines)
    timed = any(r.time is not None for r in records)
    ours = (r.text for r in records if not timed or r.time is not None)
    return next((m for text in ours if (m := pattern.match(text))), None)


def _root(found: Sequence[Finding]) -> Finding | None:
    """The report on the console that tells what the machine died of: its first oops, for whatever follows
    runs on a kernel that is broken already; without one the last report."""
    return next((f for f in found if any(COUNTED.search(line) for line in f.log)), found[-1] if found else None)


def _cause(found: Sequence[Finding]) -> str:
    """What the log says of the reason."""
    root = _root(found)
    return f": {root.title}" if root else ""


def _others(found: Sequence[Finding], root: Finding | None) -> Iterator[str]:
    """What else was reported: what came first may have broken what `root` fell over, what came later is what it did."""
    at = found.index(root) if root else len(found)
    for number, other in enumerate(found):
        if number != at:
            when = "before" if number < at else "after"
            yield from ("", f"also on the console, {when} it: {other.title}", *other.log)


def _lost(ended: Ended, tail: str) -> MachineLost:
    if ended.how is How.KILLED:
        number = ended.signal or 0
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        what, step = f"QEMU was killed by {name}", "look for the OOM killer in the host's log, then run again"
    elif ended.how is How.EXITED:
        what, step = f"QEMU failed with status {ended.status}", "run 'kharness doctor'"
    else:
        what, step = "QEMU went away without a word", "run again; 'kharness doctor' checks this machine"
    return MachineLost(what, step=step, detail=tail)


def _dead(lines: Sequence[str], found: Sequence[Finding], tail: str) -> KernelFailure | None:
    """A kernel that said itself that it died."""
    panic = _find(lines, _PANIC)
    if panic is not None:
        root = _root(found)
        why = f" ({root.title})" if root is not None and root.kind != "panic" else ""
        return KernelFailure("panic", f"the kernel panicked: {panic['what'].strip()}{why}", detail=tail)
    if _find(lines, _OOPS) is not None:
        return KernelFailure("oops", f"the kernel oopsed{_cause(found)}", detail=tail)
    return None


def _hung(found: Sequence[Finding], tail: str, waiting: str) -> KernelFailure:
    stalls = [f for f in found if f.kind in STALLS]
    waited = f": waited in vain for {waiting}" if waiting else ": no answer"
    why = _cause(stalls) if stalls else f"{waited}{_SILENT}"
    return KernelFailure("hang", f"the kernel hangs{why}", detail=tail)


def classify(
    lines: Sequence[str], ended: Ended, deadline_expired: bool, waiting: str = ""
) -> KernelFailure | MachineLost | None:
    """What became of a machine, from its console's `lines` and how QEMU ended.

    Returns the exception for the caller to raise, or None for a machine that runs, stands within its deadline
    and has not oopsed. QEMU killed is never the kernel's fault, whatever the console says: the panic
    may be the killing's consequence. A guest that ends QEMU with status 0 has reset itself (-no-reboot):
    a triple fault, or a reboot that nobody asked for. `waiting` says for what, when the deadline expired.
    """
    tail = "\n".join(lines[-_TAIL:])
    if ended.how is How.KILLED:
        return _lost(ended, tail)
    found = dmesg.findings(parse_console(lines))
    dead = _dead(lines, found, tail)
    if dead is not None:
        return dead
    if ended.how is How.GUEST_PANIC:
        return KernelFailure("panic", f"the kernel panicked without a message{_cause(found)}", detail=tail)
    if ended.how is How.EXITED and ended.status == 0:
        said = _find(lines, _REBOOT)
        how = f"the guest ended by itself: {said['what']}" if said else "the guest reset without a word"
        return KernelFailure("reset", how + _cause(found), detail=tail)
    if ended.how is not How.RUNNING:
        return _lost(ended, tail)
    return _hung(found, tail, waiting) if deadline_expired else None


def findings(
    lines: Sequence[str],
    ended: Ended,
    deadline_expired: bool,
    waiting: str = "",
    symbolize: Symbolize | None = None,
    expect: Sequence[str] = (),
) -> list[Finding]:
    """The end of the machine as one finding with the frames of its cause; none if the kernel is not to blame.

    Its log ends with the other reports on the console, together at most 400 lines. `expect` are regular expressions
    over the finding's title.
    """
    failure = classify(lines, ended, deadline_expired, waiting)
    if not isinstance(failure, KernelFailure):
        return []
    found = dmesg.findings(parse_console(lines), symbolize)
    cause = _root([f for f in found if f.kind in STALLS] if failure.kind == "hang" else found)
    names = chain(cause.function, cause.frames) if cause is not None else []
    base = cause or Finding(ORACLE, failure.kind, failure.what, "", log=tuple(lines[-_TAIL:]))
    return [
        replace(
            base,
            oracle=ORACLE,
            kind=failure.kind,
            title=failure.what,
            signature=signature(ORACLE, failure.kind, names, "" if names else neutral(failure.what)),
            expected=any(re.search(e, failure.what) for e in expect),
            count=1,
            log=(*base.log, *itertools.islice(_others(found, cause), _OTHERS)),
        )
    ]


def of(
    error: MachineEnded,
    symbolize: Symbolize | None = None,
    expect: Sequence[str] = (),
    resolve: Resolve | None = None,
) -> list[Finding]:
    """:func:`findings` of an end that was raised. One that was examined says where the kernel hangs, and shows it.

    `resolve` finds the functions of addresses in the guest.
    """
    found = findings(error.lines, error.ended, error.expired, error.waiting, symbolize, expect)
    if not isinstance(error, Hung) or not found or found[0].kind != "hang":
        return found
    return [_placed(found[0], error.examined, symbolize, expect, resolve)]


def _placed(
    finding: Finding, seen: Examination, symbolize: Symbolize | None, expect: Sequence[str], resolve: Resolve | None
) -> Finding:
    """A hang, blamed on what was seen when it was examined: a report on the console may have been of something else."""
    finding = replace(finding, log=(*finding.log, *hang.log(seen, resolve)))
    blamed = hang.blame(seen, symbolize, resolve)
    if blamed is None:
        return finding
    told = finding.title.removesuffix(_SILENT).removeprefix("the kernel hangs")
    title = f"the kernel hangs: {blamed.what}{told}"
    return replace(
        finding, title=title, function=blamed.function, file=blamed.file, line=blamed.line, frames=blamed.frames,
        signature=signature(ORACLE, finding.kind, blamed.names),
        expected=finding.expected or any(re.search(e, title) for e in expect),
    )  # fmt: skip


__all__ = ["Ended", "How", "classify", "findings", "of"]
