# SPDX-License-Identifier: GPL-2.0-only
"""The types of faults that can be injected, one record each.

A new type is a record here and, where a fault plan (--faults) or a sweep is to use it, its programs in
bpf_progs/observers/fault_policy.bpf.c, and its site in fault_sites.bpf.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DEBUGFS = "/sys/kernel/debug"

Knob = tuple[str, str]
"""A file of a fault's folder, and the value for it."""


@dataclass(frozen=True)
class FaultType:
    """One type of fault.

    `name` is what plans and reports call it. `folder` is its fault_attr in debugfs
    (Documentation/fault-injection/fault-injection.rst), `settings` the writes there whenever it is armed. `policy`
    is its number in fault_policy.bpf.c, and `programs` are those that it needs there. `site` is the number under which
    the program `observed_by` of fault_sites.bpf.c records its sites; without them no site is seen. `nth`: fail-nth of
    a task may choose it. `size` describes a site's size.
    """

    name: str
    folder: str
    policy: int
    programs: tuple[str, ...]
    site: int = 0
    observed_by: str = ""
    nth: bool = True
    settings: tuple[Knob, ...] = ()
    size: Callable[[int], str] = lambda size: f"{size} B"


SLAB = FaultType(
    "failslab",
    f"{DEBUGFS}/failslab",
    1,
    ("fail_slab",),
    site=1,
    observed_by="slab_site",
    settings=(("ignore-gfp-wait", "N"), ("cache-filter", "N")),
)
PAGE = FaultType(
    "page",
    f"{DEBUGFS}/fail_page_alloc",
    2,
    ("fail_page",),
    site=2,
    observed_by="page_site",
    settings=(("ignore-gfp-wait", "N"), ("ignore-gfp-highmem", "N"), ("min-order", "0")),
    size=lambda order: f"order {order}",
)
FUNCTION = FaultType("function", f"{DEBUGFS}/fail_function", 4, ("fail_percpu",), nth=False)

TYPES = (SLAB, PAGE, FUNCTION)
ANY = "any"
"""Every type that fail-nth may choose."""

NAMES = (ANY, *(one.name for one in TYPES))


def chosen(name: str) -> tuple[FaultType, ...]:
    """The types that a name stands for. Raises KeyError for none."""
    found = tuple(one for one in TYPES if (one.nth if name == ANY else one.name == name))
    if not found:
        raise KeyError(name)
    return found


def policy(name: str) -> int:
    """The bits of these types in fault_policy.bpf.c."""
    return sum(one.policy for one in chosen(name))


def of_site(number: int) -> str:
    """The type of a site that fault_sites.bpf.c noted; empty for a number that is none."""
    return next((one.name for one in TYPES if one.site and one.site == number), "")


def size(name: str, number: int) -> str:
    """The size of a site's allocation, in words."""
    return next((one.size(number) for one in TYPES if one.name == name), f"{number} B")
