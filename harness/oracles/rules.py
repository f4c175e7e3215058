# SPDX-License-Identifier: GPL-2.0-only
"""Owns how each kind of kernel report begins, as one ordered table read from the kernel's own printks.

Read from 7.2.13 and 6.12: kernel/panic.c, lib/bug.c, arch/x86/kernel/{dumpstack,traps}.c,
arch/x86/mm/fault.c, arch/{arm64,riscv}/kernel/traps.c, arch/{arm64,riscv}/mm/fault.c, mm/kasan/report.c, mm/slub.c,
mm/slab_common.c, mm/page_alloc.c, mm/percpu.c, mm/kmemleak.c, lib/{ubsan,list_debug,fault-inject}.c,
kernel/locking/lockdep.c, lib/smp_processor_id.c, kernel/rcu/tree_stall.h, kernel/{watchdog,hung_task,workqueue}.c,
kernel/sched/core.c, kernel/sched/ext/ext.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.oracles.frames import SYMBOL

_AT = r"(?P<file>[^\s:]{1,256}):(?P<line>\d{1,7})"


@dataclass(frozen=True)
class Rule:
    """How one kind of report begins.

    `kind` is the finding's, or empty for what is read so that its trace is nobody else's and then
    forgotten. The named groups file, line and SYMBOL's are the place that the header names. `main`: frames
    before a line that matches it belong to no finding. `end`: the line that closes the report. `follows`:
    kinds of reports of which this line is the next part. `detail`: in a later line of the
    report, what belongs into the title.
    """

    kind: str
    begin: re.Pattern[str]
    main: re.Pattern[str] | None = None
    end: re.Pattern[str] | None = None
    follows: frozenset[str] = frozenset()
    detail: re.Pattern[str] | None = None


def _rule(
    kind: str, begin: str, *, main: str = "", end: str = "", follows: str = "", detail: str = ""
) -> Rule:
    def maybe(text: str) -> re.Pattern[str] | None:
        return re.compile(text) if text else None

    return Rule(
        kind,
        re.compile(begin),
        maybe(main),
        maybe(end),
        frozenset(follows.split("|")) if follows else frozenset(),
        maybe(detail),
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
    # What is not a finding but has a trace of its own.
    _rule("", r"^FAULT_INJECTION: forcing a failure"),
    _rule("", r"^kmemleak: "),
    _rule("nmi", r"^(?:NMI watchdog: )?NMI backtrace for cpu \d+"),
    _rule("", r"^sysrq: "),
    # Lock debugging, before the plain WARNING: its titles look like one.
    _rule("lockdep", rf"^(?:\[ )?(?:WARNING|BUG|INFO): (?:{_LOCKDEP_TITLES})", main=_STACK, detail=_LOCK),
    _rule("lockdep", r"^\[ BUG: .* \]$", main=_STACK, detail=_LOCK),
    _rule("lockdep", r"^(?:\[ )?INFO: (?:possible|suspicious) .*(?:lock|RCU).*", main=_STACK),
    _rule("lockdep", r"^INFO: trying to register non-static key"),
    _rule("lockdep", r"^BUG: (?:looking up invalid subclass|key \S+ has not been registered)"),
    _rule("suspicious rcu", r"^WARNING: suspicious RCU usage", main=_STACK, detail=rf"^{_AT} (?P<detail>.+)!$"),
    # Memory debugging.
    _rule("kasan", rf"^BUG: KASAN: [\w-]{{1,60}}(?: in {SYMBOL})?", end=_BAR),
    _rule("kcsan", rf"^BUG: KCSAN: [\w-]{{1,60}}(?: in {SYMBOL})?", end=_BAR),
    _rule("kfence", rf"^BUG: KFENCE: [\w -]{{1,60}}? in {SYMBOL}", end=_BAR),
    _rule("kmsan", rf"^BUG: KMSAN: [\w-]{{1,60}} in {SYMBOL}", end=_BAR),
    _rule("ubsan", rf"^UBSAN: .{{1,80}} in {_AT}(?::\d{{1,7}})?$", end=r"^---\[ end trace|^={20,}\s*$"),
    _rule("ubsan", rf"^(?:Internal error: )?UBSAN: .{{1,80}} at {SYMBOL}"),
    _rule("ubsan", r"^Internal error: UBSAN: .{1,80}: [0-9a-f]{16} \[#\d+\]"),
    _rule("slab", r"^BUG (?!at |on )\S+ \(.{1,80}\): .+"),
    _rule("list corruption", r"^list_(?:add|del) (?:corruption|double add)"),
    # Our module's quarantine (vm/module/poison.c).
    _rule(
        "percpu use-after-free", r"^kharness: percpu object used after it was freed: ", main=_FREED, end=_REPORT_END,
    ),
    _rule("percpu double free", r"^kharness: percpu object freed twice: ", main=_FREED, end=_REPORT_END),
    _rule("usercopy", r"^usercopy: Kernel memory (?:exposure|overwrite) attempt"),
    _rule("bad page", r"^BUG: Bad (?:page|rss-counter|pagetable)\b"),
    _rule("allocation failure", r"^.{0,40}: page allocation (?:failure|stall)"),
    _rule("allocation failure", r"^SLUB: Unable to allocate memory"),
    _rule("allocation failure", r"^percpu: allocation failed, size="),
    # Scheduling and waiting.
    _rule("atomic sleep", r"^BUG: sleeping function called from invalid context at (?P<called>\S+:\d+)"),
    _rule("atomic sleep", r"^BUG: scheduling (?:while atomic|in a non-blocking section)"),
    _rule("preemptible", r"^BUG: using .{1,60} in preemptible \[[0-9a-f]{8}\] code"),
    _rule("atomic sleep", r"^BUG: (?:assuming|using) .{1,60}(?:context|\(\))"),
    _rule("soft lockup", r"^(?:[\w ]{1,20}: )?BUG: soft lockup - CPU#\d+"),
    _rule("hard lockup", r"^(?:[\w ]{1,20}: )*(?:CPU\d+: )?Watchdog detected hard LOCKUP"),
    _rule("rcu stall", r"^(?:rcu: )?INFO: \S+ (?:self-)?detected (?:expedited )?stalls? on\b"),
    _rule("rcu stall", r"^rcu: \S+ kthread starved for \d+ jiffies", follows="rcu stall"),
    _rule(
        "hung task", r"^INFO: task .{1,40}:\d+ blocked(?: in I/O wait)? for more than \d+ seconds",
        detail=r"^INFO: task .{1,60} blocked on an? (?P<detail>.{1,100}?)\.?$",
    ),
    _rule("workqueue lockup", r"^BUG: workqueue lockup - pool"),
    # sched_ext.
    _rule(
        "sched_ext",
        r'^sched_ext: BPF (?P<what>\S{1,20}) "(?P<ops>.{0,128})" disabled '
        r"\((?!unregistered from|disabled by sysrq|parent exiting)(?P<reason>.+)\)$",
        detail=r"^sched_ext: (?P<ops>[\w.-]{1,128}): (?P<detail>.+)$",
    ),
    _rule("", r"^sched_ext: BPF \S+ .* disabled \("),
    _rule("sched_ext", r"^sched_ext: (?:Soft|Hard) lockup - CPU"),
    _rule("sched_ext", r"^sched_ext: ops error detected without ops"),
    _rule("sched_ext", r"^sched_ext: [Ff]ailed to \w+"),
    # The kernel's own assertions.
    _rule(
        "warn", rf"^WARNING: (?:\[(?P<cond>.{{0,200}})\] )?{_AT} at (?:{SYMBOL}|0x[0-9a-f]+)",
        follows="list corruption|slab|usercopy",
    ),
    _rule("warn", rf"^WARNING: CPU: \d+ PID: \d+ at {_AT} (?:{SYMBOL})?", follows="list corruption|slab|usercopy"),
    _rule("warn", rf"^WARNING: (?:CPU: \d+ PID: \d+ )?at {SYMBOL}", follows="list corruption|slab|usercopy"),
    _rule("bug", rf"^kernel BUG at {_AT}!", follows="list corruption|slab|usercopy"),
    _rule("bug", rf"^kernel BUG at {SYMBOL}", follows="list corruption|slab|usercopy"),
    # Exceptions.
    _rule("null deref", r"^BUG: kernel NULL pointer dereference"),
    _rule("null deref", r"^Unable to handle kernel NULL pointer dereference"),
    _rule("page fault", r"^BUG: unable to handle (?:kernel )?(?:page fault|paging request)"),
    _rule("page fault", r"^Unable to handle kernel .{1,80} at virtual address"),
    _rule("stack overflow", r"^BUG: .{1,40} stack guard page was hit"),
    _rule("stack overflow", r"^Insufficient stack space to handle exception"),
    _rule("general protection fault", r"^(?:Oops: )?general protection fault\b", follows=_CAUSES),
    _rule("oops", r"^Oops: .*\[#\d+\]", follows=_CAUSES),
    _rule("oops", r"^Internal error: .*\[#\d+\]", follows=_CAUSES),
    _rule("oops", r"^(?:Oops(?: - .{1,80})?|Kernel BUG) \[#\d+\]", follows=_CAUSES),
    _rule("oops", r"^(?:divide error|invalid opcode|stack segment|double fault|traps: PANIC|PANIC: double fault)"
          r".*(?:\[#\d+\]|error_code)", follows=_CAUSES),
    _rule("oops", r"^(?:Bad mode in .* handler|SError Interrupt on CPU\d+)"),
    _rule("panic", r"^Kernel panic - not syncing: "),
    # Anything else the kernel calls a bug. Last: what is above says it better.
    _rule("bug", r"^BUG: (?!MAX_LOCK|MAX_STACK_TRACE)\S.*"),
    # Also what is left of the WARNING that follows these, should it be cut off.
    _rule("warning", r"^WARNING: ", follows="list corruption|slab|usercopy"),
)

_ANY = re.compile("|".join(re.sub(r"\(\?P<\w+>", "(?:", rule.begin.pattern) for rule in RULES))


def begins(text: str) -> tuple[Rule, re.Match[str]] | None:
    """The first rule whose report a line begins. Most lines begin none, which one pattern tells at once."""
    if not _ANY.match(text):
        return None
    return next((rule, match) for rule in RULES if (match := rule.begin.match(text)))


EXIT_KINDS = {
    "runtime error": "SCX_EXIT_ERROR",
    "scx_bpf_error": "SCX_EXIT_ERROR_BPF",
    "runnable task stall": "SCX_EXIT_ERROR_STALL",
}
"""The kind of a scheduler's exit by the reason that is printed for it (scx_exit_reason)."""

