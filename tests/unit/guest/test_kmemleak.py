# SPDX-License-Identifier: GPL-2.0-only
"""Tests of kmemleak's protocol: what is asked in which order, and what is said where it does not look any more."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.guest import kmemleak
from harness.guest.agent import Agent, AgentError


class Knob:
    """Stands for the agent on a kernel whose kmemleak refuses all but so many writes to its file."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.asked: list[str] = []

    def call(self, verb: str, /, *, check: bool = True, **args: Any) -> dict[str, Any]:
        self.asked.append(
            f"{verb} {args.get('path', '')} {args.get('data', args.get('ms', ''))}".replace("  ", " ").strip()
        )
        if verb == "read":
            return {"ok": True, "data": "unreferenced object"}
        if verb == "write" and args["path"] == kmemleak.KNOB:
            self.takes -= 1
            if self.takes < 0:
                if check:
                    raise AgentError(verb, {"error": "Operation not permitted"})
                return {"ok": False, "errno": 1, "error": "Operation not permitted"}
        return {"ok": True}


def test_the_whole_protocol() -> None:
    knob = Knob(3)
    assert kmemleak.report(cast(Agent, knob), 300) == "unreferenced object"
    own = f"write {kmemleak.KNOB}"
    assert knob.asked == [
        f"write {kmemleak.SHRINK} 1",
        f"write {kmemleak.CHURN} 1",
        "idle 500",
        f"{own} scan",
        f"{own} scan",
        f"read {kmemleak.KNOB}",
        f"{own} scan=off",
    ]


@pytest.mark.parametrize("takes", [0, 1, 2])
def test_where_kmemleak_did_not_look_to_the_end_nothing_is_reported(takes: int) -> None:
    with pytest.raises(kmemleak.Refused, match="^kmemleak refused to scan: Operation not permitted$") as error:
        kmemleak.report(cast(Agent, Knob(takes)), 300)
    assert error.value.reason == "Operation not permitted"


def test_a_baseline_that_was_not_scanned_is_none() -> None:
    with pytest.raises(kmemleak.Refused):
        kmemleak.baseline(cast(Agent, Knob(1)), 300)
    kmemleak.baseline(cast(Agent, Knob(4)), 300)


@pytest.mark.parametrize(("takes", "answer"), [(0, "Operation not permitted"), (1, "")])
def test_whether_it_is_on(takes: int, answer: str) -> None:
    assert kmemleak.refusal(cast(Agent, Knob(takes))) == answer


@pytest.mark.parametrize(
    ("variables", "right", "asked"),
    [({0xFFFF8000}, 0xFFFF8000, ["0xffff8000"]), ({1, 2}, 2, ["0x1", "0x2"]), ({1}, 2, ["0x1"]), (set(), 2, [])],
)
def test_the_age_is_shortened_where_the_kernel_has_the_variable(
    variables: set[int], right: int, asked: list[str]
) -> None:
    written: list[str] = []

    class Module:
        def call(self, verb: str, /, *, path: str, data: str, **args: Any) -> dict[str, Any]:
            assert (verb, path) == ("write", kmemleak.LEAK_AGE)
            written.append(data)
            return {"ok": int(data.partition(" ")[0], 16) == right, "error": "No such device or address"}

    assert kmemleak.shorten(cast(Agent, Module()), variables) == (300 if right in variables else 5000)
    assert written == [f"{at} 5000 300" for at in asked]
