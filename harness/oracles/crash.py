# SPDX-License-Identifier: GPL-2.0-only
"""Telling apart how a machine ended: panic, oops, hang, reset, or QEMU itself lost.

Console texts read from kernel/panic.c, kernel/reboot.c, arch/x86/kernel/dumpstack.c and
arch/{arm64,riscv}/kernel/traps.c.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from harness.core.errors import Ended, How, KernelFailure, MachineEnded, MachineLost
from harness.core.records import Finding, LogRecord
from harness.guest.guest import Guest
from harness.machine.examine import Examination, Hung, look_into
from harness.oracles import dmesg, hang
from harness.oracles.hang import Resolve
from harness.oracles.registry import CANARY, Defect, KernelTarget, Oracle
from harness.oracles.splat import bounds
from harness.oracles.splat.frames import Symbolize, chain, neutral, signature
from harness.oracles.splat.log import parse_console
from harness.oracles.splat.rules import COUNTED, STALLS

ORACLE = "crash"
_SILENT = ", and nothing on the console says why"
_TAIL = 30  # lines of the console shown with a failure
_OTHERS = 400  # lines of further reports shown with it

_PANIC = re.compile(r"^Kernel panic - not syncing: (?P<what>.*)$")
_OOPS = re.compile(
    r"^(?:Oops: .*|Internal error: .*|general protection fault.*|Oops(?: - .{1,80})? |Kernel BUG )\[#\d+\]"
)
_REBOOT = re.compile(r"^reboot: (?P<what>\S.*)$")
_KILLED = re.compile(r"^kharness: agent ended with status (?P<status>137|143)\s*$")
"""vm/init's message on an agent that got SIGKILL or SIGTERM; the status is a shell's: 128 + the signal."""
_OUT_OF_MEMORY = re.compile(r"^(?:Out of memory|Memory cgroup out of memory|oom-kill:)")
"""What kills by SIGKILL in the kernel itself (mm/oom_kill.c)."""


def _find(records: Sequence[LogRecord], pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The kernel's own first line that matches; in a log with timestamps a line without is user space's."""
    timed = any(r.time is not None for r in records)
    ours = (r.text for r in records if not timed or r.time is not None)
    return next((m for text in ours if (m := pattern.match(text))), None)


def _root(found: Sequence[Finding]) -> Finding | None:
    """The report on the console that shows what the machine died of: its first oops, as whatever follows runs on a
    broken kernel; without one the last report."""
    return next((f for f in found if any(COUNTED.search(line) for line in f.log)), found[-1] if found else None)


def _cause(found: Sequence[Finding]) -> str:
    """The reason according to the log."""
    root = _root(found)
    return f": {root.title}" if root else ""


def _others(found: Sequence[Finding], root: Finding | None) -> Iterator[str]:
    """The other reports: an earlier one may be the cause of `root`, a later one its consequence."""
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
    elif ended.how is How.STOPPED:
        what, step = "QEMU was stopped from outside", "look for who sends SIGSTOP, then run again"
    else:
        what, step = "QEMU went away without a message", "run again; 'kharness doctor' checks this machine"
    return MachineLost(what, step=step, detail=tail)


def _dead(records: Sequence[LogRecord], found: Sequence[Finding], tail: str) -> KernelFailure | None:
    """The death of a kernel according to its own messages."""
    panic = _find(records, _PANIC)
    if panic is not None:
        root = _root(found)
        why = f" ({root.title})" if root is not None and root.kind != "panic" else ""
        return KernelFailure("panic", f"the kernel panicked: {panic['what'].strip()}{why}", detail=tail)
    if _find(records, _OOPS) is not None:
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
    """Classify the end of a machine, from its console's `lines` and how QEMU ended.

    Returns the exception for the caller to raise, or None for a machine that runs, is within its deadline and has not
    oopsed. A killed QEMU is never the kernel's fault, whatever the console says: the panic may be a consequence. A
    guest that ends QEMU with status 0 has reset itself (-no-reboot): a triple fault, or an unexpected reboot; unless a
    program in the guest killed our agent, after which its init reboots, and the kernel has reported nothing. `waiting`
    says what for, when the deadline expired.
    """
    return _judged(parse_console(lines), _tail(lines), ended, deadline_expired, waiting)


def _tail(lines: Sequence[str]) -> str:
    return "\n".join(map(bounds.line, lines[-_TAIL:]))


def _judged(
    records: Sequence[LogRecord], tail: str, ended: Ended, deadline_expired: bool, waiting: str
) -> KernelFailure | MachineLost | None:
    """:func:`classify`, with a parsed console."""
    if ended.how is How.KILLED:
        return _lost(ended, tail)
    found = dmesg.every(records)
    dead = _dead(records, found, tail)
    if dead is not None:
        return dead
    if ended.how is How.GUEST_PANIC:
        return KernelFailure("panic", f"the kernel panicked without a message{_cause(found)}", detail=tail)
    if ended.how is How.EXITED and ended.status == 0:
        killed = next((m for record in records if (m := _KILLED.match(record.text))), None)
        if killed is not None and not found and _find(records, _OUT_OF_MEMORY) is None:
            name = signal.Signals(int(killed["status"]) - 128).name
            return MachineLost(f"the agent in the guest was killed by {name}", step="run again", detail=tail)
        said = _find(records, _REBOOT)
        how = f"the guest ended by itself: {said['what']}" if said else "the guest reset without a message"
        return KernelFailure("reset", how + _cause(found), detail=tail)
    if ended.how is not How.RUNNING:
        return _lost(ended, tail)
    return _hung(found, tail, waiting) if deadline_expired else None


