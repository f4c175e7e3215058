# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the suite's tests: operations on DSQs, a reader that stays in its RCU section, the search."""

from __future__ import annotations

import pytest

from harness.session.context import TestContext
from harness.session.fixtures import Optional
from harness.session.session import TestSession
from sched_ext.dsq import Dsqs
from sched_ext.reader import HeldReader
from sched_ext.search.searching import Searching


@pytest.fixture
def dsq(context: TestContext) -> Dsqs:
    """DSQ operations, each compared with the model."""
    return Dsqs(context)


@pytest.fixture
def held_reader(context: TestContext, dsq: Dsqs) -> HeldReader:
    """A reader that stays inside its RCU section while its DSQ is destroyed."""
    return HeldReader(context, dsq)


@pytest.fixture
def search(context: TestContext, test_session: TestSession, optional: Optional) -> Searching:
    """A search for a sequence of operations that the model disagrees with."""
    return Searching(context, test_session, optional)
