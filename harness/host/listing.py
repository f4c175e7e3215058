# SPDX-License-Identifier: GPL-2.0-only
"""What `kharness cache` and `kharness doctor` print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TextIO

from rich.table import Column, Table

from harness.core.printable import one_line
from harness.core.words import plural
from harness.host.cache import Cache
from harness.host.doctor import Row
from harness.host.progress import console, duration
from harness.host.rootfs import install_command
from harness.host.streams import Lossy

GIB = 1 << 30


def _cell(text: str) -> str:
    """Text for a table, which may be folded anywhere, safe from becoming a CI's command by that."""
    return one_line(text).replace("::", ":\\x3a").replace("section_", "section\\x5f")


def show_cache(cache: Cache, stream: TextIO) -> None:
    """One line an entry, newest first, and one a plain folder, then the sum."""
    table = Table("kind", "key", "size", "last used", box=None, pad_edge=False)
    total = 0
    for entry in sorted([*cache.entries(), *cache.folders()], key=lambda e: e.used, reverse=True):
        total += entry.size
        ago = f"{duration(time.time() - entry.used)} ago" if entry.used else "in the future"
        table.add_row(_cell(entry.kind), _cell(entry.key[:24]), f"{entry.size / GIB:.2f} GiB", ago)
    screen = console(stream)
    screen.print(table, soft_wrap=False)
    screen.print(one_line(f"{total / GIB:.2f} GiB in {cache.root}"))


def prune_cache(cache: Cache, gib: int, stream: TextIO) -> None:
    """Prune to `gib` GiB and say what was removed."""
    gone = cache.prune(None, gib << 30)
    freed = sum(entry.size for entry in gone)
    summary = f"removed {plural(len(gone), 'entry')}, {freed / GIB:.2f} GiB; the cache is {cache.root}"
    console(stream).print(one_line(summary))


def show_doctor(rows: Sequence[Row], stream: TextIO) -> bool:
    """The doctor's table, then the one command for all packages that are missing, and what else is to do.

    True when all is well.
    """
    columns = [Column(name, overflow="fold") for name in ("", "tool", "found", "needed", "why")]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row("ok" if row.ok else "--", *map(_cell, (row.tool, row.found, row.needed, row.why)))
    screen = console(stream)
    screen.print(table, soft_wrap=not Lossy(stream).isatty())
    bad = [row for row in rows if not row.ok]
    packages = [package for row in bad for package in row.packages]
    steps = [install_command(packages)] if packages else []
    for step in dict.fromkeys([*steps, *(row.step for row in bad if row.step)]):
        screen.print(one_line(f"to fix: {step}"))
    return not bad
