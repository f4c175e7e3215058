# SPDX-License-Identifier: GPL-2.0-only
"""Owns the fixtures of a kernel's tests: what they may ask for, made on the guest that suite.plugin restores."""

from __future__ import annotations

import pytest

from harness.faults.optional import beside, matcher
from harness.guest.guest import Guest
from harness.model.state import Features
from harness.plan import FaultPlan, Scheduler, Selftest
from harness.suite.bench import Bench
from harness.suite.dsq import Dsqs
from harness.suite.percpu import PercpuFaults
from harness.suite.poison import PercpuPoison
from harness.suite.policy import Policy
from harness.suite.reader import HeldReader
from harness.suite.search.guest import Optional
from harness.suite.search.searching import Searching
from harness.suite.session import Ready, Workshop
from harness.suite.sweep import Faults
from harness.suite.trials import Trials


@pytest.fixture
def user_scheduler(request: pytest.FixtureRequest, ready: Ready) -> Scheduler:
    """One of the user's BPF schedulers (--bpf), as it is in this target's guest."""
    return next(found for found in ready.target.schedulers if found.name == request.param)


@pytest.fixture
def fault_plan(request: pytest.FixtureRequest, workshop: Workshop) -> FaultPlan:
    """One entry of the user's fault plan (--faults)."""
    return next(found for found in workshop.session.faults if found.name == request.param)


@pytest.fixture
def selftest(request: pytest.FixtureRequest, ready: Ready) -> Selftest:
    """One of the selftests of this target's tree."""
    return next(found for found in ready.target.selftests if found.name == request.param)


@pytest.fixture
def guest(bench: Bench) -> Guest:
    """The pristine guest itself."""
    return bench.guest


@pytest.fixture
def dsq(bench: Bench) -> Dsqs:
    """DSQ operations, each compared with the model."""
    return Dsqs(bench)


@pytest.fixture
def features(ready: Ready) -> Features:
    """What this kernel's DSQs have; see harness.suite.features.need()."""
    return ready.features


@pytest.fixture
def optional(request: pytest.FixtureRequest, ready: Ready) -> Optional:
    """Why an operation of this test may do without an allocation, if it may (the nearest optional.yaml)."""
    return matcher(beside(request.path), ready.kernel.arch, ready.kernel.release)


@pytest.fixture
def faults(bench: Bench, optional: Optional) -> Faults:
    """Fault injection, with every site observed."""
    return Faults(bench, optional)


@pytest.fixture
def policy(bench: Bench, faults: Faults, optional: Optional) -> Policy:
    """Operations under a fault that is decided by number, or drawn from a seed."""
    return Policy(bench, faults, optional)


@pytest.fixture
def trials(bench: Bench, faults: Faults) -> Trials:
    """Operations one at a time, each under a fault of its own."""
    return Trials(bench, faults)


@pytest.fixture
def percpu_faults(bench: Bench, faults: Faults) -> PercpuFaults:
    """The k-th alloc_percpu() of a function fails."""
    return PercpuFaults(bench, faults)


@pytest.fixture
def percpu_poison(bench: Bench, percpu_faults: PercpuFaults) -> PercpuPoison:
    """Percpu data of DSQs is poisoned when it is freed, and looked at."""
    return PercpuPoison(bench, percpu_faults)


@pytest.fixture
def held_reader(bench: Bench, dsq: Dsqs) -> HeldReader:
    """A reader that stays inside its RCU section while its DSQ is destroyed."""
    return HeldReader(bench, dsq)


@pytest.fixture
def search(bench: Bench, workshop: Workshop, optional: Optional) -> Searching:
    """A search for a sequence of operations that the model disagrees with."""
    return Searching(bench, workshop, optional)
