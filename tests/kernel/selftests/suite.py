# SPDX-License-Identifier: GPL-2.0-only
"""The sched_ext selftests of the tree under test, as a suite: the same kernel and oracles as the sched_ext suite."""

from __future__ import annotations

from dataclasses import replace

from sched_ext.suite import SUITE as SCHED_EXT

from selftests.build import SELFTESTS

SUITE = replace(SCHED_EXT, name="selftests", selftests=SELFTESTS, plan_tests="", user_tests="", struct_ops=None)
