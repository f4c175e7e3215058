# SPDX-License-Identifier: GPL-2.0-only
"""Owns what `kharness cache` and `kharness doctor` print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Column, Table

from harness.host.cache import Cache
from harness.host.doctor import Row
from harness.host.progress import duration
from harness.host.rootfs import install_command
from harness.words import plural

GIB = 1 << 30


def show_cache(cache: Cache, stream: TextIO) -> None:
    """One line an entry, newest first, then the sum."""
    table = Table("kind", "key", "size", "last used", box=None, pad_edge=False)
    total = 0
    for entry in sorted(cache.entries(), key=lambda e: e.used, reverse=True):
        total += entry.size
        ago = duration(time.time() - entry.used)
        table.add_row(entry.kind, entry.key[:24], f"{entry.size / GIB:.2f} GiB", f"{ago} ago")
    console = Console(file=stream, highlight=False)
    console.print(table)
    console.print(f"{total / GIB:.2f} GiB in {cache.root}")


def prune_cache(cache: Cache, gib: int, stream: TextIO) -> None:
    """Prunes to `gib` GiB and says what went."""
    gone = cache.prune(None, gib << 30)
    freed = sum(entry.size for entry in gone)
    print(f"removed {plural(len(gone), 'entry')}, {freed / GIB:.2f} GiB; the cache is {cache.root}", file=stream)


def show_doctor(rows: Sequence[Row], stream: TextIO) -> bool:
    """The doctor's table, then the one command for all packages that are missing, and what else is to do.

    True when all is well.
    """
    columns = [Column(name, overflow="fold") for name in ("", "tool", "found", "needed", "why")]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row("ok" if row.ok else "--", row.tool, row.found, row.needed, row.why)
    Console(file=stream, highlight=False, soft_wrap=not stream.isatty()).print(table)
    bad = [row for row in rows if not row.ok]
    packages = [package for row in bad for package in row.packages]
    steps = [install_command(packages)] if packages else []
    for step in dict.fromkeys([*steps, *(row.step for row in bad if row.step)]):
        print(f"to mend: {step}", file=stream)
    return not bad
