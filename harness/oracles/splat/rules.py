# SPDX-License-Identifier: GPL-2.0-only
"""How each kind of kernel report begins, as one ordered table read from the kernel's own printks.

Read from 7.2.13 and 6.12: kernel/panic.c, lib/bug.c, arch/x86/kernel/{dumpstack,traps}.c,
arch/x86/mm/fault.c, arch/{arm64,riscv}/kernel/traps.c, arch/{arm64,riscv}/mm/fault.c, mm/kasan/report.c, mm/slub.c,
mm/slab_common.c, mm/page_alloc.c, mm/percpu.c, mm/kmemleak.c, lib/{ubsan,list_debug,fault-inject}.c,
kernel/locking/lockdep.c, lib/smp_processor_id.c, kernel/rcu/tree_stall.h, kernel/{watchdog,hung_task,workqueue}.c,
kernel/sched/core.c, kernel/sched/ext/ext.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.oracles.splat.frames import SYMBOL

_AT = r"(?P<file>[^\s:]{1,256}):(?P<line>\d{1,7})"


@dataclass(frozen=True)
class Rule:
    """How one kind of report begins.

    `kind` is the finding's, or empty for a report that is parsed only so that its trace belongs to no other, and
    then dropped. The named groups file, line and SYMBOL's are the place that the header names. `main`: frames
    before a line that matches it belong to no finding. `end`: the line that closes the report. `follows`:
    kinds of reports of which this line is the next part. `detail`: in a later line of the
    report, what belongs into the title. `brief`: it has neither an end line nor registers. `title` makes the finding's
    title of the matches of header and detail, `said` the words that its signature needs besides functions.
    """

    kind: str
    begin: re.Pattern[str]
    main: re.Pattern[str] | None = None
    end: re.Pattern[str] | None = None
    follows: frozenset[str] = frozenset()
    detail: re.Pattern[str] | None = None
    brief: bool = False
    title: Callable[[re.Match[str], re.Match[str] | None], str] | None = None
    said: Callable[[re.Match[str], re.Match[str] | None], str] | None = None


Words = Callable[[re.Match[str], re.Match[str] | None], str]


def rule(
    kind: str,
    begin: str,
    *,
    main: str = "",
    end: str = "",
    follows: str = "",
    detail: str = "",
    brief: bool = False,
    title: Words | None = None,
    said: Words | None = None,
) -> Rule:
    """A rule, its patterns given as text; see :class:`Rule`."""

    def maybe(text: str) -> re.Pattern[str] | None:
        return re.compile(text) if text else None

    return Rule(
        kind,
        re.compile(begin),
        maybe(main),
        maybe(end),
        frozenset(follows.split("|")) if follows else frozenset(),
        maybe(detail),
        brief,
        title,
        said,
    )


STALLS = frozenset({"rcu stall", "soft lockup", "hard lockup", "workqueue lockup", "hung task"})
"""Reports whose culprit may be shown by another CPU's NMI backtrace."""

END_TRACE = re.compile(r"^---\[ end (?:trace|Kernel panic)\b")
CUT_HERE = re.compile(r"^-+\[ cut here \]-+$")

_BAR = r"^={20,}\s*$"
_STACK = r"^stack backtrace:"
_LOCK = (
    r"^(?:(?: ?#\d+: )?[0-9a-f]{8,16} |.{1,40} is trying to (?:release|contend) lock )\((?P<detail>.{1,120}?)\)"
    rf"(?: at:|\{{.{{1,40}}\}}(?:, at: {SYMBOL})?)"
)
_FREED = r"^kharness: freed (?:again )?by:"
_REPORT_END = r"^kharness: end of report"
_LOCKDEP_TITLES = (
    r"possible (?:circular locking|recursive locking|irq lock inversion)\b.*|.{1,24}-safe -> .{1,24}-unsafe lock .*"
    r"|inconsistent lock state|chain_key collision|Nested lock was not taken|bad unlock balance detected.*"
    r"|bad contention detected.*|held lock freed.*|.{1,40} still has locks held!|lock held when returning to .*"
)
_CAUSES = "null deref|page fault|bug|list corruption|general protection fault|oops|stack overflow|usercopy|ubsan"

