# SPDX-License-Identifier: GPL-2.0-only
"""How much of a kernel's output becomes part of a finding: it may print any amount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from harness.core.records import Finding
from harness.core.words import plural
from harness.oracles.splat.frames import signature

LINE = 4096
"""Characters of a line of the log that are read: twice as many as printk() writes (PRINTK_MESSAGE_MAX,
kernel/printk/internal.h)."""

END = 512
"""The last ones of these, where more were printed."""

TITLE = 500
"""Characters of a finding's title."""

FRAMES = 200
"""Frames of one stack; the kernel's own stacks fit some hundred."""

STACKS = 32
"""Further stacks that a finding shows."""

LINES = 400
"""Lines of one report that are kept."""

FINDINGS = 200
"""Findings of one oracle in one text."""

MORE = "more findings"
"""The kind of the finding that counts those which are not listed."""


def line(text: str) -> str:
    """A line, whose middle is left out where it has more characters than LINE."""
    if len(text) <= LINE:
        return text
    return f"{text[: LINE - END]} [{len(text) - LINE} characters are left out here] {text[-END:]}"


def title(text: str) -> str:
    """A title of at most TITLE characters."""
    return text if len(text) <= TITLE else f"{text[:TITLE]}... ({len(text) - TITLE} more characters)"


def few(found: Iterable[Finding]) -> list[Finding]:
    """The first FINDINGS of them; the rest is counted by one more finding for each oracle, separately for expected and
    unexpected ones, so that unexpected ones still count."""
    every = list(found)
    out, rest = every[:FINDINGS], every[FINDINGS:]
    left: dict[tuple[str, bool], list[Finding]] = {}
    for finding in rest:
        left.setdefault((finding.oracle, finding.expected), []).append(finding)
    for (oracle, expected), group in left.items():
        kinds = ", ".join(f"{times} {kind}" for kind, times in Counter(one.kind for one in group).most_common(9))
        what = f"and {plural(len(group), 'more finding')} beyond the first {FINDINGS}: {kinds}"
        count = sum(one.count for one in group)
        out.append(Finding(oracle, MORE, title(what), signature(oracle, MORE, ()), expected=expected, count=count))
    return out
