# SPDX-License-Identifier: GPL-2.0-only
"""`kharness cache list` and `kharness cache prune`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness.core.plan import CACHE_CAP_GIB


def show() -> None:
    """What the cache holds, newest first."""
    from harness.host.cache import Cache
    from harness.host.listing import show_cache

    show_cache(Cache.default(0), sys.stdout)


def prune(gib: Annotated[int, typer.Option("--to", min=0, help="GiB to keep; 0 empties it.")] = CACHE_CAP_GIB) -> None:
    """Remove what was used longest ago, down to a size."""
    from harness.host.cache import Cache
    from harness.host.listing import prune_cache

    prune_cache(Cache.default(0), gib, sys.stdout)
