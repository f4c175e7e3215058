# SPDX-License-Identifier: GPL-2.0-only
"""Owns the tables of fault sites: what was reached and made to fail under the functions under test.

Pure: raw observations in, records out. A site is keyed by operation, fault type and chain of function
names, which is the same on every build of the same source; addresses, offsets and compiler suffixes are not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from harness.records import FaultSite, FaultSummary, HarnessError

_CLONE = re.compile(r"(?:\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*)+$")

# What a stack taken at an injection hook starts with: the hook itself and the tracing that looks at it
# (lib/fault-inject.c, mm/failslab.c, mm/fail_page_alloc.c, kernel/bpf/trampoline.c).
_HOOK = re.compile(
    r"(?:__)?should_fail(?:slab|_ex|_alloc_page)?|fail_dump|fail_stacktrace"
    r"|\?|bpf_prog_[0-9a-f]{16}\w*|bpf_trampoline_\d+\w*|__bpf_prog_(?:enter|exit)\w*|bpf_get_stack\w*|stack_trace_save\w*"
)

# Programs and the images that call them: names hold a hash or an id, and their number differs between loads. An
# address that no symbol covers ("?") is JITed code too.
_BPF = re.compile(r"\?|bpf_prog_[0-9a-f]{16}\w*|bpf_trampoline_\d+\w*|bpf__\w+|bpf_dispatcher_\w+_func|bpf")

# Where a task enters the kernel or a kthread starts: from here outward the chain tells only the architecture.
_BOUNDARY = re.compile(
    r"__[a-z]+[0-9]*_sys_\w+|x64_sys_call|do_syscall_64|entry_SYSCALL\w*|(?:__)?invoke_syscall"
    r"|(?:do_)?el0_\w+|el0t_\w+|do_trap_ecall_u|handle_exception|kthread|ret_from_fork\w*"
)


@dataclass(frozen=True)
class RawSite:
    """One allocation site as the guest saw it during one operation.

    `type` is ``failslab``, ``page`` or ``function``; `stack` holds decoded function names, innermost first,
    without offsets; `size` is bytes (failslab) or order (page). `reached` counts arrivals, `injected` those
    made to fail; of these, `ret_errors` ended with the operation returning an error and `ret_ok` without.
    """

    type: str
    stack: tuple[str, ...]
    size: int = 0
    gfp: int = 0
    reached: int = 0
    injected: int = 0
    ret_errors: int = 0
    ret_ok: int = 0


def base_name(function: str) -> str:
    """A function without what the compiler appended to a clone: ``init_dsq.isra.0`` is ``init_dsq``."""
    return _CLONE.sub("", function)


def normalise(stack: Iterable[str]) -> tuple[str, ...]:
    """A stack as the key of a site, innermost first.

    Injection hooks at the innermost end and everything from the system call's entry outward are dropped, each
    run of BPF frames becomes ``bpf``, compiler suffixes go, and an address without a symbol becomes ``?``.
    """
    names = ["?" if name.startswith("0x") else base_name(name) for name in stack]
    names = list(itertools.dropwhile(_HOOK.fullmatch, names))
    names = list(itertools.takewhile(lambda name: not _BOUNDARY.fullmatch(name), names))
    chain: list[str] = []
    for name in names:
        name = "bpf" if _BPF.fullmatch(name) else name
        if name != "bpf" or chain[-1:] != ["bpf"]:
            chain.append(name)
    return tuple(chain)


def is_under(stack: Iterable[str], functions: Collection[str]) -> bool:
    """Whether a stack has one of the functions under test, or a clone of one, among its frames.

    A function that the compiler inlined into its caller has no frame: name the caller as well.
    """
    wanted = frozenset(functions)
    return any(name in wanted or base_name(name) in wanted for name in stack)


def outcome(injected: int, errors: int, ok: int) -> str:
    """How the injected faults of one site ended.

    ``handled``: each made the operation return an error; ``absorbed``: none did; ``mixed``: some, or the end
    of some is unknown; ``none``: nothing was injected, or of no injection the end is known.
    """
    if injected == 0 or errors + ok == 0:
        return "none"
    if errors == injected:
        return "handled"
    return "absorbed" if ok == injected else "mixed"


def summarise(operation: str, rows: Iterable[RawSite], functions: Collection[str]) -> FaultSummary:
    """The fault sites of one operation that lie under the functions under test, in a stable order.

    `handled` of the summary counts injections after which the operation returned an error. Sites with the
    same key are added up; their size and flags are those of the largest. Raises HarnessError if more
    operations are accounted for than faults were injected, for then the observation itself is broken.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[RawSite]] = {}
    for row in rows:
        if is_under(row.stack, functions):
            groups.setdefault((row.type, normalise(row.stack)), []).append(row)
    sites: list[FaultSite] = []
    handled = 0
    for (kind, chain), group in sorted(groups.items()):
        injected = sum(row.injected for row in group)
        errors, ok = sum(row.ret_errors for row in group), sum(row.ret_ok for row in group)
        if errors + ok > injected:
            raise HarnessError(
                f"the {kind} site {' < '.join(chain)} of {operation} was made to fail {injected} times"
                f" but {errors + ok} results are booked on it",
                step="the collector of fault sites counts wrongly",
            )
        largest = max(group, key=lambda row: (row.size, row.gfp))
        reached = sum(row.reached for row in group)
        how = outcome(injected, errors, ok)
        sites.append(FaultSite(operation, kind, chain, largest.size, largest.gfp, reached, injected, how))
        handled += errors
    return FaultSummary(sum(s.reached for s in sites), sum(s.injected for s in sites), handled, tuple(sites))


def total(summaries: Iterable[FaultSummary]) -> FaultSummary:
    """The summaries of a test's operations as one. Each operation must have been summarised once only."""
    parts = list(summaries)
    sites = tuple(sorted((s for p in parts for s in p.sites), key=lambda s: (s.operation, s.type, s.stack)))
    keys = {(s.operation, s.type, s.stack) for s in sites}
    if len(keys) != len(sites):
        raise HarnessError(
            "an operation's fault sites were summarised twice", step="summarise all its rows at once"
        )
    return FaultSummary(
        sum(p.reached for p in parts), sum(p.injected for p in parts), sum(p.handled for p in parts), sites
    )