def hosts(error: MachineEnded | MachineLost) -> bool:
    """Whether an end says nothing about the kernel: QEMU was killed, or failed by itself."""
    lost = error if isinstance(error, MachineLost) else classify(error.lines, error.ended, error.expired)
    return isinstance(lost, MachineLost)


def findings(
    lines: Sequence[str],
    ended: Ended,
    deadline_expired: bool,
    waiting: str = "",
    symbolize: Symbolize | None = None,
    expect: Sequence[str] = (),
) -> list[Finding]:
    """The end of the machine as one finding with the frames of its cause; empty if the kernel is not to blame.

    Its log ends with the other reports on the console, together at most 400 lines. `expect` are regular expressions
    over the finding's title.
    """
    records = parse_console(lines)
    failure = _judged(records, _tail(lines), ended, deadline_expired, waiting)
    if not isinstance(failure, KernelFailure):
        return []
    found = dmesg.every(records, symbolize)
    cause = _root([f for f in found if f.kind in STALLS] if failure.kind == "hang" else found)
    names = chain(cause.function, cause.frames) if cause is not None else []
    base = cause or Finding(ORACLE, failure.kind, failure.what, "", log=tuple(map(bounds.line, lines[-_TAIL:])))
    return [
        replace(
            base,
            oracle=ORACLE,
            kind=failure.kind,
            title=bounds.title(failure.what),
            signature=signature(ORACLE, failure.kind, names, "" if names else neutral(failure.what)),
            expected=any(re.search(e, failure.what) for e in expect),
            count=1,
            log=(*base.log, *itertools.islice(_others(found, cause), _OTHERS)),
        )
    ]


def of(
    error: MachineEnded, symbolize: Symbolize | None = None, expect: Sequence[str] = (), resolve: Resolve | None = None
) -> list[Finding]:
    """:func:`findings` of an end that was raised. An examined one says where the kernel hangs, and shows the evidence.

    `resolve` finds the functions of addresses in the guest.
    """
    found = findings(error.lines, error.ended, error.expired, error.waiting, symbolize, expect)
    if not isinstance(error, Hung) or not found or found[0].kind != "hang":
        return found
    return [_placed(found[0], error.examined, symbolize, expect, resolve)]


def _placed(
    finding: Finding, seen: Examination, symbolize: Symbolize | None, expect: Sequence[str], resolve: Resolve | None
) -> Finding:
    """A hang, blamed on what its examination saw: a report on the console may have another cause."""
    finding = replace(finding, log=(*finding.log, *hang.log(seen, resolve)))
    blamed = hang.blame(seen, symbolize, resolve)
    if blamed is None:
        return finding
    rest = finding.title.removesuffix(_SILENT).removeprefix("the kernel hangs")
    title = bounds.title(f"the kernel hangs: {blamed.what}{rest}")
    return replace(
        finding,
        title=title,
        function=blamed.function,
        file=blamed.file,
        line=blamed.line,
        frames=blamed.frames,
        signature=signature(ORACLE, finding.kind, blamed.names),
        expected=finding.expected or any(re.search(e, title) for e in expect),
    )


__all__ = ["Ended", "How", "classify", "findings", "of"]


# --- its defects ----------------------------------------------------------------------------

HANG_SECONDS = 2.0
"""Nominal seconds within which a guest must answer or hang."""


def dies(kind: str, name: str, where: str = "") -> Callable[[Guest, KernelTarget], dict[str, bool]]:
    """A defect that ends its guest: the finding must be of this kind, and of a hang also in `where`."""

    def plant(guest: Guest, target: KernelTarget) -> dict[str, bool]:
        try:
            try:
                guest.agent.call("write", seconds=HANG_SECONDS, path=CANARY, data=name)
                guest.agent.call("ping", seconds=HANG_SECONDS)
            except MachineEnded as error:
                if error.ended.how is not How.STOPPED:
                    raise
                guest.agent.call("ping", seconds=HANG_SECONDS)  # QEMU was stopped from outside: the guest had no time
        except MachineEnded as error:
            ended = look_into(guest.vm, error, target.pristine.scale, target.readers)
            found = of(ended, target.symbols, resolve=target.addresses)
            return {kind: any(f.kind == kind and (not where or f.function == where) for f in found)}
        return {kind: False}

    return plant


ORACLES = (
    Oracle("panic", None, defects=(Defect("panic", ("panic",), dies("panic", "panic"), cheap=True, last=True),)),
    Oracle("hang", None, defects=(Defect("hang", ("hang",), dies("hang", "hang", "hang_here")),)),
)