RULES: tuple[Rule, ...] = (
    # No findings, but with a trace of their own.
    rule("", r"^FAULT_INJECTION: forcing a failure"),
    rule("", r"^kmemleak: "),
    rule("nmi", r"^(?:NMI watchdog: )?NMI backtrace for cpu \d+"),
    rule("", r"^sysrq: "),
    # Lock debugging, before the plain WARNING: its titles look like one.
    rule("lockdep", rf"^(?:\[ )?(?:WARNING|BUG|INFO): (?:{_LOCKDEP_TITLES})", main=_STACK, detail=_LOCK),
    rule("lockdep", r"^\[ BUG: .* \]$", main=_STACK, detail=_LOCK),
    rule("lockdep", r"^(?:\[ )?INFO: (?:possible|suspicious) .*(?:lock|RCU).*", main=_STACK),
    rule("lockdep", r"^INFO: trying to register non-static key"),
    rule("lockdep", r"^BUG: (?:looking up invalid subclass|key \S+ has not been registered)"),
    rule("suspicious rcu", r"^WARNING: suspicious RCU usage", main=_STACK, detail=rf"^{_AT} (?P<detail>.+)!$"),
    # Memory debugging.
    rule("kasan", rf"^BUG: KASAN: [\w-]{{1,60}}(?: in {SYMBOL})?", end=_BAR),
    rule("kcsan", rf"^BUG: KCSAN: [\w-]{{1,60}}(?: in {SYMBOL})?", end=_BAR),
    rule("kfence", rf"^BUG: KFENCE: [\w -]{{1,60}}? in {SYMBOL}", end=_BAR),
    rule("kmsan", rf"^BUG: KMSAN: [\w-]{{1,60}} in {SYMBOL}", end=_BAR),
    rule("ubsan", rf"^UBSAN: .{{1,80}} in {_AT}(?::\d{{1,7}})?$", end=r"^---\[ end trace|^={20,}\s*$"),
    rule("ubsan", rf"^(?:Internal error: )?UBSAN: .{{1,80}} at {SYMBOL}"),
    rule("ubsan", r"^Internal error: UBSAN: .{1,80}: [0-9a-f]{16} \[#\d+\]"),
    rule("slab", r"^BUG (?!at |on )\S+ \(.{1,80}\): .+"),
    rule("list corruption", r"^list_(?:add|del) (?:corruption|double add)"),
    # Our module's quarantine (vm/module/poison.c).
    rule("percpu use-after-free", r"^kharness: percpu object used after it was freed: ", main=_FREED, end=_REPORT_END),
    rule("percpu double free", r"^kharness: percpu object freed twice: ", main=_FREED, end=_REPORT_END),
    rule("usercopy", r"^usercopy: Kernel memory (?:exposure|overwrite) attempt"),
    rule("bad page", r"^BUG: Bad (?:page|rss-counter|pagetable)\b"),
    rule("allocation failure", r"^.{0,40}: page allocation (?:failure|stall)", brief=True),
    rule("allocation failure", r"^SLUB: Unable to allocate memory", brief=True),
    rule("allocation failure", r"^percpu: allocation failed, size=", brief=True),
    # Scheduling and waiting.
    rule("atomic sleep", r"^BUG: sleeping function called from invalid context at (?P<called>\S+:\d+)"),
    rule("atomic sleep", r"^BUG: scheduling (?:while atomic|in a non-blocking section)"),
    rule("preemptible", r"^BUG: using .{1,60} in preemptible \[[0-9a-f]{8}\] code"),
    rule("atomic sleep", r"^BUG: (?:assuming|using) .{1,60}(?:context|\(\))"),
    rule("soft lockup", r"^(?:[\w ]{1,20}: )?BUG: soft lockup - CPU#\d+"),
    rule("hard lockup", r"^(?:[\w ]{1,20}: )*(?:CPU\d+: )?Watchdog detected hard LOCKUP"),
    rule("rcu stall", r"^(?:rcu: )?INFO: \S+ (?:self-)?detected (?:expedited )?stalls? on\b"),
    rule("rcu stall", r"^rcu: \S+ kthread starved for \d+ jiffies", follows="rcu stall"),
    rule(
        "hung task",
        r"^INFO: task .{1,40}:\d+ blocked(?: in I/O wait)? for more than \d+ seconds",
        detail=r"^INFO: task .{1,60} blocked on an? (?P<detail>.{1,100}?)\.?$",
    ),
    rule("workqueue lockup", r"^BUG: workqueue lockup - pool"),
    # The kernel's own assertions.
    rule(
        "warn",
        rf"^WARNING: (?:\[(?P<cond>.{{0,200}})\] )?{_AT} at (?:{SYMBOL}|0x[0-9a-f]+)",
        follows="list corruption|slab|usercopy",
    ),
    rule("warn", rf"^WARNING: CPU: \d+ PID: \d+ at {_AT} (?:{SYMBOL})?", follows="list corruption|slab|usercopy"),
    rule("warn", rf"^WARNING: (?:CPU: \d+ PID: \d+ )?at {SYMBOL}", follows="list corruption|slab|usercopy"),
    rule("bug", rf"^kernel BUG at {_AT}!", follows="list corruption|slab|usercopy"),
    rule("bug", rf"^kernel BUG at {SYMBOL}", follows="list corruption|slab|usercopy"),
    # Exceptions.
    rule("null deref", r"^BUG: kernel NULL pointer dereference"),
    rule("null deref", r"^Unable to handle kernel NULL pointer dereference"),
    rule("page fault", r"^BUG: unable to handle (?:kernel )?(?:page fault|paging request)"),
    rule("page fault", r"^Unable to handle kernel .{1,80} at virtual address"),
    rule("stack overflow", r"^BUG: .{1,40} stack guard page was hit"),
    rule("stack overflow", r"^Insufficient stack space to handle exception"),
    rule("general protection fault", r"^(?:Oops: )?general protection fault\b", follows=_CAUSES),
    rule("oops", r"^Oops: .*\[#\d+\]", follows=_CAUSES),
    rule("oops", r"^Internal error: .*\[#\d+\]", follows=_CAUSES),
    rule("oops", r"^(?:Oops(?: - .{1,80})?|Kernel BUG) \[#\d+\]", follows=_CAUSES),
    rule(
        "oops",
        r"^(?:divide error|invalid opcode|stack segment|double fault|traps: PANIC|PANIC: double fault)"
        r".*(?:\[#\d+\]|error_code)",
        follows=_CAUSES,
    ),
    rule("oops", r"^(?:Bad mode in .* handler|SError Interrupt on CPU\d+)"),
    rule("panic", r"^Kernel panic - not syncing: "),
    # Anything else that the kernel calls a bug. Last: the rules above are more exact.
    rule("bug", r"^BUG: (?!MAX_LOCK|MAX_STACK_TRACE)\S.*"),
    # Also the rest of the WARNING that follows these, if it is cut off.
    rule("warning", r"^WARNING: ", follows="list corruption|slab|usercopy"),
)


