# SPDX-License-Identifier: GPL-2.0-only
"""A move of a search in words, for reports and replays."""

from __future__ import annotations

from harness.core.records import Operation
from sched_ext.model import ids
from sched_ext.search.cases import VERB, decode


def words(one: Operation) -> str:
    """A move as people read it: ``create 0x7 node -1``."""
    args = one.args
    if one.verb == VERB:
        return f"{VERB}: {decode(args)}"
    parts: list[str] = [one.verb.replace("_", " ")]
    for key, value in args.items():
        match key:
            case "id":
                parts.append(ids.id_name(int(value)))
            case "first":
                parts.append(f"{key} {ids.id_name(int(value))}")
            case "creates":
                parts.append(f"[{', '.join(f'({ids.id_name(int(i))}, {n})' for i, n in value)}]")
            case "vtimes":
                parts.append(f"by vtime [{', '.join(f'{int(v):#x}' for v in value)}]" if value else "as a FIFO")
            case _:
                parts.append(f"{key} {value}")
    if one.fault:
        where = f" in {one.fault.task}" if one.fault.task != "self" else ""
        parts.append(f"with allocation {one.fault.nth}{where} failing")
    return " ".join(parts)
