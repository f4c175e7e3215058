# SPDX-License-Identifier: GPL-2.0-only
"""Percpu objects that are used after they were freed: our module's quarantine (vm/module/poison.c), proved alive."""

from __future__ import annotations

from harness.guest.freed import Quarantine
from harness.guest.guest import Guest
from harness.kbuild.addresses import functions
from harness.oracles import dmesg
from harness.oracles.registry import CANARY, Defect, KernelTarget, Oracle, trigger
from harness.oracles.splat.log import parse_kmsg
from harness.oracles.splat.rules import FREED

ORACLE = "percpu poison"


def poisoned(guest: Guest, target: KernelTarget) -> dict[str, bool]:
    """Freed percpu objects: one is written to, one freed again; a separate task follows a pointer read from a third."""
    wrong = {"kharness_use_freed_percpu": "percpu use-after-free", "kharness_free_percpu_twice": "percpu double free"}
    follows = "kharness_follow_freed_percpu"
    own = [one for one in functions(target.pristine.own) if one.name in (*wrong, follows)]
    quarantine = Quarantine(guest.agent)
    quarantine.arm([(one.start, one.start + one.size) for one in own])
    trigger(guest, "percpu-use-after-free")
    trigger(guest, "percpu-double-free")
    quarantine.drain()
    guest.agent.call("spawn", name="follows", a0="sh", a1="-c", a2=f"echo percpu-follow-freed > {CANARY}")
    guest.agent.call("reap", name="follows", timeout_ms=int(10_000 * guest.agent.scale))
    found = dmesg.findings([record for text in guest.log() for record in parse_kmsg(text)], target.symbols)
    seen = {f.function: f.kind for f in found}
    followed = any(f.function == follows and FREED in f.title for f in found)
    return {ORACLE: followed and all(seen.get(where) == kind for where, kind in wrong.items())}


ORACLES = (Oracle(ORACLE, None, defects=(Defect("freed", (ORACLE,), poisoned),)),)
"""A test arms it (harness.session.poison): then it books evidence of its own."""
