# SPDX-License-Identifier: GPL-2.0-only
"""Fault plans: read from YAML, written as one line, checked against a kernel's symbols, and which calls they fail.

Pure but for the file that is read. A plan is a list of entries, or one entry alone:

    - {operation: attach, what: failslab, within: [copy_process], task: kthreadd, nth: 3}
    - {operation: create, what: function, caller: cgroup_create, every: 2}
    - {operation: fork, probability: 10, seed: 7}
    - {operation: destroy}
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from harness.core.errors import UsageError
from harness.core.given import compose, convert_some, keyed, unknown
from harness.core.plan import FaultPlan
from harness.core.records import Fault
from harness.faults.knobs import Ranges, resolve
from harness.faults.types import NAMES

What = Literal[NAMES]  # type: ignore[valid-type]
Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]

KEYS: dict[str, Any] = {
    "operation": str,
    "what": What,
    "within": tuple[str, ...],
    "caller": str,
    "task": str,
    "nth": Count,
    "every": Count,
    "probability": Annotated[int, msgspec.Meta(ge=1, le=100)],
    "seed": Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)],
}
WHICH = ("nth", "every", "probability")
"""The keys that say how often; with none of them each allocation fails once."""

STEP = f"an entry has the keys {', '.join(KEYS)}; operation is needed"
MASK = (1 << 64) - 1

_FUNCTION = re.compile(r"[A-Za-z_][\w.$]*")


def read(path: Path, operations: Collection[str]) -> tuple[FaultPlan, ...]:
    """The entries of a fault plan, of these operations.

    Raises UsageError, naming file, line and key, when it cannot be read, is no fault plan, or is empty.
    """
    top = compose(path, "the fault plan")
    nodes = [top] if isinstance(top, yaml.MappingNode) else top.value if isinstance(top, yaml.SequenceNode) else []
    if not nodes:
        raise UsageError(f"{path}: no faults: a list of entries ('- operation: ...') is wanted", step=STEP)
    found: dict[str, FaultPlan] = {}
    for node in nodes:
        entry = _entry(node, path, operations)
        if entry.name in found:
            raise UsageError(f"{entry.place}: this fault is there twice", step="keep one of them")
        found[entry.name] = entry
    return tuple(found.values())


def _entry(node: yaml.Node, path: Path, operations: Collection[str]) -> FaultPlan:
    found, number = keyed(node, path, _value, list(KEYS), ("operation",), STEP)
    place, operation = f"{path}:{number}", found.pop("operation")
    if operation not in operations:
        raise UsageError(f"{place}: operation: {unknown(operation, operations, 'operation')}", step=STEP)
    fault = Fault(**found)
    _check(fault, place)
    return FaultPlan(operation, fault, place)


def _value(node: yaml.Node, name: str, where: str) -> Any:
    """The value of a key; a list of one needs no brackets."""
    hint, where = KEYS[name], f"{where}: {name}"
    value = convert_some(node, str if hint is What else hint, where, STEP)
    if hint is What and value not in NAMES:
        raise UsageError(f"{where}: {unknown(value, NAMES, 'type')}", step=STEP)
    functions = value if name == "within" else (value,) if name == "caller" else ()
    for function in functions:
        if not _FUNCTION.fullmatch(function):
            raise UsageError(f"{where}: {function!r} is no function's name", step="write it as the source does")
    if name == "task" and not (value.isprintable() and value.strip()):
        raise UsageError(f"{where}: {value!r} is no thread's name", step="use self, all or a name from /proc/PID/comm")
    return value


def _check(fault: Fault, place: str) -> None:
    """Raise UsageError for keys that exclude each other."""
    which = [name for name in WHICH if getattr(fault, name) is not None]
    if len(which) > 1:
        step = "keep one of them; with none each allocation fails once"
        raise UsageError(f"{place}: {' and '.join(which)} exclude each other", step=step)
    if fault.seed is not None and fault.probability is None:
        raise UsageError(f"{place}: seed: nothing is drawn", step="a seed goes with probability")
    if fault.caller and fault.what != "function":
        raise UsageError(f"{place}: caller: only calls of alloc_percpu() are distinguished", step="add what: function")


def line(plan: FaultPlan) -> str:
    """The entry as one line of YAML that :func:`read` takes."""
    fault, plain = plan.fault, Fault()
    keys: dict[str, Any] = {"operation": plan.operation}
    for name in KEYS:
        if name in {field.name for field in fields(Fault)} and getattr(fault, name) != getattr(plain, name):
            value = getattr(fault, name)
            keys[name] = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=1 << 30)
    return text.strip()


# --- the kernel's symbols -----------------------------------------------------------------


def functions(plan: FaultPlan) -> Iterator[tuple[str, str]]:
    """The functions that an entry names, each with its key."""
    yield from (("within", function) for function in plan.fault.within)
    if plan.fault.caller:
        yield "caller", plan.fault.caller


def check(plans: Sequence[FaultPlan], ranges: Ranges) -> None:
    """Raise UsageError, with near names, for a function that the kernel does not have."""
    for plan in plans:
        for key, function in functions(plan):
            try:
                resolve(function, ranges)
            except UsageError as error:
                raise UsageError(f"{plan.place}: {key}: {error.what}", step=error.step) from error


# --- which of the calls fail --------------------------------------------------------------


def chosen(fault: Fault, number: int) -> bool:
    """Whether the call of this number, from 1, fails: as bpf_progs/observers/fault_policy.bpf.c decides."""
    if fault.nth is not None:
        return number == fault.nth
    if fault.every is not None:
        return number % fault.every == 0
    return _draw(fault.seed or 0, number) % 100 < (fault.probability or 0)


def _draw(seed: int, number: int) -> int:
    """splitmix64."""
    z = (seed + number * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)
