# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures of a kernel's tests: what they may ask for, made on the guest that harness.session.plugin restores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.core.plan import FaultPlan, Scheduler, Selftest
from harness.core.records import FaultSite
from harness.faults.optional import beside, matcher
from harness.faults.percpu import PercpuFaults
from harness.faults.policy import Policy
from harness.faults.sweep import Faults
from harness.faults.trials import Trials
from harness.guest.guest import Guest
from harness.session.context import TestContext
from harness.session.poison import PercpuPoison
from harness.session.session import Target, TestSession

Optional = Callable[[FaultSite], str]
"""Why an operation may do without an allocation, empty where it may not."""


@pytest.fixture
def user_scheduler(request: pytest.FixtureRequest, target: Target) -> Scheduler:
    """One of the user's BPF schedulers (--bpf), as it is in this target's guest."""
    return next(found for found in target.saved.schedulers if found.name == request.param)


@pytest.fixture
def fault_plan(request: pytest.FixtureRequest, test_session: TestSession) -> FaultPlan:
    """One entry of the user's fault plan (--faults)."""
    return next(found for found in test_session.session.faults if found.name == request.param)


@pytest.fixture
def selftest(request: pytest.FixtureRequest, target: Target) -> Selftest:
    """One of the selftests of this target's tree."""
    return next(found for found in target.saved.selftests if found.name == request.param)


@pytest.fixture
def guest(context: TestContext) -> Guest:
    """The pristine guest itself."""
    return context.guest


@pytest.fixture
def features(target: Target) -> Any:
    """The features of this kernel; see harness.suite.needs.need()."""
    return target.features


@pytest.fixture
def optional(request: pytest.FixtureRequest, target: Target) -> Optional:
    """Why an operation of this test may do without an allocation, if it may (the nearest optional.yaml)."""
    return matcher(beside(request.path), target.kernel.arch, target.kernel.release)


@pytest.fixture
def faults(context: TestContext, optional: Optional) -> Faults:
    """Fault injection, with every site observed."""
    return Faults(context, optional)


@pytest.fixture
def policy(context: TestContext, faults: Faults, optional: Optional) -> Policy:
    """Operations under a fault that is chosen by number, or from a seed."""
    return Policy(context, faults, optional)


@pytest.fixture
def trials(context: TestContext, faults: Faults) -> Trials:
    """Operations one at a time, each under a fault of its own."""
    return Trials(context, faults)


@pytest.fixture
def percpu_faults(context: TestContext, faults: Faults) -> PercpuFaults:
    """Lets the k-th alloc_percpu() of a function fail."""
    return PercpuFaults(context, faults)


@pytest.fixture
def percpu_poison(context: TestContext, percpu_faults: PercpuFaults) -> PercpuPoison:
    """Poisons percpu objects when they are freed, and examines them."""
    return PercpuPoison(context, percpu_faults)