CONSEQUENCES = re.compile(
    r"^Kernel panic - not syncing: (?:.*Fatal exception|.*panic_on_warn set|softlockup: hung tasks"
    r"|hung_task: blocked tasks|RCU Stall|.*[Hh]ard LOCKUP|stack-protector|UBSAN|KASAN|kernel: )"
)
"""Panics that only execute what an earlier report has announced."""

_ANNOUNCED = (
    "Fatal exception", "Oops", "softlockup: hung tasks", "hung_task: blocked tasks", "RCU Stall", "Hard LOCKUP",
    "Watchdog detected hard LOCKUP",
)  # fmt: skip
_OF_ARM64 = re.compile(r"^Oops(?: -?[^:]{0,80})?(?::|$) ?")


def is_left_of_consequence(text: str) -> bool:
    """Whether a panic's line that was cut off may have been one of CONSEQUENCES: those of an oops or a stall."""
    said = _OF_ARM64.sub("", text.removeprefix("Kernel panic - not syncing: "))
    return any(whole.startswith(said) for whole in _ANNOUNCED)


COUNTED = re.compile(r"\[#\d{1,6}\](?:\s|$)")
"""The count of oopses (die_counter) that each has in its header."""

OURS = "kharness: "
"""What our module's lines begin with: no part of what they say."""

