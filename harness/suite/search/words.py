# SPDX-License-Identifier: GPL-2.0-only
"""Owns a move of a search in words, for reports and replays."""

from __future__ import annotations

from harness.model import ids
from harness.records import Operation
from harness.suite.search.cases import VERB, decode


def words(one: Operation) -> str:
    """A move as people read it: ``create 0x7 node -1``."""
    args = one.args
    if one.verb == VERB:
        return f"{VERB}: {decode(args)}"
    told: list[str] = [one.verb.replace("_", " ")]
    for key, value in args.items():
        match key:
            case "id":
                told.append(ids.id_name(int(value)))
            case "first":
                told.append(f"{key} {ids.id_name(int(value))}")
            case "creates":
                told.append(f"[{', '.join(f'({ids.id_name(int(i))}, {n})' for i, n in value)}]")
            case "vtimes":
                told.append(f"by vtime [{', '.join(f'{int(v):#x}' for v in value)}]" if value else "as a FIFO")
            case _:
                told.append(f"{key} {value}")
    if one.fault:
        where = f" in {one.fault.task}" if one.fault.task != "self" else ""
        told.append(f"with allocation {one.fault.nth}{where} failing")
    return " ".join(told)
