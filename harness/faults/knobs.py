# SPDX-License-Identifier: GPL-2.0-only
"""The writes that arm and disarm a fault: debugfs knobs and /proc files, in order, as plain pairs.

Pure: nothing is written here. Names, units and traps were read from lib/fault-inject.c, mm/failslab.c,
mm/fail_page_alloc.c, kernel/fail_function.c and fs/proc/base.c (7.2.13). The traps:

- by default neither failslab nor fail_page_alloc touches an allocation that may sleep (ignore-gfp-wait=Y),
  and fail_page_alloc also spares order 0 (min-order=1) and __GFP_HIGHMEM (ignore-gfp-highmem=Y): a run with
  the defaults injects nothing. This holds for fail-nth too;
- `times` is 1 by default and counts down: after one failure there are no more;
- `interval` counts from boot, not from the write: "every n-th" has an unknown phase, "the n-th" needs
  fail-nth or, for fail_function, `space`, whose unit is calls there (bytes for failslab, pages for page);
- verbose is 2 by default: each failure, fail-nth's too, prints a stack;
- fail-nth counts sites of every type. A type is left out by a stack filter that nothing can meet.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from harness.core.errors import UsageError
from harness.core.records import Fault
from harness.faults import types
from harness.faults.sites import base_name
from harness.faults.types import FaultType, Knob

Ranges = Mapping[str, tuple[int, int]]

FUNCTION = types.FUNCTION.folder

PERCPU_ALLOC = "pcpu_alloc_noprof"
"""The function behind alloc_percpu(); fail_function takes it only after our module has listed it."""

ULONG_MAX = (1 << 64) - 1
MAX_DEPTH = 32
"""MAX_STACK_TRACE_DEPTH in lib/fault-inject.c; deeper values are cut to it."""

_EVERYWHERE = (0, ULONG_MAX)
_NTH = types.chosen(types.ANY)
_NOWHERE = (1, 1)  # an empty range, unlike the default, which disables the check


def arm(fault: Fault, ranges: Ranges, target: str = PERCPU_ALLOC, retval: int = 0) -> tuple[Knob, ...]:
    """The writes (path in the guest, value) that arm a fault, in order; the last one makes it live.

    `ranges` maps function names to text addresses [start, end), from /proc/kallsyms of this boot. `target` is
    the function that ``what="function"`` makes return `retval`. Raises UsageError for a fault that contradicts
    itself, or names a function that is not in `ranges`.

    What allocates in a kernel thread on behalf of the agent (kthreads, workqueues) needs
    ``task="all"`` and a `within`. On arm64 the stack seen at a function's entry lacks its immediate caller:
    for ``what="function"`` name the caller's callers there. Children inherit make-it-fail, not fail-nth.
    """
    _check(fault)
    where = _range(fault.within, ranges)
    writes: list[Knob] = []
    if fault.what == "function":
        # "\n" empties the list first: a function that is already on it is refused with EBUSY.
        writes += [
            (f"{FUNCTION}/inject", "\n"),
            (f"{FUNCTION}/inject", target),
            (f"{FUNCTION}/{target}/retval", str(retval % (1 << 64))),
        ]
    chosen = types.chosen(fault.what)
    for one in chosen:
        writes += _settings(one, fault, where)
    if _is_fail_nth(fault):
        for other in _NTH:
            if other not in chosen:
                writes += [(f"{other.folder}/probability", "0"), *_filter(other.folder, _NOWHERE)]
        return (*writes, (_proc(fault, "fail-nth"), str(fault.nth)))
    writes += [(f"{one.folder}/probability", str(fault.probability or 100)) for one in chosen]
    if fault.task != "all":
        writes.append((_proc(fault, "make-it-fail"), "1"))
    return tuple(writes)


def disarm(fault: Fault) -> tuple[Knob, ...]:
    """The writes that disarm a fault, the most urgent first; also correct if arming failed half way."""
    _check(fault)
    writes: list[Knob] = []
    if fault.task != "all":
        writes.append((_proc(fault, "fail-nth" if _is_fail_nth(fault) else "make-it-fail"), "0"))
    directories = {one.folder for one in (*types.chosen(fault.what), *(_NTH if _is_fail_nth(fault) else ()))}
    for directory in sorted(directories):
        writes += [(f"{directory}/probability", "0"), (f"{directory}/task-filter", "N")]
        writes += _filter(directory, _EVERYWHERE)
    if fault.what == "function":
        writes.append((f"{FUNCTION}/inject", "\n"))
    return tuple(writes)


def resolve(function: str, ranges: Ranges) -> tuple[int, int]:
    """The text range of a function, or of its only clone. UsageError with near names if there is none."""
    if function in ranges:
        return ranges[function]
    clones = sorted(name for name in ranges if base_name(name) == function)
    if len(clones) == 1:
        return ranges[clones[0]]
    if clones:
        raise UsageError(
            f"{function} exists in this kernel only as {', '.join(clones)}", step="name the one that is meant"
        )
    near = difflib.get_close_matches(function, list(ranges), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "look it up in /proc/kallsyms of the guest"
    raise UsageError(f"this kernel has no function {function} (misspelt, or inlined into its callers)", step=hint)


def _is_fail_nth(fault: Fault) -> bool:
    return fault.nth is not None and fault.what != "function"


def _check(fault: Fault) -> None:
    if fault.what not in types.NAMES:
        raise UsageError(f"no such fault: {fault.what!r}", step=f"use one of {', '.join(types.NAMES)}")
    which = [n for n in ("nth", "every", "probability") if getattr(fault, n) is not None]
    if len(which) != 1:
        raise UsageError(
            f"a fault says nth, every or probability, not {' and '.join(which) or 'none of them'}", step="set one"
        )
    value = getattr(fault, which[0])
    if value < 1 or (which[0] == "probability" and value > 100):
        raise UsageError(
            f"{which[0]} {value} injects nothing or is no {which[0]}", step="use 1 or more, per cent up to 100"
        )
    if fault.seed is not None:
        raise UsageError("the kernel's fault injection cannot be seeded", step="use nth, which repeats exactly")
    if fault.caller:
        raise UsageError(
            "fail_function does not distinguish callers", step="name what must be on the stack, with within"
        )
    if fault.task not in ("self", "all") and not (fault.task.isascii() and fault.task.isdigit()):
        raise UsageError(f"no such task: {fault.task!r}", step="use self, all or a thread id")
    if fault.task == "all" and _is_fail_nth(fault):
        raise UsageError("fail-nth counts the sites of one task", step="use task self or a thread id")


def _range(within: tuple[str, ...], ranges: Ranges) -> tuple[int, int]:
    if not within:
        return _EVERYWHERE
    if len(within) > 1:
        raise UsageError(
            f"the kernel's stack filter takes one range, not those of {', '.join(within)}",
            step="name one function; which sites lie under the others is found afterwards",
        )
    start, end = resolve(within[0], ranges)
    if not 0 < start < end <= ULONG_MAX:
        raise UsageError(
            f"{within[0]} has no usable text range ({start:#x} to {end:#x})", step="set kernel.kptr_restrict to 0"
        )
    return start, end


def _filter(directory: str, where: tuple[int, int]) -> list[Knob]:
    start, end = where
    return [
        (f"{directory}/stacktrace-depth", str(MAX_DEPTH)),
        (f"{directory}/require-start", f"{start:#x}"),
        (f"{directory}/require-end", f"{end:#x}"),
    ]


def _settings(one: FaultType, fault: Fault, where: tuple[int, int]) -> list[Knob]:
    """All settings except the one that makes it live. probability goes to 0 first: these writes allocate memory too."""
    directory = one.folder
    nth_call = fault.what == "function" and fault.nth is not None
    own = [(f"{directory}/{name}", value) for name, value in one.settings]
    return [
        (f"{directory}/probability", "0"),
        *own,
        (f"{directory}/interval", str(fault.every or 1)),
        (f"{directory}/times", "1" if nth_call else "-1"),
        (f"{directory}/space", str(fault.nth) if nth_call else "0"),
        (f"{directory}/verbose", "0"),
        (f"{directory}/task-filter", "N" if fault.task == "all" or _is_fail_nth(fault) else "Y"),
        *_filter(directory, where),
    ]


def _proc(fault: Fault, name: str) -> str:
    return f"/proc/{fault.task}/{name}"
