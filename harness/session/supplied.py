# SPDX-License-Identifier: GPL-2.0-only
"""Parameters of tests besides their targets: the user's files, and the selftests of the tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from harness.core.plan import SELFTESTS, SELFTESTS_SUITE, BpfRequest, FaultPlan, Selftest, Session, Survey
from harness.session.places import Spot
from harness.session.session import Target

Thing = BpfRequest | FaultPlan | Selftest


def _selftests(source: Survey | Session) -> tuple[Selftest, ...]:
    """The selftests of any target; before they are built one stands for all."""
    if isinstance(source, Survey):
        return (Selftest("each"),)
    return tuple(dict.fromkeys(test for target in source.targets for test in target.selftests))


SUPPLIED: dict[str, Callable[[Survey | Session], tuple[Thing, ...]]] = {
    "user_scheduler": lambda source: source.bpf,
    "fault_plan": lambda source: source.faults,
    "selftest": _selftests,
}
"""Fixtures whose tests run once for each of these values, by its name; without any they are not part of a run."""

SELFTEST = re.compile(rf"{SELFTESTS_SUITE}/\w+\.py::test_selftest\[(.+)\]")
"""The test that runs a selftest, once its target is left out of its id."""


class Calls(Protocol):
    """The part of pytest's CallSpec2 that is used: the parameters of one test."""

    params: dict[str, Any]


def supplied(source: Survey | Session | None, fixture: str) -> tuple[Thing, ...]:
    """The values of a fixture; none without a run."""
    return SUPPLIED[fixture](source) if source is not None else ()


def has_selftest(target: Target | None, calls: Calls | None) -> bool:
    """Whether a test's target has the selftest that it would run: those of base and patched may differ."""
    name = calls.params.get("selftest") if calls is not None else None
    return target is None or name is None or any(test.name == name for test in target.saved.selftests)


def canonical(nodeid: str, target: Target | Spot) -> str:
    """The test's id without the target parameter, so that base and patched compare; a selftest has its own name."""
    name = nodeid.replace(f"[{target.name}]", "").replace(f"[{target.name}-", "[").replace(f"-{target.name}]", "]")
    own = SELFTEST.fullmatch(name)
    return f"{SELFTESTS}::{own[1]}" if own else name
