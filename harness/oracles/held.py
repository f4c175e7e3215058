# SPDX-License-Identifier: GPL-2.0-only
"""Owns the oracle of what is read: memory that was freed while a reader held it becomes a finding with who freed it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.oracles.blame import base_name
from harness.oracles.frames import chain, guilt, signature
from harness.records import Finding, Frame

ORACLE = "held reader"
KIND = "freed too early"

_FREEING = frozenset({"free_percpu", "kfree", "kmem_cache_free"})
"""Where the stack that our module takes comes from the kernel (mm/percpu.c, mm/slub.c); before it is what watches."""


def outward(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """A stack that our module took, from the function that frees outwards; all of it where there is none."""
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
