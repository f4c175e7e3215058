# SPDX-License-Identifier: GPL-2.0-only
"""Declared-optional fault sites: which allocations an operation may do without, and why.

A fault that is absorbed proves nothing by itself: the failure may have been ignored. Where a kernel function has
another way and takes it, a file ``optional.yaml`` beside the tests says so, entry by entry.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from harness.core.definition import load
from harness.core.errors import UsageError
from harness.core.given import convert_some, keyed, listed
from harness.core.records import FaultSite
from harness.faults.types import NAMES

FILE = "optional.yaml"
KEYS: dict[str, Any] = {
    "operation": tuple[str, ...],
    "type": Literal[NAMES],
    "through": tuple[str, ...],
    "reason": str,
    "since": str,
    "arch": tuple[str, ...],
}
STEP = f"an entry has the keys {', '.join(KEYS)}; through and reason are needed"


@dataclass(frozen=True)
class Declared:
    """One entry: sites of `operation` and `type` whose chain has all of `through`, in this order, innermost first.

    Operations and functions are names or patterns (``attach*``). `since` is the first release, `arch` the architectures
    that it is about, all if empty. `place` is FILE:LINE; `reason` identifies it.
    """

    through: tuple[str, ...]
    reason: str
    operation: tuple[str, ...] = ("*",)
    type: str = "any"
    since: str = ""
    arch: tuple[str, ...] = ()
    place: str = ""

    def fits(self, site: FaultSite) -> bool:
        """Whether this entry declares the site optional."""
        return self.about(site) and _holds(site.stack, self.through)

    def about(self, site: FaultSite) -> bool:
        """Whether the entry is about the site's operation and type."""
        named = any(fnmatch.fnmatchcase(site.operation, pattern) for pattern in self.operation)
        return named and self.type in ("any", site.type)


def match(declared: Iterable[Declared], site: FaultSite) -> str:
    """Why the operation may succeed without this allocation; empty where that is not declared."""
    return next((entry.reason for entry in declared if entry.fits(site)), "")


def matcher(declared: Iterable[Declared], arch: str, release: str) -> Callable[[FaultSite], str]:
    """:func:`match` with the entries that are about this kernel."""
    return functools.partial(match, of_kernel(declared, arch, release))


def of_kernel(declared: Iterable[Declared], arch: str, release: str) -> tuple[Declared, ...]:
    """The entries that are about this architecture and release."""
    return tuple(
        entry
        for entry in declared
        if (not entry.arch or arch in entry.arch) and _numbers(entry.since) <= _numbers(release)
    )


def unmatched(declared: Iterable[Declared], sites: Sequence[FaultSite]) -> tuple[Declared, ...]:
    """The entries that match none of these sites, although faults were injected into their operations."""
    injected = [site for site in sites if site.injected]
    return tuple(
        entry
        for entry in declared
        if any(entry.about(site) for site in injected) and not any(entry.fits(site) for site in sites)
    )


def beside(test: Path) -> tuple[Declared, ...]:
    """The entries for a test file: of the nearest ``optional.yaml`` in its folder or one above; read once."""
    return next((read(folder / FILE) for folder in test.parents if (folder / FILE).is_file()), ())


@functools.cache
def read(path: Path) -> tuple[Declared, ...]:
    """The entries of a file. Raises UsageError, naming file, line and key, when it cannot be read or is none."""
    found: list[Declared] = []
    for node in listed(path, "the declared-optional sites", "- through: ...", STEP):
        entry = _entry(node, path)
        if any(other.reason == entry.reason for other in found):
            raise UsageError(f"{entry.place}: this reason is there twice", step="say what is different")
        found.append(entry)
    return tuple(found)


def _entry(node: yaml.Node, path: Path) -> Declared:
    found, line = keyed(node, path, _value, list(KEYS), ("through", "reason"), STEP)
    # Relative, for it goes to the report.
    entry = Declared(**found, place=f"{path.name}:{line}")
    return replace(entry, reason=" ".join(entry.reason.split()))


def _value(node: yaml.Node, name: str, where: str) -> Any:
    value = convert_some(node, KEYS[name], f"{where}: {name}", STEP)
    if name == "since" and not re.fullmatch(r"\d+(\.\d+)+", value):
        raise UsageError(f"{where}: since: {value!r} is no release", step="write it as 7.2")
    if name == "arch":
        for arch in value:
            load(arch)
    return value


def _holds(stack: Sequence[str], through: Sequence[str]) -> bool:
    frames: Iterator[str] = iter(stack)
    return all(any(fnmatch.fnmatchcase(frame, name) for frame in frames) for name in through)


def _numbers(release: str) -> tuple[int, ...]:
    """``7.2.13-1`` as (7, 2, 13)."""
    found = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