POISON = re.compile(r"\b(?:0x)?(?:d6){6}[0-9a-f]{4}\b")
"""A pointer read from a percpu object that our module's quarantine has poisoned (vm/module/quarantine.h), or one into
what it points to."""

FREED = "percpu memory used after it was freed"

FOLLOWED = frozenset({"general protection fault", "page fault", "null deref", "oops", "list corruption"})
"""Reports in which such a pointer tells why."""

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
    # With what our module tells of a dying kernel, on arm64 before its registers (vm/module/told.c).
    r"^\s*$|^(?:CPU: |Hardware name|Modules linked|Tainted: |Call [Tt]race|RIP: |RSP: |Code: |[A-Z]{2,3}: +[0-9a-f]{4}"
    r"|R\w\w: |CR\d: |DR\d: |PKRU: |Workqueue: |Sched_ext: |pstate: |pc : |lr : |sp : |pmr: |x\d+ ?: |irq event stamp"
    r"|(?:hard|soft)irqs last|\s*</?[A-Z_]+>|---\[|#PF: |PGD |Mem abort|Data abort|ESR|FAR|\[[0-9a-f]{16}\]"
    r"|Oops: |Internal error|Kernel Offset|Disabling lock debugging|note: "
    r"|kharness: (?:died during|fault ))|^\s{2}\S.* = |^={10,}|^-{10,}"
    r"|^ ?ra : |^ ?(?:\w{2,8} ?: [0-9a-f]{16}(?: |$))+|^Current \S+ pgtable: "
)
"""Lines that make up a report besides its frames."""