class _Table:
    """The rules in the order in which they are tried, and one pattern for all: most lines begin no report."""

    def __init__(self) -> None:
        self.rules: tuple[Rule, ...] = ()
        self.any = re.compile("(?!)")
        self.extend(RULES)

    def extend(self, more: tuple[Rule, ...]) -> None:
        new = tuple(rule for rule in more if rule not in self.rules)
        self.rules = (*new, *self.rules)
        begins = (re.sub(r"\(\?P<\w+>", "(?:", rule.begin.pattern) for rule in self.rules)
        self.any = re.compile("|".join(begins))


_TABLE = _Table()


def register(more: tuple[Rule, ...]) -> None:
    """Add a suite's rules before the existing ones; rules that are registered already are not moved."""
    if more:
        _TABLE.extend(more)


def begins(text: str) -> tuple[Rule, re.Match[str]] | None:
    """The first rule whose report a line begins. Most lines begin none, which one pattern shows at once."""
    if not _TABLE.any.match(text):
        return None
    return next((rule, match) for rule in _TABLE.rules if (match := rule.begin.match(text)))


CONSEQUENCES = re.compile(
    r"^Kernel panic - not syncing: (?:.*Fatal exception|.*panic_on_warn set|softlockup: hung tasks"
    r"|hung_task: blocked tasks|RCU Stall|.*[Hh]ard LOCKUP|stack-protector|UBSAN|KASAN|kernel: )"
)
"""Panics that are only the consequence of an earlier report."""

