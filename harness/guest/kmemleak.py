# SPDX-License-Identifier: GPL-2.0-only
"""Kmemleak's protocol: a clean baseline before, two scans after what is to be judged.

mm/kmemleak.c: an object is reported only once it is older than jiffies_min_age (5 s) and two scans found no
pointer to it; "clear" makes everything reported so far no longer reported.

The age is to spare what is about to be linked. Here nothing is scanned but a guest that is quiescent, so our module
shortens it where the kernel has the variable.
"""

from __future__ import annotations

from collections.abc import Set

from harness.core.errors import GuestError
from harness.guest.agent import Agent

KNOB = "/sys/kernel/debug/kmemleak"
SHRINK = "/sys/kernel/slab/*/shrink"
CHURN = "/sys/kernel/debug/kharness/churn"
LEAK_AGE = "/sys/kernel/debug/kharness/leak_age"
MIN_AGE = "jiffies_min_age"
"""The kernel's variable (mm/kmemleak.c)."""
MIN_AGE_MS = 5000
"""Its value from boot."""
SHORT_AGE_MS = 300
MARGIN_MS = 200
SCAN_SECONDS = 60.0


class Refused(GuestError):
    """kmemleak has stopped; `reason` is its answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"kmemleak refused to scan: {reason}", step="look for its messages in the kernel log")
        self.reason = reason


def refusal(agent: Agent) -> str:
    """kmemleak's answer once it is disabled (EPERM of kmemleak_write()); empty while it is on."""
    answer = agent.call("write", check=False, record=False, path=KNOB, data="scan=off")
    return "" if answer["ok"] else str(answer.get("error", "refused"))


def scan(agent: Agent) -> None:
    """One scan; the write returns when it is done. Raises Refused where there is none."""
    answer = agent.call("write", seconds=SCAN_SECONDS, check=False, record=False, path=KNOB, data="scan")
    if not answer["ok"]:
        raise Refused(str(answer.get("error", "refused")))


def shorten(agent: Agent, variables: Set[int]) -> int:
    """Shorten the minimum age, if one of the addresses `variables` has it; returns the age in milliseconds."""
    for at in sorted(variables):
        data = f"{at:#x} {MIN_AGE_MS} {SHORT_AGE_MS}"
        if agent.call("write", check=False, record=False, path=LEAK_AGE, data=data)["ok"]:
            return SHORT_AGE_MS
    return MIN_AGE_MS


def baseline(agent: Agent, age_ms: int) -> None:
    """Scan twice, then clear: objects that boot left unreferenced are no findings of a test."""
    age(agent, age_ms)
    # Stacks of long-lived kthreads keep stale pointers, which would hide leaks.
    agent.call("write", record=False, path=KNOB, data="stack=off")
    scan(agent)
    scan(agent)
    agent.call("write", record=False, path=KNOB, data="clear")


def age(agent: Agent, age_ms: int) -> None:
    """Wait until everything allocated so far is old enough to be reported."""
    agent.call("idle", seconds=30.0, record=False, ms=age_ms + MARGIN_MS)


def report(agent: Agent, age_ms: int) -> str:
    """The report after the protocol: empty and turn over the slab's sheaves, age, scan twice, read.

    The sheaves of SLUB (mm/slub.c, since 6.18) keep stale pointers to objects they handed out, and hide the
    first hundred leaked objects of a size. Shrinking a cache frees the sheaves in its nodes' barns, our module's churn
    overwrites those of each CPU. Raises Refused where kmemleak did not complete its scan: one during which it disables
    itself breaks off and answers as any other.
    """
    agent.call("write", seconds=SCAN_SECONDS, record=False, path=SHRINK, data="1", each=1)
    agent.call("write", seconds=SCAN_SECONDS, record=False, path=CHURN, data="1")
    age(agent, age_ms)
    scan(agent)
    scan(agent)
    text = str(agent.call("read", record=False, path=KNOB)["data"])
    if reason := refusal(agent):
        raise Refused(reason)
    return text
