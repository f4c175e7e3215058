# SPDX-License-Identifier: GPL-2.0-only
"""Owns what tests are multiplied by beside their targets: what the user gave, and the selftests of the tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from harness.plan import SELFTESTS, SELFTESTS_SUITE, BpfRequest, FaultPlan, Selftest, Session, Survey
from harness.suite.session import Ready

Thing = BpfRequest | FaultPlan | Selftest


def _selftests(told: Survey | Session) -> tuple[Selftest, ...]:
    """Those of any target; before they are built one stands for all."""
    if isinstance(told, Survey):
        return (Selftest("each"),)
    return tuple(dict.fromkeys(test for target in told.targets for test in target.selftests))


SUPPLIED: dict[str, Callable[[Survey | Session], tuple[Thing, ...]]] = {
    "user_scheduler": lambda told: told.bpf,
    "fault_plan": lambda told: told.faults,
    "selftest": _selftests,
}
"""Fixtures whose tests run once for each thing, by its name; without any they are no part of a run."""

SELFTEST = re.compile(rf"{SELFTESTS_SUITE}/\w+\.py::test_selftest\[(.+)\]")
"""The test that runs a selftest, once its target is left out of its id."""


class Calls(Protocol):
    """What of pytest's CallSpec2 is looked at: the parameters of one test."""

    params: dict[str, Any]


def supplied(told: Survey | Session | None, fixture: str) -> tuple[Thing, ...]:
    """What there is for a fixture; nothing where no run was told of."""
    return SUPPLIED[fixture](told) if told is not None else ()


def has_selftest(ready: Ready | None, calls: Calls | None) -> bool:
    """Whether a test's target has the selftest that it would run: those of base and patched may differ."""
    name = calls.params.get("selftest") if calls is not None else None
    return ready is None or name is None or any(test.name == name for test in ready.target.selftests)


def canonical(nodeid: str, ready: Ready) -> str:
    """The test's id without the target parameter, so that base and patched compare; a selftest has its own name."""
    name = nodeid.replace(f"[{ready.name}]", "").replace(f"[{ready.name}-", "[").replace(f"-{ready.name}]", "]")
    own = SELFTEST.fullmatch(name)
    return f"{SELFTESTS}::{own[1]}" if own else name
