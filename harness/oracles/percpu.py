# SPDX-License-Identifier: GPL-2.0-only
"""The percpu count: exact totals of /sys/kernel/debug/percpu_stats before and after."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.core.errors import HarnessError
from harness.core.records import Finding
from harness.core.words import plural
from harness.oracles.splat.frames import signature

ORACLE = "percpu"
_LINE = re.compile(r"^[ \t]+(\w{1,40})[ \t]*:[ \t]*(-?\d{1,20})[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Totals:
    """The global part of percpu_stats (mm/percpu-stats.c). `nr_*` count objects, sizes are bytes of one unit."""

    nr_alloc: int
    nr_dealloc: int
    nr_cur_alloc: int
    nr_max_alloc: int
    nr_chunks: int
    unit_size: int


def parse(text: str) -> Totals:
    """The totals in the text of percpu_stats.

    Raises HarnessError when a total is missing: the kernel lacks CONFIG_PERCPU_STATS, or the read was cut off.
    """
    head = text.split("Per Chunk Stats:", 1)[0]
    values = {name: int(number) for name, number in _LINE.findall(head)}
    names = tuple(Totals.__dataclass_fields__)
    missing = [n for n in names if n not in values]
    if missing:
        raise HarnessError(
            f"percpu_stats lacks {', '.join(missing)}", step="build the kernel with CONFIG_PERCPU_STATS=y"
        )
    return Totals(**{n: values[n] for n in names})


def findings(before: Totals, after: Totals, allowed: int = 0) -> list[Finding]:
    """How many objects are allocated at a quiescent point that were not before.

    `allowed` is how many more objects are legitimate. The count is exact, but does not show where.
    """
    more = after.nr_cur_alloc - before.nr_cur_alloc
    if more <= allowed:
        return []
    beyond = f", {allowed} allowed" if allowed else ""
    title = (
        f"{plural(more, 'percpu object')} more than before{beyond}: {before.nr_cur_alloc} before, "
        f"{after.nr_cur_alloc} after ({after.nr_alloc - before.nr_alloc} allocated, "
        f"{after.nr_dealloc - before.nr_dealloc} freed)"
    )
    return [
        Finding(
            oracle=ORACLE, kind="percpu count", title=title, signature=signature(ORACLE, "percpu count", ()), count=more
        )
    ]
