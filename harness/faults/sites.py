# SPDX-License-Identifier: GPL-2.0-only
"""The tables of fault sites: which were reached and failed under the functions under test.

Pure: raw observations in, records out. A site is keyed by operation, fault type and chain of function
names, which is the same on every build of the same source; addresses, offsets and compiler suffixes are not.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.errors import HarnessError
from harness.core.records import FaultSite, FaultSummary, Frame
from harness.core.words import plural

_CLONE = re.compile(r"(?:\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*)+$")

# The first functions of a stack taken at an injection hook: the hook itself and the tracing
# (lib/fault-inject.c, mm/failslab.c, mm/fail_page_alloc.c, kernel/bpf/trampoline.c).
_HOOK = re.compile(
    r"(?:__)?should_fail(?:slab|_ex|_alloc_page)?|fail_dump|fail_stacktrace"
    r"|\?|bpf_prog_[0-9a-f]{16}\w*|bpf_trampoline_\d+\w*|__bpf_prog_(?:enter|exit)\w*|bpf_get_stack\w*|stack_trace_save\w*"
)

# Programs and the images that call them: names contain a hash or an id, and their number differs between loads. An
# address that no symbol covers ("?") is JITed code too.
_BPF = re.compile(r"\?|bpf_prog_[0-9a-f]{16}\w*|bpf_trampoline_\d+\w*|bpf__\w+|bpf_dispatcher_\w+_func|bpf")

# Where a task enters the kernel or a kthread starts: from here outward the chain only depends on the architecture.
_BOUNDARY = re.compile(
    r"__[a-z]+[0-9]*_sys_\w+|x64_sys_call|do_syscall_64|entry_SYSCALL\w*|(?:__)?invoke_syscall"
    r"|(?:do_)?el0_\w+|el0t_\w+|do_trap_ecall_u|handle_exception|kthread|ret_from_fork\w*"
)


WORST = ("crash", "hang", "splat", "leaked", "wrong errno", "absorbed", "handled")
"""How an injected fault may end, the worst first. Only ``handled`` passes by itself."""


Key = tuple[str, str, tuple[str, ...]]
"""Operation, fault type, chain of functions."""


@dataclass(frozen=True)
class Ended:
    """How runs ended in which one site failed: `outcome` is one of WORST, `answer` the operation's answer."""

    outcome: str
    answer: str
    times: int = 1


@dataclass(frozen=True)
class RawSite:
    """One allocation site as the guest saw it during one operation.

    `type` is ``failslab``, ``page`` or ``function``; `frames` are decoded, innermost first; `size` is bytes (failslab)
    or order (page), `flags` are `gfp` by name. `reached` counts arrivals, `injected` failures, `endings` how these
    ended.
    """

    type: str
    frames: tuple[Frame, ...]
    size: int = 0
    gfp: int = 0
    reached: int = 0
    injected: int = 0
    endings: tuple[Ended, ...] = ()
    flags: str = ""

    @property
    def stack(self) -> tuple[str, ...]:
        """The frames' functions."""
        return tuple(frame.function for frame in self.frames)


def base_name(function: str) -> str:
    """A function without the compiler's suffix of a clone: ``copy_process.isra.0`` is ``copy_process``."""
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


def worst(outcomes: Iterable[str]) -> str:
    """The worst of these outcomes; ``none`` of none."""
    return min(outcomes, key=WORST.index, default="none")


def summarise(
    operation: str,
    rows: Iterable[RawSite],
    functions: Collection[str],
    optional: Callable[[FaultSite], str] = lambda site: "",
) -> FaultSummary:
    """The fault sites of one operation that lie under the functions under test, in a stable order.

    `handled` of the summary counts injections after which the operation returned an error and all was as before.
    Sites with the same key are added up; their size and flags are those of the largest. `optional` says why an
    operation may do without a site. Raises HarnessError if more operations are accounted for than faults were
    injected: then the observation itself is broken.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[RawSite]] = {}
    for row in rows:
        if is_under(row.stack, functions):
            groups.setdefault((row.type, normalise(row.stack)), []).append(row)
    sites = []
    for (kind, chain), group in sorted(groups.items(), key=lambda item: item[0]):
        site = _site(operation, kind, chain, group)
        sites.append(replace(site, optional=optional(site)))
    return FaultSummary(
        sum(s.reached for s in sites),
        sum(s.injected for s in sites),
        sum(s.outcomes.get("handled", 0) for s in sites),
        tuple(sites),
    )


def _site(operation: str, kind: str, chain: tuple[str, ...], group: Sequence[RawSite]) -> FaultSite:
    outcomes: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for ended in (ended for row in group for ended in row.endings):
        outcomes[ended.outcome] += ended.times
        answers[ended.answer] += ended.times
    injected = sum(row.injected for row in group)
    if outcomes.total() > injected:
        raise HarnessError(
            f"the {kind} site {' < '.join(chain)} of {operation} was made to fail {plural(injected, 'time')}"
            f" but has {plural(outcomes.total(), 'result')} booked on it",
            step="the collector of fault sites counts wrongly",
        )
    largest = max(group, key=lambda row: (row.size, row.gfp))
    return FaultSite(
        operation,
        kind,
        chain,
        largest.size,
        largest.gfp,
        sum(row.reached for row in group),
        injected,
        worst(outcomes),
        largest.frames,
        dict(outcomes),
        dict(answers),
        flags=largest.flags,
    )


def merge(first: FaultSite, second: FaultSite) -> FaultSite:
    """Merge two observations of one site."""
    larger = max(first, second, key=lambda site: (site.size, site.gfp))
    outcomes = Counter(first.outcomes) + Counter(second.outcomes)
    return replace(
        larger,
        reached=first.reached + second.reached,
        injected=first.injected + second.injected,
        outcomes=dict(outcomes),
        outcome=worst(outcomes),
        answers=dict(Counter(first.answers) + Counter(second.answers)),
        optional=first.optional or second.optional,
        findings=tuple(dict.fromkeys((*first.findings, *second.findings))),
    )


def key(site: FaultSite) -> Key:
    """The identity of a site, the same on every build of the same source."""
    return site.operation, site.type, site.stack


def blame(summary: FaultSummary, site: Key, outcome: str, signature: str) -> FaultSummary:
    """The summary with one of a site's better outcomes replaced by `outcome`, for a finding that came under it."""
    sites = tuple(_blamed(one, outcome, signature) if key(one) == site else one for one in summary.sites)
    return replace(summary, sites=sites, handled=sum(one.outcomes.get("handled", 0) for one in sites))


def _blamed(site: FaultSite, outcome: str, signature: str) -> FaultSite:
    better = [o for o in site.outcomes if WORST.index(o) > WORST.index(outcome)]
    counts = Counter(site.outcomes)
    if better and signature not in site.findings:
        counts[max(better, key=WORST.index)] -= 1
        counts[outcome] += 1
    counts = +counts
    found = tuple(dict.fromkeys((*site.findings, signature)))
    return replace(site, outcomes=dict(counts), outcome=worst(counts), findings=found)


def total(summaries: Iterable[FaultSummary]) -> FaultSummary:
    """Merge the summaries of a test's operations; a site that several have becomes one."""
    parts = list(summaries)
    found: dict[Key, FaultSite] = {}
    for site in (site for part in parts for site in part.sites):
        found[key(site)] = merge(found[key(site)], site) if key(site) in found else site
    return FaultSummary(
        sum(part.reached for part in parts),
        sum(part.injected for part in parts),
        sum(part.handled for part in parts),
        tuple(found[name] for name in sorted(found)),
    )