_ANNOUNCED = (
    "Fatal exception",
    "Oops",
    "softlockup: hung tasks",
    "hung_task: blocked tasks",
    "RCU Stall",
    "Hard LOCKUP",
    "Watchdog detected hard LOCKUP",
)
_OF_ARM64 = re.compile(r"^Oops(?: -?[^:]{0,80})?(?::|$) ?")


def is_left_of_consequence(text: str) -> bool:
    """Whether a panic's line that was cut off may have been one of CONSEQUENCES: those of an oops or a stall."""
    said = _OF_ARM64.sub("", text.removeprefix("Kernel panic - not syncing: "))
    return any(whole.startswith(said) for whole in _ANNOUNCED)


COUNTED = re.compile(r"\[#\d{1,6}\](?:\s|$)")
"""The count of oopses (die_counter) that each has in its header."""

OURS = "kharness: "
"""Prefix of our module's lines, no part of the message."""

POISON = re.compile(r"\b(?:0x)?(?:d6){6}[0-9a-f]{4}\b")
"""A pointer read from a percpu object that our module's quarantine has poisoned (vm/module/quarantine.h), or one into
what it points to."""

FREED = "percpu memory used after it was freed"

FOLLOWED = frozenset({"general protection fault", "page fault", "null deref", "oops", "list corruption"})
"""Reports that such a pointer explains."""

AUXILIARY = re.compile(
    r"^\s*(?:[Aa]llocated by task|[Ff]reed by task|Allocated in |Freed in |Last potentially related|Second to last"
    r"|-> #\d+|the existing dependency chain|the dependencies between|\{IN-|\{[A-Z-]+ON|to a \S+-irq-\S+ lock"
    r"|Preemption disabled at|RCU grace-period kthread stack dump|rcu: RCU grace-period kthread stack dump"
    r"|Uninit was|The buggy address|-> \(|\.{3} (?:acquired|key|which became)|kharness: (?:allocated|freed first) by:)"
)
"""Lines after which the frames that follow are not those of the defect."""

SECTION = re.compile(
    r"^(?:stack backtrace:|NMI backtrace for cpu \d+|Task dump for CPU \d+|Stack dump where RCU GP"
    r"|rcu: Stack dump where|Sending NMI from CPU|task:.{1,40} state:|CPU: \d+ )"
)
"""Lines with which frames of the defect begin (again)."""

TRACE_ENDS = re.compile(r"^Call [Tt]race:")

PLAIN = re.compile(
    # With our module's report of a dying kernel, on arm64 before its registers (vm/module/last_words.c).
    r"^\s*$|^(?:CPU: |Hardware name|Modules linked|Tainted: |Call [Tt]race|RIP: |RSP: |Code: |[A-Z]{2,3}: +[0-9a-f]{4}"
    r"|R\w\w: |CR\d: |DR\d: |PKRU: |Workqueue: |[A-Z][a-z]+_[a-z]+: |pstate: |pc : |lr : |sp : |pmr: "
    r"|x\d+ ?: |irq event stamp"
    r"|(?:hard|soft)irqs last|\s*</?[A-Z_]+>|---\[|#PF: |PGD |Mem abort|Data abort|ESR|FAR|\[[0-9a-f]{16}\]"
    r"|Oops: |Internal error|Kernel Offset|Disabling lock debugging|note: "
    r"|kharness: (?:died during|fault ))|^\s{2}\S.* = |^={10,}|^-{10,}"
    r"|^ ?ra : |^ ?(?:\w{2,8} ?: [0-9a-f]{16}(?: |$))+|^Current \S+ pgtable: "
)
"""Lines that make up a report besides its frames."""
