# SPDX-License-Identifier: GPL-2.0-only
"""The oracle of freed memory under a reader: memory that was freed within a reader's RCU section becomes a finding."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.records import Finding, Frame
from harness.oracles.splat.blame import base_name
from harness.oracles.splat.frames import chain, guilt, signature

ORACLE = "held reader"
KIND = "freed too early"

_FREEING = frozenset({"free_percpu", "kfree", "kmem_cache_free"})
"""The first function of the kernel in a stack of our module (mm/percpu.c, mm/slub.c); before it are observers."""


def outward(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """A stack that our module took, from the freeing function outwards; all of it where there is none."""
    at = next((n for n, frame in enumerate(frames) if base_name(frame.function) in _FREEING), 0)
    return tuple(frames[at:])


def finding(what: str, frames: Sequence[Frame]) -> Finding:
    """`what` was freed by this stack, innermost first, while a reader that had looked it up was in its RCU section."""
    frames = outward(frames)
    guilty = guilt(frames)
    by = f"{guilty.function or 'an unknown function'}{guilty.where}"
    return Finding(
        oracle=ORACLE,
        kind=KIND,
        title=f"{what} was freed by {by} while a reader was in its RCU section",
        signature=signature(ORACLE, KIND, chain(guilty.function, frames), what),
        function=guilty.function,
        file=guilty.file,
        line=guilty.line,
        frames=frames,
    )
